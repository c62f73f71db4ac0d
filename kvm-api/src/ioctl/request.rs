//! The functions through which this backend enters the kernel.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_ulong};

use crate::{Errno, Result};

/// Makes a request whose argument is a number.
///
/// # Safety
///
/// The request must be sound with the argument.
#[inline(always)]
pub unsafe fn request(fd: BorrowedFd<'_>, request: c_ulong, argument: c_ulong) -> Result<c_int> {
    // SAFETY: the caller answers for the effect of the request.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) })
}

/// Makes a request whose argument is a pointer to a structure.
///
/// # Safety
///
/// The structure has to be the request's, and writable if the kernel writes it.
#[inline(always)]
pub unsafe fn request_pointer<T>(
    fd: BorrowedFd<'_>,
    request: c_ulong,
    argument: *const T,
) -> Result<c_int> {
    // SAFETY: the caller answers for the structure.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) })
}

/// Makes a request that returns a new file descriptor.
///
/// # Safety
///
/// As for [`request`]. A result that is no error is a file descriptor that nothing else
/// owns.
#[inline(always)]
pub unsafe fn request_fd(
    fd: BorrowedFd<'_>,
    number: c_ulong,
    argument: c_ulong,
) -> Result<OwnedFd> {
    // SAFETY: the caller answers for the effect of the request.
    let fd = unsafe { request(fd, number, argument) }?;
    // SAFETY: the caller says that it is new.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
