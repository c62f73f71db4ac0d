//! The files that are open, by the number of their vcpu's file descriptor.
//!
//! A look-up is two loads. Nothing but the number is compared: whether it is
//! still that vcpu's is for [`Table::forget`] to see to.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use super::file::File;
use crate::{Errno, Result};

/// What is not open.
const NONE: RawFd = -1;
/// How many vcpus a part of the table is for.
const PART: usize = 256;
/// How many parts there are: enough for what `/proc/sys/fs/nr_open` begins with.
const PARTS: usize = 4096;

type Slot = [AtomicI32; File::ALL.len()];

pub(super) struct Table {
    parts: Box<[OnceLock<Box<[Slot; PART]>>]>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            parts: (0..PARTS).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The file of `vcpu`, opened if it is not yet.
    ///
    /// Errors: those of [`File::open`]; `EMFILE` for a number beyond the table.
    #[inline(always)]
    pub(super) fn file<'a>(&'a self, vcpu: BorrowedFd<'a>, file: File) -> Result<BorrowedFd<'a>> {
        let number = vcpu.as_raw_fd() as usize;
        if let Some(part) = self.parts.get(number / PART)
            && let Some(part) = part.get()
        {
            let fd = part[number % PART][file as usize].load(Ordering::Acquire);
            if fd != NONE {
                // SAFETY: the table has opened it, and closes it only when it
                // goes itself, or when the vcpu is known to be closed, which it
                // is not as long as it is borrowed.
                return Ok(unsafe { BorrowedFd::borrow_raw(fd) });
            }
        }
        self.open(vcpu, file)
    }

    #[cold]
    fn open<'a>(&'a self, vcpu: BorrowedFd<'a>, file: File) -> Result<BorrowedFd<'a>> {
        let opened = file.open(vcpu)?;
        let number = vcpu.as_raw_fd() as usize;
        let part = self.parts.get(number / PART).ok_or(Errno::EMFILE)?;
        let part = part.get_or_init(|| {
            Box::new([const { [const { AtomicI32::new(NONE) }; File::ALL.len()] }; PART])
        });
        let place = &part[number % PART][file as usize];
        let fd = opened.as_raw_fd();
        let fd = match place.compare_exchange(NONE, fd, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => opened.into_raw_fd(),
            // Another thread was faster: its file is kept, this one closed.
            Err(theirs) => theirs,
        };
        // SAFETY: as in `file`.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Closes what is open of the vcpu that had this number.
    ///
    /// # Safety
    ///
    /// No [`file`](Self::file) of that number is in use.
    pub(super) unsafe fn forget(&self, number: RawFd) {
        let number = number as usize;
        if let Some(part) = self.parts.get(number / PART)
            && let Some(part) = part.get()
        {
            close(&part[number % PART]);
        }
    }
}

fn close(slot: &Slot) {
    for place in slot {
        let fd = place.swap(NONE, Ordering::AcqRel);
        if fd != NONE {
            // SAFETY: the table owned it, and has it no more.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for part in self.parts.iter().filter_map(OnceLock::get) {
            part.iter().for_each(close);
        }
    }
}
