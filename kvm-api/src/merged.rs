//! The backend that moves a vcpu's registers by the merged calls.
//!
//! Each method moves one part, so that what it costs is that of the call. A
//! program that moves more than one at once uses
//! [`kvm_get_state`](Kvm::kvm_get_state) and
//! [`kvm_set_state`](Kvm::kvm_set_state).

use std::os::fd::{BorrowedFd, OwnedFd};

use kvm_sys::*;
use nix::sys::signal::SigSet;

use crate::delegate::delegate;
use crate::syscall::{OpenError, Syscall};
use crate::{Errno, Exit, GetState, GuestMemory, Kvm, Result, RunMapping, SetState};

/// KVM over the merged calls of a patched kernel, and the flat ones for all that
/// is no register.
#[derive(Clone, Copy, Debug)]
pub struct Merged {
    flat: Syscall,
}

impl Merged {
    /// Asks the running kernel, once, whether it has the calls, as
    /// [`Syscall::open`] does.
    pub fn open() -> std::result::Result<Self, OpenError> {
        Syscall::open().map(|flat| Self { flat })
    }
}

/// The first `n` of `msrs`.
#[cold]
fn first(msrs: &Msrs, n: usize) -> Msrs {
    Msrs::from_entries(&msrs.as_slice()[..n]).expect("they are fewer than there were")
}

impl Kvm for Merged {
    delegate! { flat:
        kvm_create_vm kvm_get_msr_index_list kvm_get_vcpu_mmap_size kvm_set_memory_region
        kvm_create_vcpu kvm_get_dirty_log kvm_get_memory_alias kvm_run kvm_translate
        kvm_interrupt kvm_debug_guest kvm_set_cpuid kvm_set_signal_mask kvm_check_extension
        kvm_set_user_memory_region kvm_set_memory_alias kvm_get_state kvm_set_state
        kvm_map_range kvm_unmap_range kvm_get_dirty_range kvm_clear_dirty_range
        kvm_map_memory
    }

    #[inline]
    fn kvm_get_regs(&self, vcpu: BorrowedFd<'_>, regs: &mut kvm_regs) -> Result<()> {
        self.kvm_get_state(vcpu, &mut GetState::new().regs(regs))
            .map(drop)
    }

    #[inline]
    fn kvm_set_regs(&self, vcpu: BorrowedFd<'_>, regs: &kvm_regs) -> Result<()> {
        self.kvm_set_state(vcpu, &SetState::new().regs(regs))
            .map(drop)
    }

    #[inline]
    fn kvm_get_sregs(&self, vcpu: BorrowedFd<'_>, sregs: &mut kvm_sregs) -> Result<()> {
        self.kvm_get_state(vcpu, &mut GetState::new().sregs(sregs))
            .map(drop)
    }

    #[inline]
    fn kvm_set_sregs(&self, vcpu: BorrowedFd<'_>, sregs: &kvm_sregs) -> Result<()> {
        self.kvm_set_state(vcpu, &SetState::new().sregs(sregs))
            .map(drop)
    }

    /// Where the merged call refuses one of the MSRs, and so reads none, those
    /// before it are read by a second call.
    fn kvm_get_msrs(&self, vcpu: BorrowedFd<'_>, msrs: &mut Msrs) -> Result<usize> {
        let all = msrs.as_slice().len();
        let read = self.kvm_get_state(vcpu, &mut GetState::new().msrs(msrs))?;
        if read < all {
            let mut good = first(msrs, read);
            let again = self.kvm_get_state(vcpu, &mut GetState::new().msrs(&mut good))?;
            msrs.as_mut_slice()[..read].copy_from_slice(good.as_slice());
            return Ok(again);
        }
        Ok(read)
    }

    /// As [`kvm_get_msrs`](Kvm::kvm_get_msrs). Where one of the MSRs acts, which the
    /// merged call refuses, the flat call sets them.
    fn kvm_set_msrs(&self, vcpu: BorrowedFd<'_>, msrs: &Msrs) -> Result<usize> {
        let set = match self.kvm_set_state(vcpu, &SetState::new().msrs(msrs)) {
            Err(Errno::EOPNOTSUPP) => return self.flat.kvm_set_msrs(vcpu, msrs),
            set => set?,
        };
        if set < msrs.as_slice().len() {
            return self.kvm_set_state(vcpu, &SetState::new().msrs(&first(msrs, set)));
        }
        Ok(set)
    }

    #[inline]
    fn kvm_get_fpu(&self, vcpu: BorrowedFd<'_>, fpu: &mut kvm_fpu) -> Result<()> {
        self.kvm_get_state(vcpu, &mut GetState::new().fpu(fpu))
            .map(drop)
    }

    #[inline]
    fn kvm_set_fpu(&self, vcpu: BorrowedFd<'_>, fpu: &kvm_fpu) -> Result<()> {
        self.kvm_set_state(vcpu, &SetState::new().fpu(fpu))
            .map(drop)
    }
}
