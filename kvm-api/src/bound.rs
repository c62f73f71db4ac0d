//! The bound form: a vCPU is bound to the task that uses it.

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;

use kvm_sys::*;
use nix::sys::signal::SigSet;

use crate::signal::signal_mask;
use crate::syscall::Syscall;
use crate::syscall::conv::{done, fd, input, number, output};
use crate::syscall::vcpu::{bound, state_calls, syscall, vcpu_calls};
use crate::{Exit, GetState, Kvm, Result, RunMapping, SetState, State, Vcpu};
use kvm_sys::instruction::*;

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
        Ok(Self::of_thread(flat, vcpu))
    }

    /// The vCPU that is bound to this thread.
    pub(crate) fn of_thread(flat: Syscall, fd: F) -> Self {
        Self {
            flat,
            fd,
            not_send: PhantomData,
        }
    }
}

impl<F> Drop for BoundVcpu<F> {
    fn drop(&mut self) {
        // SAFETY: the call touches no memory. It fails only where nothing is bound.
        unsafe { syscall0(__NR_kvm_unbind) };
    }
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

    vcpu_calls!(bound);
}

impl<F: AsFd> State for BoundVcpu<F> {
    state_calls!(bound);
}
