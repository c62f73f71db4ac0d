//! The function in the place of `ioctl` of the C library.

use libc::{c_int, c_ulong};

/// Has the dynamic linker call [`start`](crate::start) before the program begins.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = crate::start;

/// `ioctl` without the variable arguments of its declaration: the third argument is in
/// the same register.
///
/// # Safety
///
/// As for the request.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, arg: c_ulong) -> c_int {
    // SAFETY: the caller vouches for the request.
    unsafe { crate::hand_over(fd, request, arg) }
}
