//! Guest memory as the program sees it.

use std::os::fd::BorrowedFd;

use crate::Result;
use crate::mapping::Mapping;

/// Memory that a guest can share: an owned mapping, unmapped on drop.
///
/// The guest may change it at any time, so it is read and written by copying.
#[derive(Debug)]
pub struct GuestMemory(Mapping);

impl GuestMemory {
    /// Allocates `size` bytes, which are zero, for
    /// [`kvm_set_user_memory_region`](crate::Kvm::kvm_set_user_memory_region) or
    /// [`kvm_map_range`](crate::ranges::RangeMemory::kvm_map_range).
    ///
    /// Errors: `EINVAL` for 0; `ENOMEM`.
    pub fn anonymous(size: usize) -> Result<Self> {
        Mapping::anonymous(size).map(Self)
    }

    /// Maps `size` bytes of `fd` from `offset` on.
    pub(crate) fn of_file(fd: BorrowedFd<'_>, offset: u64, size: usize) -> Result<Self> {
        Mapping::of_file(fd, offset, size).map(Self)
    }

    /// Its first byte; aligned to a page.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// Its size in bytes, which is not 0.
    #[allow(clippy::len_without_is_empty)] // it never is
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Copies the bytes from `offset` on into `data`.
    ///
    /// Errors: `EFAULT` if they are not all within the memory; nothing is
    /// copied then.
    pub fn read(&self, offset: usize, data: &mut [u8]) -> Result<()> {
        self.0.read(offset, data)
    }

    /// Copies `data` to the bytes from `offset` on.
    ///
    /// Errors: `EFAULT` if they are not all within the memory; nothing is
    /// copied then.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Result<()> {
        self.0.write(offset, data)
    }
}
