//! Memory that this process shares with a guest, or with KVM.

use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, with_exposed_provenance_mut};

use libc::{c_void, off_t};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::{Errno, Result};

/// Memory that is mapped shared, readable and writable, until it is dropped.
///
/// A guest or the kernel may write it at any time. So there are no references into it:
/// programs read and write it by copying.
#[derive(Debug)]
pub struct GuestMemory {
    start: NonNull<u8>,
    len: NonZeroUsize,
}

// SAFETY: the memory belongs to no thread, and this is its only owner.
unsafe impl Send for GuestMemory {}
// SAFETY: through a shared reference it can only be read.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Allocates `len` bytes, which are zero, for
    /// [`kvm_set_user_memory_region`](crate::Kvm::kvm_set_user_memory_region) or
    /// [`kvm_map_range`](crate::ranges::RangeMemory::kvm_map_range).
    ///
    /// # Errors
    ///
    /// `EINVAL` for a length of 0; `ENOMEM`.
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

    /// Maps `len` bytes of `fd` from `offset` on.
    pub(crate) fn of_file(fd: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self> {
        let len = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        // The kernel takes the offset as unsigned and checks it.
        let offset = offset as off_t;
        let flags = MapFlags::MAP_SHARED;
        // SAFETY: no address is given, so no memory in use is replaced.
        let start = unsafe { mmap(None, len, Self::PROTECTION, flags, fd, offset) }?;
        Ok(Self {
            start: start.cast(),
            len,
        })
    }

    /// Takes over a mapping that a call of KVM has made.
    ///
    /// # Safety
    ///
    /// The mapping has `len` bytes at `address`, is readable and writable, and nothing
    /// else refers to it.
    pub(crate) unsafe fn of_mapping(address: usize, len: usize) -> Self {
        Self {
            start: NonNull::new(with_exposed_provenance_mut(address)).expect("it is mapped"),
            len: NonZeroUsize::new(len).expect("a mapping has bytes"),
        }
    }

    const PROTECTION: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

    /// The first byte, which is aligned to a page.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The length in bytes, which is not 0.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // it never is
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// Copies the bytes from `offset` on into `data`.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the memory does not have all of these bytes. Nothing is copied then.
    pub fn read(&self, offset: usize, data: &mut [u8]) -> Result<()> {
        self.check(offset, data.len())?;
        // SAFETY: the range lies within the mapping. `data` does not, because there are
        // no references into it.
        unsafe {
            self.as_ptr()
                .add(offset)
                .copy_to_nonoverlapping(data.as_mut_ptr(), data.len());
        }
        Ok(())
    }

    /// Copies `data` to the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the memory does not have all of these bytes. Nothing is copied then.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Result<()> {
        self.check(offset, data.len())?;
        // SAFETY: the range lies within the mapping. `data` does not, because there are
        // no references into it.
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

    /// Frees the memory, but keeps its addresses from being used again.
    ///
    /// A VM may still have a slot over these addresses: one that another interface has
    /// set, or a slot of a VM whose vCPUs are open although its descriptor is closed. If
    /// the addresses were free, this process could map something else there, and the
    /// guest would write into it. Behind a reservation that allows no access, the guest
    /// faults.
    pub(crate) fn retire(self) {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED | MapFlags::MAP_NORESERVE;
        let address = self.start.addr();
        // SAFETY: only this mapping is replaced, which is consumed here, so that nothing
        // refers to it. If that fails, the mapping stays as it is, which is safe too.
        let _ = unsafe { mmap_anonymous(Some(address), self.len, ProtFlags::PROT_NONE, flags) };
        std::mem::forget(self);
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing refers to it any
        // more.
        let result = unsafe { munmap(self.start.cast::<c_void>(), self.len()) };
        debug_assert_eq!(result, Ok(()));
    }
}
