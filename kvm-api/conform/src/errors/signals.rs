//! Calls that are made while a signal is pending.

use anyhow::{Context, Result};
use kvm_api::Kvm;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask, raise};

use super::invocation::Invocation;
use super::misuse::Made;
use super::testbed::Testbed;
use crate::signal::KICK;

/// Makes the call while the signal is blocked and pending. If `admitted`, the signal
/// mask of the vCPU admits it.
pub fn pending(testbed: &mut Testbed<'_>, invocation: &Invocation, admitted: bool) -> Result<Made> {
    let set: SigSet = [KICK].into_iter().collect();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    raise(KICK)?;
    if admitted {
        let (kvm, vcpu) = (&testbed.both.ioctl, testbed.fd(invocation.call));
        kvm.kvm_set_signal_mask(vcpu, Some(&SigSet::empty()))?;
    }
    let made = Made::of(invocation, testbed);
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it reads a good set and a good time, and writes nothing.
    let taken = unsafe { libc::sigtimedwait(set.as_ref(), std::ptr::null_mut(), &now) };
    pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&set), None)?;
    Errno::result(taken).context("the signal is not pending any more")?;
    Ok(made)
}
