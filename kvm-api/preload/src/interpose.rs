//! What stands in the place of the C library's `ioctl`.

use libc::{c_int, c_ulong};

/// Has the dynamic linker call [`start`](crate::start) before the program begins.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = crate::start;

/// `ioctl`, but for the dots of its declaration: what is passed for them is in
/// the same register.
///
/// # Safety
///
/// That of the request.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, arg: c_ulong) -> c_int {
    // SAFETY: the caller vouches for the request.
    unsafe { crate::hand_over(fd, request, arg) }
}
