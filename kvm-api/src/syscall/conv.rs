//! What passes between Rust and the registers: every argument and every answer
//! of a system call goes through here.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Errno, Result};

/// A file descriptor as an argument. The kernel looks at the lower half of the
/// register only, so the cheaper widening will do.
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

/// The answer of a call that says no more than that it is done.
#[inline(always)]
pub fn done(answer: isize) -> Result<()> {
    number(answer).map(|_| ())
}

/// The answer of a call that gives a number.
#[inline(always)]
pub fn number(answer: isize) -> Result<usize> {
    // No call of this interface gives a number that is negative as a word.
    if answer < 0 {
        return Err(errno(answer));
    }
    Ok(answer as usize)
}

/// The answer of a call that gives a file descriptor.
///
/// # Safety
///
/// If `answer` is a file descriptor, nothing else owns it.
#[inline(always)]
pub unsafe fn descriptor(answer: isize) -> Result<OwnedFd> {
    let fd = number(answer)?;
    // SAFETY: it is not negative, and the caller says that it is its own.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The error in an answer: its number, negated.
#[cold]
fn errno(answer: isize) -> Errno {
    Errno::from_raw(-(answer as i32))
}
