//! `immediate_exit` and a signal, as KVM's documentation describes them:
//! setting the first and then sending the second ends a run, whenever that
//! happens.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, yield_now};

use kvm_api::{Errno, RunMapping};
use nix::unistd::gettid;

use super::Race;
use super::guest::Guest;
use super::kick::kick;
use super::round::Round;

pub const RACES: &[Race] = &[Race::new(
    "immediate_exit and a signal are never lost",
    race,
)];

/// The number of requests for the vCPU in a round.
const TIMES: u64 = 50;

fn race(round: &Round) {
    let mut guest = Guest::counting(round.runner());
    let vcpu = guest.vcpu.as_fd();
    let size = round
        .other()
        .kvm_get_vcpu_mmap_size(guest.vm.as_fd())
        .unwrap();
    let mut from_outside = RunMapping::new(vcpu, size).unwrap();
    let run = &mut guest.run;
    let (wanted, given) = (AtomicU64::new(0), AtomicU64::new(0));
    let (wanted, given) = (&wanted, &given);
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        scope.spawn(move || {
            sender.send(gettid()).expect("the receiver waits");
            for n in 0.. {
                let kvm = round.interface(n);
                let end = kvm.kvm_run(vcpu, run).map(|exit| exit.reason());
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
        let thread = receiver.recv().expect("the thread starts");
        for n in 1..=TIMES {
            round.pause();
            wanted.store(n, Ordering::SeqCst);
            from_outside.set_immediate_exit(true);
            kick(thread);
            // If the signal is lost, the watchdog ends the race.
            while given.load(Ordering::SeqCst) < n {
                yield_now();
            }
        }
    });
}
