//! Calls that are made while a signal is pending.

use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use anyhow::{Context, Result};
use kvm_api::Kvm;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask, raise};

use super::invocation::Invocation;
use super::misuse::Made;
use super::testbed::Testbed;
use crate::signal::KICK;

/// Makes the call while the signal is blocked and pending. `open` is a vCPU
/// whose signal mask admits it.
pub fn pending(
    testbed: &mut Testbed<'_>,
    invocation: &Invocation,
    open: Option<RawFd>,
) -> Result<Made> {
    let set: SigSet = [KICK].into_iter().collect();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    raise(KICK)?;
    if let Some(vcpu) = open {
        // SAFETY: the testbed's vCPU is open for as long as this takes.
        let vcpu = unsafe { BorrowedFd::borrow_raw(vcpu) };
        let nothing = SigSet::empty();
        testbed
            .both
            .ioctl
            .kvm_set_signal_mask(vcpu, Some(&nothing))?;
    }
    let made = Made::of(invocation, testbed);
    let taken = take(&set);
    pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&set), None)?;
    taken.context("the signal is not pending any more")?;
    Ok(made)
}

/// Takes the signal, which must be pending.
fn take(set: &SigSet) -> Result<()> {
    let no_time = libc::timespec {
        tv_sec: 0,
        tv_nsec: Duration::ZERO.subsec_nanos().into(),
    };
    // SAFETY: it reads a good set and a good time, and writes nothing.
    let signal = unsafe { libc::sigtimedwait(set.as_ref(), std::ptr::null_mut(), &no_time) };
    nix::errno::Errno::result(signal)?;
    Ok(())
}
