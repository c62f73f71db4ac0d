//! The merged form: one call moves any parts of the state of a vCPU.

use std::os::fd::{AsFd, BorrowedFd};

use kvm_sys::*;

use crate::syscall::Syscall;
use crate::syscall::conv::{fd, input, number};
use crate::syscall::vcpu::{flat, state_calls, syscall};
use crate::{Errno, GetState, Kvm, Result, SetState, State, Vcpu};
use kvm_sys::instruction::syscall3;

/// A vCPU whose registers move by the merged calls.
///
/// Each method of [`Vcpu`] moves one part, so it costs what its call costs. A program
/// that moves several parts at once uses [`State`]. The flat calls do all other work.
#[derive(Clone, Copy, Debug)]
pub struct MergedVcpu<F> {
    flat: Syscall,
    fd: F,
}

impl<F: AsFd> MergedVcpu<F> {
    /// Names the vCPU. Every call checks the file descriptor.
    #[inline]
    pub fn new(flat: Syscall, fd: F) -> Self {
        Self { flat, fd }
    }
}

impl<F: AsFd> AsFd for MergedVcpu<F> {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<F: AsFd> State for MergedVcpu<F> {
    state_calls!(flat, fd);
}

/// The first `n` of `msrs`.
#[cold]
fn first(msrs: &Msrs, n: usize) -> Msrs {
    Msrs::from_entries(&msrs.as_slice()[..n]).expect("they are fewer than there were")
}

impl<F: AsFd> Vcpu for MergedVcpu<F> {
    #[inline]
    fn flat(&self) -> &dyn Kvm {
        &self.flat
    }

    #[inline]
    fn kvm_get_regs(&self, regs: &mut kvm_regs) -> Result<()> {
        self.kvm_get_state(&mut GetState::new().regs(regs))
            .map(drop)
    }

    #[inline]
    fn kvm_set_regs(&self, regs: &kvm_regs) -> Result<()> {
        self.kvm_set_state(&SetState::new().regs(regs)).map(drop)
    }

    #[inline]
    fn kvm_get_sregs(&self, sregs: &mut kvm_sregs) -> Result<()> {
        self.kvm_get_state(&mut GetState::new().sregs(sregs))
            .map(drop)
    }

    #[inline]
    fn kvm_set_sregs(&self, sregs: &kvm_sregs) -> Result<()> {
        self.kvm_set_state(&SetState::new().sregs(sregs)).map(drop)
    }

    /// If the merged call refuses one of the MSRs, it reads none. A second call then
    /// reads the MSRs before it.
    fn kvm_get_msrs(&self, msrs: &mut Msrs) -> Result<usize> {
        let all = msrs.as_slice().len();
        let read = self.kvm_get_state(&mut GetState::new().msrs(msrs))?;
        if read < all {
            let mut good = first(msrs, read);
            let count = self.kvm_get_state(&mut GetState::new().msrs(&mut good))?;
            msrs.as_mut_slice()[..read].copy_from_slice(good.as_slice());
            return Ok(count);
        }
        Ok(read)
    }

    /// Makes a second call as [`kvm_get_msrs`](Vcpu::kvm_get_msrs) does. If the merged
    /// call refuses an MSR because its write has a further effect, the flat call sets
    /// the MSRs.
    fn kvm_set_msrs(&self, msrs: &Msrs) -> Result<usize> {
        let set = match self.kvm_set_state(&SetState::new().msrs(msrs)) {
            Err(Errno::EOPNOTSUPP) => return self.flat.kvm_set_msrs(self.as_fd(), msrs),
            set => set?,
        };
        if set < msrs.as_slice().len() {
            return self.kvm_set_state(&SetState::new().msrs(&first(msrs, set)));
        }
        Ok(set)
    }

    #[inline]
    fn kvm_get_fpu(&self, fpu: &mut kvm_fpu) -> Result<()> {
        self.kvm_get_state(&mut GetState::new().fpu(fpu)).map(drop)
    }

    #[inline]
    fn kvm_set_fpu(&self, fpu: &kvm_fpu) -> Result<()> {
        self.kvm_set_state(&SetState::new().fpu(fpu)).map(drop)
    }
}
