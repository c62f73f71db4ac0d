//! `immediate_exit` and a signal, as KVM's documentation has it: whoever wants
//! a vcpu back sets the one, then sends the other, and cannot come at a wrong
//! moment.

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

/// How often the vcpu is wanted in a round.
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
            sender.send(gettid()).expect("it is waited for");
            for n in 0.. {
                let kvm = round.interface(n);
                let end = kvm.kvm_run(vcpu, run).map(|exit| exit.reason());
                assert_eq!(end, Err(Errno::EINTR));
                // Before looking: what is wanted after that ends the next run.
                run.set_immediate_exit(false);
                let wanted = wanted.load(Ordering::SeqCst);
                given.store(wanted, Ordering::SeqCst);
                if wanted == TIMES {
                    break;
                }
                round.pause();
            }
        });
        let thread = receiver.recv().expect("a thread begins");
        for n in 1..=TIMES {
            round.pause();
            wanted.store(n, Ordering::SeqCst);
            from_outside.set_immediate_exit(true);
            kick(thread);
            // If it is lost, the watchdog comes.
            while given.load(Ordering::SeqCst) < n {
                yield_now();
            }
        }
    });
}
