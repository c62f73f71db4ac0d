//! A vCPU, as any form names it.

use std::os::fd::{AsFd, BorrowedFd};

use kvm_sys::{CpuId, Msrs, kvm_fpu, kvm_guest_debug, kvm_regs, kvm_sregs};
use nix::sys::signal::SigSet;

use crate::{Exit, GetState, Kvm, Result, RunMapping, SetState};

/// The calls on a vCPU, under the names of the proposal and in its order.
///
/// [`Kvm`] documents each call. Other interfaces can use the file descriptor of the
/// vCPU.
///
/// # Errors
///
/// Those of the call of the same name of [`Kvm`].
pub trait Vcpu: AsFd {
    /// The flat interface, which makes the calls that the form does not replace.
    fn flat(&self) -> &dyn Kvm;

    /// Runs the guest until it exits.
    #[inline]
    fn kvm_run<'r>(&self, run: &'r mut RunMapping) -> Result<Exit<'r>> {
        self.flat().kvm_run(self.as_fd(), run)
    }

    /// Reads the general registers.
    #[inline]
    fn kvm_get_regs(&self, regs: &mut kvm_regs) -> Result<()> {
        self.flat().kvm_get_regs(self.as_fd(), regs)
    }

    /// Sets the general registers.
    #[inline]
    fn kvm_set_regs(&self, regs: &kvm_regs) -> Result<()> {
        self.flat().kvm_set_regs(self.as_fd(), regs)
    }

    /// Reads the segment, descriptor table and control registers.
    #[inline]
    fn kvm_get_sregs(&self, sregs: &mut kvm_sregs) -> Result<()> {
        self.flat().kvm_get_sregs(self.as_fd(), sregs)
    }

    /// Sets the segment, descriptor table and control registers.
    #[inline]
    fn kvm_set_sregs(&self, sregs: &kvm_sregs) -> Result<()> {
        self.flat().kvm_set_sregs(self.as_fd(), sregs)
    }

    /// Walks the page tables of the guest.
    #[inline]
    fn kvm_translate(
        &self,
        linear_address: u64,
        physical_address: &mut u64,
        valid: &mut u8,
        writeable: &mut u8,
        usermode: &mut u8,
    ) -> Result<()> {
        self.flat().kvm_translate(
            self.as_fd(),
            linear_address,
            physical_address,
            valid,
            writeable,
            usermode,
        )
    }

    /// Queues an interrupt.
    #[inline]
    fn kvm_interrupt(&self, irq: u32) -> Result<()> {
        self.flat().kvm_interrupt(self.as_fd(), irq)
    }

    /// Sets breakpoints and single-stepping.
    #[inline]
    fn kvm_debug_guest(&self, debug: &kvm_guest_debug) -> Result<()> {
        self.flat().kvm_debug_guest(self.as_fd(), debug)
    }

    /// Reads the MSRs whose indices `msrs` holds.
    #[inline]
    fn kvm_get_msrs(&self, msrs: &mut Msrs) -> Result<usize> {
        self.flat().kvm_get_msrs(self.as_fd(), msrs)
    }

    /// Sets the MSRs that `msrs` holds.
    #[inline]
    fn kvm_set_msrs(&self, msrs: &Msrs) -> Result<usize> {
        self.flat().kvm_set_msrs(self.as_fd(), msrs)
    }

    /// Sets the results of the CPUID instruction of the guest.
    #[inline]
    fn kvm_set_cpuid(&self, cpuid: &CpuId) -> Result<()> {
        self.flat().kvm_set_cpuid(self.as_fd(), cpuid)
    }

    /// Sets which signals are blocked while the guest runs.
    #[inline]
    fn kvm_set_signal_mask(&self, mask: Option<&SigSet>) -> Result<()> {
        self.flat().kvm_set_signal_mask(self.as_fd(), mask)
    }

    /// Reads the floating point and SSE registers.
    #[inline]
    fn kvm_get_fpu(&self, fpu: &mut kvm_fpu) -> Result<()> {
        self.flat().kvm_get_fpu(self.as_fd(), fpu)
    }

    /// Sets the floating point and SSE registers.
    #[inline]
    fn kvm_set_fpu(&self, fpu: &kvm_fpu) -> Result<()> {
        self.flat().kvm_set_fpu(self.as_fd(), fpu)
    }
}

/// A vCPU whose state one call can move.
pub trait State: Vcpu {
    /// Reads the parts of the state that `state` borrows, in one call.
    ///
    /// Returns the number of MSRs that were read: 0 if none were requested. If the
    /// number is less than requested, the next MSR cannot be read, and the call has
    /// written nothing to any part.
    ///
    /// Replaces KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_FPU, KVM_GET_MSRS,
    /// KVM_GET_DEBUGREGS, KVM_GET_VCPU_EVENTS and KVM_GET_XCRS. It comes from the
    /// answer to the proposal: "Many can be merged".
    ///
    /// # Errors
    ///
    /// `E2BIG` for 256 or more MSRs; `EINVAL` when the state of the guest is hidden
    /// from the host.
    fn kvm_get_state(&self, state: &mut GetState<'_>) -> Result<usize>;

    /// Sets the parts of the state that `state` borrows, in one call: all of them, or
    /// none.
    ///
    /// Returns the number of MSRs that were set: 0 if none were requested. If the
    /// number is less than requested, the next MSR cannot be set, and the call has set
    /// nothing in any part.
    ///
    /// Replaces KVM_SET_REGS, KVM_SET_SREGS, KVM_SET_FPU, KVM_SET_MSRS,
    /// KVM_SET_DEBUGREGS, KVM_SET_VCPU_EVENTS and KVM_SET_XCRS. It comes from the
    /// answer to the proposal: "Many can be merged (set_fpu, set_regs, set_sregs)".
    ///
    /// # Errors
    ///
    /// The call has changed nothing after an error. `EINVAL` when a part is not valid;
    /// `E2BIG` for 256 or more MSRs; `EOPNOTSUPP` for an MSR whose write has a further
    /// effect and may fail, unless the MSR has the value already:
    /// [`Vcpu::kvm_set_msrs`] sets such an MSR.
    fn kvm_set_state(&self, state: &SetState<'_>) -> Result<usize>;
}

/// A vCPU that [`Kvm`] names by its file descriptor.
#[derive(Clone, Copy, Debug)]
pub struct ByFd<'k, K: ?Sized, F> {
    kvm: &'k K,
    fd: F,
}

impl<'k, K: ?Sized, F: AsFd> ByFd<'k, K, F> {
    /// Names the vCPU. Every call checks the file descriptor.
    #[inline]
    pub fn new(kvm: &'k K, fd: F) -> Self {
        Self { kvm, fd }
    }
}

impl<K: ?Sized, F: AsFd> AsFd for ByFd<'_, K, F> {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<K: Kvm, F: AsFd> Vcpu for ByFd<'_, K, F> {
    #[inline]
    fn flat(&self) -> &dyn Kvm {
        self.kvm
    }
}

impl<F: AsFd> Vcpu for ByFd<'_, dyn Kvm + '_, F> {
    #[inline]
    fn flat(&self) -> &dyn Kvm {
        self.kvm
    }
}
