//! A shared mapping that this crate owns: what run mappings, guest memory and
//! the ioctl backend's regions are made of.

use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use libc::{c_void, off_t};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::{Errno, Result};

/// Memory that is mapped shared, readable and writable, until it is dropped.
///
/// The kernel or a guest may write it at any time, so nothing makes a
/// reference into it: it is read and written by copying.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: NonZeroUsize,
}

// SAFETY: the mapping belongs to no thread, and this is its only owner.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference it can only be read.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset` on.
    pub fn of_file(fd: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self> {
        let len = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        // The kernel takes the offset as unsigned and checks it.
        let offset = offset as off_t;
        // SAFETY: no address is given, so no memory in use is replaced.
        let start = unsafe {
            mmap(
                None,
                len,
                Self::PROTECTION,
                MapFlags::MAP_SHARED,
                fd,
                offset,
            )
        }?;
        Ok(Self {
            start: start.cast(),
            len,
        })
    }

    /// Maps `len` bytes of new memory, which is zero.
    pub fn anonymous(len: usize) -> Result<Self> {
        let len = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: no address is given, so no memory in use is replaced.
        let start = unsafe { mmap_anonymous(None, len, Self::PROTECTION, flags) }?;
        Ok(Self {
            start: start.cast(),
            len,
        })
    }

    const PROTECTION: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

    /// Its first byte. It is aligned to a page.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Its length in bytes, which is not 0.
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// Copies out of the mapping; `EFAULT` if the range is not within it.
    pub fn read(&self, offset: usize, data: &mut [u8]) -> Result<()> {
        self.check(offset, data.len())?;
        // SAFETY: the range lies within the mapping, and `data` cannot, for
        // there are no references into it.
        unsafe {
            self.as_ptr()
                .add(offset)
                .copy_to_nonoverlapping(data.as_mut_ptr(), data.len());
        }
        Ok(())
    }

    /// Copies into the mapping; `EFAULT` if the range is not within it.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Result<()> {
        self.check(offset, data.len())?;
        // SAFETY: the range lies within the mapping, and `data` cannot, for
        // there are no references into it.
        unsafe {
            self.as_ptr()
                .add(offset)
                .copy_from_nonoverlapping(data.as_ptr(), data.len());
        }
        Ok(())
    }

    fn check(&self, offset: usize, len: usize) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    /// Gives the memory back, but keeps its addresses from ever being used
    /// again.
    ///
    /// A virtual machine may still have a slot over these addresses: one that
    /// another interface has set, or one of a machine whose file descriptor is
    /// gone while its vcpus are not. Were they unmapped, whatever this process
    /// maps next could land there, and the guest would write into it. Behind a
    /// reservation that allows no access it finds nothing, and faults.
    pub fn retire(self) {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED | MapFlags::MAP_NORESERVE;
        let address = self.start.addr();
        // SAFETY: only this mapping is replaced, which nothing refers to: it is
        // consumed here. If that fails it stays as it is, which is safe too.
        let _ = unsafe { mmap_anonymous(Some(address), self.len, ProtFlags::PROT_NONE, flags) };
        std::mem::forget(self);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing refers to it any
        // more.
        let result = unsafe { munmap(self.start.cast::<c_void>(), self.len()) };
        debug_assert_eq!(result, Ok(()));
    }
}
