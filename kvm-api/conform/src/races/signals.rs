//! A signal that is blocked outside a run, and that the vCPU's mask admits,
//! ends the run, whether it comes before, during or after the call.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use kvm_api::{Errno, SigSet};
use nix::sys::signal::Signal;

use super::Race;
use super::round::Round;
use super::threads::wait_until;
use crate::signal::{KICK, kick, spawn};

pub const RACES: &[Race] = &[
    ("a signal that the mask lets in ends the run", masked),
    ("a storm of signals ends runs and breaks nothing", storm),
];

/// The number of signals in a round.
const SIGNALS: u64 = 50;

fn masked(round: &Round) {
    /// The signals are not yet blocked.
    const NOT_READY: u64 = u64::MAX;
    let guest = round.counting();
    let vcpu = guest.vcpu.as_fd();
    let kick_only = SigSet::from(KICK);
    let taken = AtomicU64::new(NOT_READY);
    thread::scope(|scope| {
        let (thread, _) = spawn(scope, || {
            kick_only.thread_block().unwrap();
            // All signals may come while the guest runs.
            let mask = Some(&SigSet::empty());
            round.other().kvm_set_signal_mask(vcpu, mask).unwrap();
            let mut run = guest.run.lock().unwrap();
            taken.store(0, Ordering::SeqCst);
            for n in 1..=SIGNALS {
                let kvm = round.interface(n as usize);
                let end = kvm.kvm_run(vcpu, &mut run).map(|exit| exit.reason());
                assert_eq!(end, Err(Errno::EINTR));
                // The signal was not delivered: outside the run, it is blocked.
                assert_eq!(kick_only.wait(), Ok(KICK));
                taken.store(n, Ordering::SeqCst);
            }
        });
        for n in 1..=SIGNALS {
            // A second signal would merge with a pending one.
            wait_until(|| taken.load(Ordering::SeqCst) == n - 1);
            round.pause();
            kick(thread);
        }
    });
}

/// Two threads send signals as fast as they can while the mask changes. Each
/// call must still return a sensible result.
fn storm(round: &Round) {
    let guest = round.counting();
    let vcpu = guest.vcpu.as_fd();
    let outside = SigSet::thread_get_mask().unwrap();
    let over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let (thread, _) = spawn(scope, || {
            let (none, another) = (SigSet::empty(), SigSet::from(Signal::SIGUSR2));
            let mut run = guest.run.lock().unwrap();
            for n in 0..SIGNALS as usize {
                let kvm = round.interface(n);
                let mask = [None, Some(&none), Some(&another)][n % 3];
                kvm.kvm_set_signal_mask(vcpu, mask).unwrap();
                let end = kvm.kvm_run(vcpu, &mut run).map(|exit| exit.reason());
                assert_eq!(end, Err(Errno::EINTR));
                // The mask ended with the run.
                assert_eq!(SigSet::thread_get_mask(), Ok(outside));
            }
            over.store(true, Ordering::Relaxed);
        });
        for _ in 0..2 {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    kick(thread);
                    round.pause();
                }
            });
        }
    });
}
