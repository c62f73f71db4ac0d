//! `immediate_exit` and a signal, as KVM's documentation describes them:
//! setting the first and then sending the second ends a run, whenever that
//! happens.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use kvm_api::{Errno, RunMapping};

use super::Race;
use super::round::Round;
use super::threads::wait_until;
use crate::signal::{kick, spawn};

pub const RACES: &[Race] = &[("immediate_exit and a signal are never lost", race)];

/// The number of requests for the vCPU in a round.
const TIMES: u64 = 50;

fn race(round: &Round) {
    let guest = round.counting();
    let vcpu = guest.vcpu.as_fd();
    let size = round.other().kvm_get_vcpu_mmap_size(guest.vm.as_fd());
    let mut from_outside = RunMapping::new(vcpu, size.unwrap()).unwrap();
    let (wanted, given) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let (thread, _) = spawn(scope, || {
            let mut run = guest.run.lock().unwrap();
            for n in 0.. {
                let kvm = round.interface(n);
                let end = kvm.kvm_run(vcpu, &mut run).map(|exit| exit.reason());
                assert_eq!(end, Err(Errno::EINTR));
                // Clear it before looking: a later request ends the next run.
                run.set_immediate_exit(false);
                let wanted = wanted.load(Ordering::SeqCst);
                given.store(wanted, Ordering::SeqCst);
                if wanted == TIMES {
                    break;
                }
                round.pause();
            }
        });
        for n in 1..=TIMES {
            round.pause();
            wanted.store(n, Ordering::SeqCst);
            from_outside.set_immediate_exit(true);
            kick(thread);
            wait_until(|| given.load(Ordering::SeqCst) >= n);
        }
    });
}
