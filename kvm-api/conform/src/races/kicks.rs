//! A kick by call ends exactly one run, whether it comes before, during or after it: no
//! kick is lost, and none ends two runs.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use guests::programs;
use kvm_api::bound::BoundVcpu;
use kvm_api::syscall::Syscall;
use kvm_api::{ByFd, Errno, Kvm, Reason, Vcpu, kick};

use super::Race;
use super::guest::unless_internal;
use super::round::Round;
use super::threads::wait_until;
use crate::child::pidfd_of_thread;
use crate::signal::spawn;

pub const RACES: &[Race] = &[
    ("each kick of a vCPU ends one run", by_vcpu),
    ("each kick of a bound vCPU ends one run", of_bound),
    ("each kick of a vCPU's thread ends one run", by_thread),
];

/// The number of kicks in a round.
const KICKS: u64 = 50;
/// The vCPU is not bound yet.
const NOT_READY: u64 = u64::MAX;

fn by_vcpu(round: &Round) {
    race(round, false, false);
}

fn of_bound(round: &Round) {
    race(round, true, false);
}

fn by_thread(round: &Round) {
    race(round, true, true);
}

/// Kicks a vCPU, which is bound or not, by its descriptor or its thread. In every second
/// round the guest exits all the time, so that many kicks come between two runs.
fn race(round: &Round, bound: bool, by_thread: bool) {
    let program = [programs::COUNT, programs::COUNT_OUT][round.number as usize % 2];
    let guest = round.guest(program);
    let flat = Syscall::open().unwrap();
    let (made, taken) = (AtomicU64::new(0), AtomicU64::new(NOT_READY));
    thread::scope(|scope| {
        let (thread, _) = spawn(scope, || {
            let kvm = round.runner();
            let vcpu: Box<dyn Vcpu> = match bound {
                true => Box::new(BoundVcpu::bind(flat, &guest.vcpu).unwrap()),
                false => Box::new(ByFd::<dyn Kvm, _>::new(kvm, &guest.vcpu)),
            };
            let mut run = guest.run.lock().unwrap();
            taken.store(0, Ordering::SeqCst);
            let mut kicks = 0;
            while kicks < KICKS {
                let end = vcpu.kvm_run(&mut run).map(|exit| exit.reason());
                unless_internal(kvm, vcpu.as_fd(), &end);
                match end {
                    Ok(Reason::Io { .. }) => {}
                    Err(Errno::EINTR) => {
                        kicks += 1;
                        let made = made.load(Ordering::SeqCst);
                        assert_eq!(kicks, made, "runs ended after that many kicks");
                        taken.store(kicks, Ordering::SeqCst);
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        wait_until(|| taken.load(Ordering::SeqCst) == 0);
        let target: OwnedFd = match by_thread {
            true => pidfd_of_thread(thread).unwrap(),
            false => guest.vcpu.try_clone().unwrap(),
        };
        for n in 1..=KICKS {
            round.pause();
            made.store(n, Ordering::SeqCst);
            kick(flat, target.as_fd()).unwrap();
            // Another kick would merge with one that no run has taken. If this one is
            // lost, the watchdog ends the race.
            wait_until(|| taken.load(Ordering::SeqCst) == n);
        }
    });
}
