//! The conversion between Rust and registers, for each argument and each result of a
//! system call.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Errno, Result};

/// A file descriptor as an argument. The kernel reads the lower half of the register
/// only, so the widening can be the cheaper one.
#[inline(always)]
pub fn fd(fd: BorrowedFd<'_>) -> usize {
    fd.as_raw_fd() as u32 as usize
}

/// A structure that the kernel reads.
#[inline(always)]
pub fn input<T>(value: *const T) -> usize {
    value.expose_provenance()
}

/// A structure that the kernel writes.
#[inline(always)]
pub fn output<T>(value: *mut T) -> usize {
    value.expose_provenance()
}

/// The result of a call without a value.
#[inline(always)]
pub fn done(answer: isize) -> Result<()> {
    number(answer).map(|_| ())
}

/// The result of a call that returns a number.
#[inline(always)]
pub fn number(answer: isize) -> Result<usize> {
    // No call of this interface returns a number that is negative as a word.
    if answer < 0 {
        return Err(errno(answer));
    }
    Ok(answer as usize)
}

/// The result of a call that returns a file descriptor.
///
/// # Safety
///
/// If `answer` is a file descriptor, nothing else owns it.
#[inline(always)]
pub unsafe fn descriptor(answer: isize) -> Result<OwnedFd> {
    let fd = number(answer)?;
    // SAFETY: it is not negative, and the caller says that nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The error in a result: the negated number.
#[cold]
fn errno(answer: isize) -> Errno {
    Errno::from_raw(-(answer as i32))
}
