//! The memory of a VM, as any form names it.

use std::os::fd::AsFd;

use crate::{Kvm, Result};

/// The memory of the caller that a VM uses.
///
/// Forms that have slots name a piece of memory by its slot, and the others by its
/// addresses.
pub trait VmMemory {
    /// Maps `size` bytes at `userspace_addr` to the guest at `guest_phys_addr`.
    ///
    /// # Errors
    ///
    /// Those of [`Kvm::kvm_set_user_memory_region`], or of
    /// [`RangeMemory::kvm_map_range`](crate::ranges::RangeMemory::kvm_map_range).
    ///
    /// # Safety
    ///
    /// The guest, and KVM on its behalf, reads and writes the memory until it is
    /// unmapped from the guest. Until then the memory has to stay mapped in the process,
    /// and Rust must not own any of it.
    unsafe fn map(
        &self,
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        size: u64,
        userspace_addr: u64,
    ) -> Result<()>;

    /// Unmaps the memory from the guest.
    ///
    /// # Errors
    ///
    /// Those of [`map`](Self::map).
    fn unmap(&self, slot: u32, guest_phys_addr: u64, size: u64) -> Result<()>;

    /// Fetches the dirty log of the memory.
    ///
    /// # Errors
    ///
    /// Those of [`Kvm::kvm_get_dirty_log`], or of
    /// [`RangeMemory::kvm_get_dirty_range`](crate::ranges::RangeMemory::kvm_get_dirty_range).
    ///
    /// # Safety
    ///
    /// `bitmap` must have a bit for each page of the memory.
    unsafe fn dirty(
        &self,
        slot: u32,
        guest_phys_addr: u64,
        size: u64,
        bitmap: &mut [u64],
    ) -> Result<()>;
}

/// The memory of a VM, by the slots of [`Kvm`].
#[derive(Clone, Copy, Debug)]
pub struct SlotMemory<'k, K: ?Sized, F> {
    kvm: &'k K,
    vm: F,
}

impl<'k, K: ?Sized, F: AsFd> SlotMemory<'k, K, F> {
    /// Names the VM. Every call checks the file descriptor.
    #[inline]
    pub fn new(kvm: &'k K, vm: F) -> Self {
        Self { kvm, vm }
    }
}

impl<K: Kvm + ?Sized, F: AsFd> VmMemory for SlotMemory<'_, K, F> {
    #[inline]
    unsafe fn map(
        &self,
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        size: u64,
        userspace_addr: u64,
    ) -> Result<()> {
        let vm = self.vm.as_fd();
        // SAFETY: the caller answers for the memory.
        unsafe {
            self.kvm.kvm_set_user_memory_region(
                vm,
                slot,
                flags,
                guest_phys_addr,
                size,
                userspace_addr,
            )
        }
    }

    #[inline]
    fn unmap(&self, slot: u32, _guest_phys_addr: u64, _size: u64) -> Result<()> {
        let vm = self.vm.as_fd();
        // SAFETY: a slot that is deleted needs no memory.
        unsafe { self.kvm.kvm_set_user_memory_region(vm, slot, 0, 0, 0, 0) }
    }

    #[inline]
    unsafe fn dirty(
        &self,
        slot: u32,
        _guest_phys_addr: u64,
        _size: u64,
        bitmap: &mut [u64],
    ) -> Result<()> {
        // SAFETY: the caller answers for the length of the bitmap.
        unsafe { self.kvm.kvm_get_dirty_log(self.vm.as_fd(), slot, bitmap) }
    }
}
