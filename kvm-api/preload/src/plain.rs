//! The ioctl, as the C library makes it.

use kvm_sys::instruction::syscall3;
use libc::{c_int, c_long, c_ulong};

/// Makes an ioctl.
///
/// # Safety
///
/// As for the request.
pub(crate) unsafe fn ioctl(fd: usize, request: u32, arg: c_ulong) -> c_int {
    let (request, arg) = (request as usize, arg as usize);
    // SAFETY: the caller vouches for the request.
    returned(unsafe { syscall3(libc::SYS_ioctl, fd, request, arg) })
}

/// The result of a function of the C library, where the result of an ioctl is an `int`.
pub(crate) fn returned(answer: isize) -> c_int {
    returned_long(answer) as c_int
}

/// The result of a function of the C library.
#[inline(always)]
pub(crate) fn returned_long(answer: isize) -> c_long {
    // An address that the kernel returns may be negative.
    if (-4095..0).contains(&answer) {
        // SAFETY: it belongs to this thread.
        unsafe { *libc::__errno_location() = -answer as c_int };
        return -1;
    }
    answer as c_long
}
