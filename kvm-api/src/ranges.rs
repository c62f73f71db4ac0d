//! The backend whose memory has no slot numbers.
//!
//! What the guest is shown of the host process is named by its guest physical
//! address, and by nothing else: [`kvm_map_range`](Kvm::kvm_map_range) shows it,
//! [`kvm_unmap_range`](Kvm::kvm_unmap_range) takes it away,
//! [`kvm_get_dirty_range`](Kvm::kvm_get_dirty_range) fetches what was written. A
//! second [`kvm_map_range`](Kvm::kvm_map_range) of the same host memory is an
//! alias. The calls that would name it by number are not there. Memory that the
//! kernel allocates is the proposal's, and stays as it is.

use std::os::fd::{BorrowedFd, OwnedFd};

use kvm_sys::*;
use nix::sys::signal::SigSet;

use crate::delegate::delegate;
use crate::syscall::{OpenError, Syscall};
use crate::{Errno, Exit, GetState, GuestMemory, Kvm, Result, RunMapping, SetState};

/// KVM over the flat calls of a patched kernel, without those that name the
/// caller's memory by slots.
#[derive(Clone, Copy, Debug)]
pub struct Ranges {
    flat: Syscall,
}

impl Ranges {
    /// Asks the running kernel, once, whether it has the calls, as
    /// [`Syscall::open`] does.
    pub fn open() -> std::result::Result<Self, OpenError> {
        Syscall::open().map(|flat| Self { flat })
    }
}

impl Kvm for Ranges {
    delegate! { flat:
        kvm_create_vm kvm_get_msr_index_list kvm_get_vcpu_mmap_size kvm_set_memory_region
        kvm_create_vcpu kvm_run kvm_get_regs kvm_set_regs kvm_get_sregs kvm_set_sregs
        kvm_translate kvm_interrupt kvm_debug_guest kvm_get_msrs kvm_set_msrs kvm_set_cpuid
        kvm_set_signal_mask kvm_get_fpu kvm_set_fpu kvm_check_extension kvm_get_state
        kvm_set_state kvm_map_range kvm_unmap_range kvm_get_dirty_range kvm_clear_dirty_range
        kvm_map_memory
    }

    /// `ENOSYS`: [`kvm_get_dirty_range`](Kvm::kvm_get_dirty_range) takes its place.
    unsafe fn kvm_get_dirty_log(
        &self,
        _vm: BorrowedFd<'_>,
        _slot: u32,
        _dirty_bitmap: &mut [u64],
    ) -> Result<()> {
        Err(Errno::ENOSYS)
    }

    /// `ENOSYS`: who has mapped the same memory twice knows where.
    fn kvm_get_memory_alias(
        &self,
        _vm: BorrowedFd<'_>,
        _alias: &mut kvm_memory_alias,
    ) -> Result<()> {
        Err(Errno::ENOSYS)
    }

    /// `ENOSYS`: [`kvm_map_range`](Kvm::kvm_map_range) and
    /// [`kvm_unmap_range`](Kvm::kvm_unmap_range) take its place.
    unsafe fn kvm_set_user_memory_region(
        &self,
        _vm: BorrowedFd<'_>,
        _slot: u32,
        _flags: u32,
        _guest_phys_addr: u64,
        _size: u64,
        _userspace_addr: u64,
    ) -> Result<()> {
        Err(Errno::ENOSYS)
    }

    /// `ENOSYS`: a second [`kvm_map_range`](Kvm::kvm_map_range) of the same host
    /// memory takes its place.
    fn kvm_set_memory_alias(&self, _vm: BorrowedFd<'_>, _alias: &kvm_memory_alias) -> Result<()> {
        Err(Errno::ENOSYS)
    }
}
