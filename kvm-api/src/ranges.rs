//! The form of ranges: a program names guest memory by addresses, without slot numbers.
//!
//! A second mapping of the same memory of the host is an alias. Memory that the kernel
//! allocates belongs to the proposal, so [`Kvm`](crate::Kvm) makes it.

use std::os::fd::AsFd;

use kvm_sys::*;

use crate::syscall::Syscall;
use crate::syscall::conv::{done, fd, input, output};
use crate::{Result, VmMemory};
use kvm_sys::instruction::{syscall3, syscall4, syscall5};

/// The memory of a VM, by ranges of guest physical addresses.
#[derive(Clone, Copy, Debug)]
pub struct RangeMemory<F> {
    vm: F,
}

impl<F: AsFd> RangeMemory<F> {
    /// Names the VM. Every call checks the file descriptor.
    #[inline]
    pub fn new(_: Syscall, vm: F) -> Self {
        Self { vm }
    }

    /// Maps `size` bytes of the memory of the caller, at `userspace_addr`, to the guest
    /// at `guest_phys_addr`. The mapping replaces older ones, as mmap(2) with MAP_FIXED
    /// does.
    ///
    /// `flags` are KVM_MEM_LOG_DIRTY_PAGES and KVM_MEM_READONLY. A second call for the
    /// same memory changes the flags. The addresses and the size are multiples of the
    /// page size. A mapping that is replaced in part keeps the rest, with its dirty log.
    ///
    /// Replaces KVM_SET_USER_MEMORY_REGION, without slot numbers. It follows from the
    /// "region of the host process address" of the answer.
    ///
    /// # Errors
    ///
    /// `EINVAL` for flags, addresses or a size that KVM does not take, 0 included;
    /// `EBUSY` when a slot of another interface covers a part of the range; `ENOSPC`
    /// when no slot is left. The call has changed nothing after an error.
    ///
    /// # Safety
    ///
    /// The guest, and KVM on its behalf, reads and writes the memory until it is
    /// unmapped from the guest. Until then the memory has to stay mapped in the process,
    /// and Rust must not own any of it. To close the VM is not enough.
    #[inline]
    pub unsafe fn kvm_map_range(
        &self,
        guest_phys_addr: u64,
        size: u64,
        userspace_addr: u64,
        flags: u32,
    ) -> Result<()> {
        // SAFETY: the caller answers for the memory.
        done(unsafe {
            syscall5(
                __NR_kvm_map_range,
                fd(self.vm.as_fd()),
                guest_phys_addr as usize,
                size as usize,
                userspace_addr as usize,
                flags as usize,
            )
        })
    }

    /// Unmaps `size` bytes at `guest_phys_addr` from the guest, as munmap(2) does. Holes
    /// in the range are no error.
    ///
    /// Replaces KVM_SET_USER_MEMORY_REGION, without slot numbers.
    ///
    /// # Errors
    ///
    /// Those of [`kvm_map_range`](Self::kvm_map_range).
    #[inline]
    pub fn kvm_unmap_range(&self, guest_phys_addr: u64, size: u64) -> Result<()> {
        let (guest_phys_addr, size) = (guest_phys_addr as usize, size as usize);
        // SAFETY: the call touches no memory.
        done(unsafe {
            syscall3(
                __NR_kvm_unmap_range,
                fd(self.vm.as_fd()),
                guest_phys_addr,
                size,
            )
        })
    }

    /// Fetches the dirty log of a range: bit n of word n / 64 is set if page n of the
    /// range was written since the last fetch. Bits behind the last page are 0. Pages
    /// outside of the range keep their bits. Where the VM has
    /// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, all pages keep their bits until
    /// [`kvm_clear_dirty_range`](Self::kvm_clear_dirty_range).
    ///
    /// Replaces KVM_GET_DIRTY_LOG, without slot numbers.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an address or a size that is no multiple of the page size, for a size
    /// of 0, and for more than 2^31 - 1 pages; `ENOMEM` when the guest has no memory in a
    /// part of the range; `ENOENT` when a part has no dirty log; `ENXIO` when the VM has
    /// a dirty ring.
    ///
    /// # Safety
    ///
    /// The kernel does not know the length of `bitmap`, which must have a bit for each
    /// page of the range: at least `pages.div_ceil(64)` words.
    #[inline]
    pub unsafe fn kvm_get_dirty_range(
        &self,
        guest_phys_addr: u64,
        size: u64,
        bitmap: &mut [u64],
    ) -> Result<()> {
        // SAFETY: the caller says that the bitmap is as long as the range's.
        done(unsafe {
            syscall4(
                __NR_kvm_get_dirty_range,
                fd(self.vm.as_fd()),
                guest_phys_addr as usize,
                size as usize,
                output(bitmap.as_mut_ptr()),
            )
        })
    }

    /// Clears the bits of the dirty log of a range that are set in `bitmap`. The next
    /// writes to these pages set the bits again.
    ///
    /// Replaces KVM_CLEAR_DIRTY_LOG, without slot numbers.
    ///
    /// # Errors
    ///
    /// Those of [`kvm_get_dirty_range`](Self::kvm_get_dirty_range).
    ///
    /// # Safety
    ///
    /// As for [`kvm_get_dirty_range`](Self::kvm_get_dirty_range).
    pub unsafe fn kvm_clear_dirty_range(
        &self,
        guest_phys_addr: u64,
        size: u64,
        bitmap: &[u64],
    ) -> Result<()> {
        // SAFETY: the caller says that the bitmap is as long as the range's.
        done(unsafe {
            syscall4(
                __NR_kvm_clear_dirty_range,
                fd(self.vm.as_fd()),
                guest_phys_addr as usize,
                size as usize,
                input(bitmap.as_ptr()),
            )
        })
    }
}

impl<F: AsFd> VmMemory for RangeMemory<F> {
    #[inline]
    unsafe fn map(
        &self,
        _slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        size: u64,
        userspace_addr: u64,
    ) -> Result<()> {
        // SAFETY: the caller answers for the memory.
        unsafe { self.kvm_map_range(guest_phys_addr, size, userspace_addr, flags) }
    }

    #[inline]
    fn unmap(&self, _slot: u32, guest_phys_addr: u64, size: u64) -> Result<()> {
        self.kvm_unmap_range(guest_phys_addr, size)
    }

    #[inline]
    unsafe fn dirty(
        &self,
        _slot: u32,
        guest_phys_addr: u64,
        size: u64,
        bitmap: &mut [u64],
    ) -> Result<()> {
        // SAFETY: the caller answers for the length of the bitmap.
        unsafe { self.kvm_get_dirty_range(guest_phys_addr, size, bitmap) }
    }
}
