//! The bound form: a vCPU is bound to the task that uses it.

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;

use kvm_sys::*;
use nix::sys::signal::SigSet;

use crate::signal::signal_mask;
use crate::syscall::Syscall;
use crate::syscall::arch::*;
use crate::syscall::conv::{done, fd, input, number, output};
use crate::{Exit, GetState, Kvm, Result, RunMapping, SetState, State, Vcpu};

/// A vCPU that is bound to the calling thread.
///
/// [`bind`](Self::bind) binds the vCPU, and a drop unbinds it. In between, the calls of
/// other threads on the vCPU fail with `EBUSY`. The calls of this value take no file
/// descriptor, because the kernel knows the vCPU by the thread. So the value cannot leave
/// the thread:
///
/// ```compile_fail,E0277
/// fn sent<T: Send>() {}
/// sent::<kvm_api::bound::BoundVcpu<std::os::fd::OwnedFd>>();
/// ```
///
/// A child after fork(2) inherits no binding. There the calls fail with `ENXIO`.
#[derive(Debug)]
pub struct BoundVcpu<F> {
    flat: Syscall,
    fd: F,
    /// The binding is the thread's.
    not_send: PhantomData<*const ()>,
}

impl<F: AsFd> BoundVcpu<F> {
    /// Binds the vCPU to this thread.
    ///
    /// # Errors
    ///
    /// `EEXIST` when this thread has a bound vCPU; `EBUSY` when the vCPU is bound to
    /// another thread; `ENOMEM`; and the errors of [`Kvm`] for a file
    /// descriptor that is no vCPU's.
    pub fn bind(flat: Syscall, vcpu: F) -> Result<Self> {
        // SAFETY: the call touches no memory.
        done(unsafe { syscall1(__NR_kvm_bind, fd(vcpu.as_fd())) })?;
        Ok(Self {
            flat,
            fd: vcpu,
            not_send: PhantomData,
        })
    }
}

impl<F> Drop for BoundVcpu<F> {
    fn drop(&mut self) {
        // SAFETY: the call touches no memory. It fails only where nothing is bound.
        unsafe { syscall0(__NR_kvm_unbind) };
    }
}

/// Makes the thread of a pidfd, see pidfd_open(2), return from
/// [`kvm_run`](Vcpu::kvm_run) with `EINTR`. A thread that does not run its bound vCPU
/// returns from the next run.
///
/// # Errors
///
/// `EBADF` when the descriptor is no pidfd; `ESRCH` when the thread has ended or has no
/// bound vCPU; `EIO` when the vCPU belongs to another process.
pub fn kick(_: Syscall, thread: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the call touches no memory.
    done(unsafe { syscall1(__NR_kvm_kick, fd(thread)) })
}

impl<F: AsFd> AsFd for BoundVcpu<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<F: AsFd> Vcpu for BoundVcpu<F> {
    #[inline]
    fn flat(&self) -> &dyn Kvm {
        &self.flat
    }

    #[inline]
    fn kvm_run<'r>(&self, run: &'r mut RunMapping) -> Result<Exit<'r>> {
        // SAFETY: the kernel writes the vCPU's run mapping, which is only ever
        // copied from, and memory that the guest was given.
        done(unsafe { syscall0(__NR_kvm_bound_run) }).map(|()| run.exit())
    }

    #[inline]
    fn kvm_get_regs(&self, regs: &mut kvm_regs) -> Result<()> {
        // SAFETY: the kernel writes one such structure.
        done(unsafe { syscall1(__NR_kvm_bound_get_regs, output(regs)) })
    }

    #[inline]
    fn kvm_set_regs(&self, regs: &kvm_regs) -> Result<()> {
        // SAFETY: the kernel reads one such structure.
        done(unsafe { syscall1(__NR_kvm_bound_set_regs, input(regs)) })
    }

    #[inline]
    fn kvm_get_sregs(&self, sregs: &mut kvm_sregs) -> Result<()> {
        // SAFETY: the kernel writes one such structure.
        done(unsafe { syscall1(__NR_kvm_bound_get_sregs, output(sregs)) })
    }

    #[inline]
    fn kvm_set_sregs(&self, sregs: &kvm_sregs) -> Result<()> {
        // SAFETY: the kernel reads one such structure.
        done(unsafe { syscall1(__NR_kvm_bound_set_sregs, input(sregs)) })
    }

    #[inline]
    fn kvm_translate(
        &self,
        linear_address: u64,
        physical_address: &mut u64,
        valid: &mut u8,
        writeable: &mut u8,
        usermode: &mut u8,
    ) -> Result<()> {
        // SAFETY: the kernel writes one word and three bytes.
        done(unsafe {
            syscall5(
                __NR_kvm_bound_translate,
                linear_address as usize,
                output(physical_address),
                output(valid),
                output(writeable),
                output(usermode),
            )
        })
    }

    #[inline]
    fn kvm_interrupt(&self, irq: u32) -> Result<()> {
        // SAFETY: the call touches no memory.
        done(unsafe { syscall1(__NR_kvm_bound_interrupt, irq as usize) })
    }

    #[inline]
    fn kvm_debug_guest(&self, debug: &kvm_guest_debug) -> Result<()> {
        // SAFETY: the kernel reads one such structure.
        done(unsafe { syscall1(__NR_kvm_bound_debug_guest, input(debug)) })
    }

    #[inline]
    fn kvm_get_msrs(&self, msrs: &mut Msrs) -> Result<usize> {
        let msrs = msrs.as_mut_fam_struct_ptr();
        // SAFETY: the kernel reads the header, and reads and writes as many
        // elements as it says that there are.
        number(unsafe { syscall1(__NR_kvm_bound_get_msrs, output(msrs)) })
    }

    #[inline]
    fn kvm_set_msrs(&self, msrs: &Msrs) -> Result<usize> {
        let msrs = msrs.as_fam_struct_ptr();
        // SAFETY: the kernel reads the header, and as many elements as it says
        // that there are.
        number(unsafe { syscall1(__NR_kvm_bound_set_msrs, input(msrs)) })
    }

    #[inline]
    fn kvm_set_cpuid(&self, cpuid: &CpuId) -> Result<()> {
        let cpuid = cpuid.as_fam_struct_ptr();
        // SAFETY: the kernel reads the header, and as many elements as it says
        // that there are.
        done(unsafe { syscall1(__NR_kvm_bound_set_cpuid, input(cpuid)) })
    }

    #[inline]
    fn kvm_set_signal_mask(&self, mask: Option<&SigSet>) -> Result<()> {
        let mask = mask.map(signal_mask);
        let mask = mask.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the kernel reads one such structure, or takes NULL for none.
        done(unsafe { syscall1(__NR_kvm_bound_set_signal_mask, input(mask)) })
    }

    #[inline]
    fn kvm_get_fpu(&self, fpu: &mut kvm_fpu) -> Result<()> {
        // SAFETY: the kernel writes one such structure.
        done(unsafe { syscall1(__NR_kvm_bound_get_fpu, output(fpu)) })
    }

    #[inline]
    fn kvm_set_fpu(&self, fpu: &kvm_fpu) -> Result<()> {
        // SAFETY: the kernel reads one such structure.
        done(unsafe { syscall1(__NR_kvm_bound_set_fpu, input(fpu)) })
    }
}

impl<F: AsFd> State for BoundVcpu<F> {
    #[inline]
    fn kvm_get_state(&self, state: &mut GetState<'_>) -> Result<usize> {
        let (state, size) = (state.raw(), size_of::<kvm_vcpu_state>());
        // SAFETY: the kernel reads one such structure, and writes the parts
        // that it names, which are borrowed for that.
        number(unsafe { syscall2(__NR_kvm_bound_get_state, input(state), size) })
    }

    #[inline]
    fn kvm_set_state(&self, state: &SetState<'_>) -> Result<usize> {
        let (state, size) = (state.raw(), size_of::<kvm_vcpu_state>());
        // SAFETY: the kernel reads one such structure, and the parts that it
        // names, which are borrowed for that.
        number(unsafe { syscall2(__NR_kvm_bound_set_state, input(state), size) })
    }
}
