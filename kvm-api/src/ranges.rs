//! The form of ranges: a program names guest memory by addresses, without slot numbers.
//!
//! A second mapping of the same memory of the host is an alias. Memory that the kernel
//! allocates belongs to the proposal, so [`Kvm`](crate::Kvm) makes it.

use std::os::fd::AsFd;

use kvm_sys::instruction::{syscall2, syscall4, syscall5, syscall6};
use kvm_sys::*;

use crate::syscall::Syscall;
use crate::syscall::conv::{done, fd, input, output};
use crate::{Result, VmMemory};

/// A range of `size` bytes of the memory of the caller, at `userspace_addr`, that the
/// guest sees at `guest_phys_addr` in address space 0.
#[must_use]
pub fn range(
    guest_phys_addr: u64,
    size: u64,
    userspace_addr: u64,
    flags: u32,
) -> kvm_userspace_memory_region2 {
    kvm_userspace_memory_region2 {
        flags,
        guest_phys_addr,
        memory_size: size,
        userspace_addr,
        ..Default::default()
    }
}

/// The memory of a VM, by ranges of guest physical addresses.
///
/// The number of an address space is 0, or 1 for what a vCPU in system management mode
/// sees. KVM_CAP_MULTI_ADDRESS_SPACE gives the number of address spaces.
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

    /// Maps memory of the caller to the guest. The mapping replaces older ones, as
    /// mmap(2) with MAP_FIXED does.
    ///
    /// The structure is that of KVM_SET_USER_MEMORY_REGION2. `slot` has the address space
    /// in bits 16 to 31, and 0 below. `flags` are KVM_MEM_LOG_DIRTY_PAGES,
    /// KVM_MEM_READONLY and KVM_MEM_GUEST_MEMFD; the latter takes the private memory of
    /// the range from `guest_memfd`. The addresses and the size are multiples of the page
    /// size. The padding is 0. A mapping that is replaced in part keeps the rest, with
    /// its dirty log.
    ///
    /// Replaces KVM_SET_USER_MEMORY_REGION2, without slot numbers. It follows from the
    /// "region of the host process address" of the answer.
    ///
    /// # Errors
    ///
    /// `EINVAL` for flags, addresses, a size or a file that KVM does not take, a size of
    /// 0 and padding that is not 0 included; `EBUSY` when a slot of another interface
    /// covers a part of the range; `EEXIST` when a range elsewhere uses a part of the
    /// `guest_memfd`; `ENOSPC` when no slot is left. The call has changed nothing after
    /// an error.
    ///
    /// # Safety
    ///
    /// The guest, and KVM on its behalf, reads and writes the memory until it is
    /// unmapped from the guest. Until then the memory has to stay mapped in the process,
    /// and Rust must not own any of it. To close the VM is not enough.
    #[inline]
    pub unsafe fn kvm_map_range(&self, range: &kvm_userspace_memory_region2) -> Result<()> {
        // SAFETY: the call reads the structure. The caller answers for the memory.
        done(unsafe { syscall2(__NR_kvm_map_range, fd(self.vm.as_fd()), input(range)) })
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
    pub fn kvm_unmap_range(
        &self,
        address_space: u32,
        guest_phys_addr: u64,
        size: u64,
    ) -> Result<()> {
        // SAFETY: the call touches no memory.
        done(unsafe {
            syscall4(
                __NR_kvm_unmap_range,
                fd(self.vm.as_fd()),
                address_space as usize,
                guest_phys_addr as usize,
                size as usize,
            )
        })
    }

    /// Changes the flags of `size` bytes at `guest_phys_addr`, as mprotect(2) does:
    /// KVM_MEM_LOG_DIRTY_PAGES and KVM_MEM_READONLY.
    ///
    /// Replaces KVM_SET_USER_MEMORY_REGION, without slot numbers and the addresses of the
    /// memory.
    ///
    /// # Errors
    ///
    /// Those of [`kvm_map_range`](Self::kvm_map_range), and `ENOMEM` when the guest has no
    /// memory in a part of the range.
    ///
    /// # Safety
    ///
    /// Without KVM_MEM_READONLY, the guest writes to the memory: as for
    /// [`kvm_map_range`](Self::kvm_map_range).
    #[inline]
    pub unsafe fn kvm_protect_range(
        &self,
        address_space: u32,
        guest_phys_addr: u64,
        size: u64,
        flags: u32,
    ) -> Result<()> {
        // SAFETY: the caller answers for the memory.
        done(unsafe {
            syscall5(
                __NR_kvm_protect_range,
                fd(self.vm.as_fd()),
                address_space as usize,
                guest_phys_addr as usize,
                size as usize,
                flags as usize,
            )
        })
    }

    /// Sets the attributes of `size` bytes at `guest_phys_addr`, with or without memory:
    /// 0, or KVM_MEMORY_ATTRIBUTE_PRIVATE where the guest sees its `guest_memfd`.
    ///
    /// Replaces KVM_SET_MEMORY_ATTRIBUTES.
    ///
    /// # Errors
    ///
    /// `EINVAL` for addresses, a size or attributes that KVM does not take; `ENOMEM`.
    #[inline]
    pub fn kvm_set_memory_attributes(
        &self,
        guest_phys_addr: u64,
        size: u64,
        attributes: u64,
    ) -> Result<()> {
        // SAFETY: the call touches no memory of the caller.
        done(unsafe {
            syscall4(
                __NR_kvm_set_memory_attributes,
                fd(self.vm.as_fd()),
                guest_phys_addr as usize,
                size as usize,
                attributes as usize,
            )
        })
    }

    /// Fetches the dirty log of a range: bit n of word n / 64 is set if page n of the
    /// range was written since the last fetch. Bits behind the last page are 0. Pages
    /// outside of the range keep their bits. With [`KVM_DIRTY_RANGE_PEEK`] in `flags`, or
    /// where the VM has KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, all pages keep their bits until
    /// [`kvm_clear_dirty_range`](Self::kvm_clear_dirty_range).
    ///
    /// Replaces KVM_GET_DIRTY_LOG, without slot numbers.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an address or a size that is no multiple of the page size, for a size
    /// of 0, for more than 2^31 - 1 pages, and for other flags; `ENOMEM` when the guest
    /// has no memory in a part of the range; `ENOENT` when a part has no dirty log;
    /// `ENXIO` when the VM has a dirty ring.
    ///
    /// # Safety
    ///
    /// The kernel does not know the length of `bitmap`, which must have a bit for each
    /// page of the range: at least `pages.div_ceil(64)` words.
    #[inline]
    pub unsafe fn kvm_get_dirty_range(
        &self,
        address_space: u32,
        guest_phys_addr: u64,
        size: u64,
        bitmap: &mut [u64],
        flags: u32,
    ) -> Result<()> {
        // SAFETY: the caller says that the bitmap is as long as the range's.
        done(unsafe {
            syscall6(
                __NR_kvm_get_dirty_range,
                fd(self.vm.as_fd()),
                address_space as usize,
                guest_phys_addr as usize,
                size as usize,
                output(bitmap.as_mut_ptr()),
                flags as usize,
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
        address_space: u32,
        guest_phys_addr: u64,
        size: u64,
        bitmap: &[u64],
    ) -> Result<()> {
        // SAFETY: the caller says that the bitmap is as long as the range's.
        done(unsafe {
            syscall5(
                __NR_kvm_clear_dirty_range,
                fd(self.vm.as_fd()),
                address_space as usize,
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
        unsafe { self.kvm_map_range(&range(guest_phys_addr, size, userspace_addr, flags)) }
    }

    #[inline]
    fn unmap(&self, _slot: u32, guest_phys_addr: u64, size: u64) -> Result<()> {
        self.kvm_unmap_range(0, guest_phys_addr, size)
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
        unsafe { self.kvm_get_dirty_range(0, guest_phys_addr, size, bitmap, 0) }
    }
}
