//! The thread that runs a vCPU moves between processors, during a run and
//! between runs.

use std::os::fd::AsFd;

use kvm_api::Errno;
use kvm_api::kvm_sys::{kvm_fpu, kvm_regs};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::Race;
use super::guest::wait_for_count;
use super::round::Round;
use super::threads::repeating;
use crate::requests::filled;

pub const RACES: &[Race] = &[("a vCPU keeps its state on any processor", race)];

/// The number of moves in a round.
const MOVES: u64 = 20;

fn race(round: &Round) {
    let mut guest = round.counting();
    guest.settle(round.runner());
    let (regs, fpu) = state(round);
    let vcpu = guest.vcpu.as_fd();
    round.runner().kvm_set_regs(vcpu, &regs).unwrap();
    round.runner().kvm_set_fpu(vcpu, &fpu).unwrap();
    repeating(|threads| {
        let kvm = round.other();
        let runner = threads.run(round.runner(), &guest, move |end| {
            assert_eq!(end, Err(Errno::EINTR));
            // Read on the processor of the last run, or already on another one.
            let mut now: kvm_regs = filled(|regs| kvm.kvm_get_regs(vcpu, regs)).unwrap();
            (now.rip, now.rflags) = (regs.rip, regs.rflags);
            assert_eq!(now, regs);
            let now: kvm_fpu = filled(|fpu| kvm.kvm_get_fpu(vcpu, fpu)).unwrap();
            assert_eq!((now.fpr, now.xmm), (fpu.fpr, fpu.xmm));
        });
        for n in 0..MOVES {
            pin(runner.thread, 1 << (n % 2));
            round.pause();
            match round.random.below(3) {
                0 => runner.interrupt(),
                // It continues on the processor where it is now.
                1 => wait_for_count(&guest.memory),
                _ => {}
            }
        }
        pin(runner.thread, 0b11);
        runner.end();
    });
}

/// A value to recognize.
fn state(round: &Round) -> (kvm_regs, kvm_fpu) {
    let word = || round.random.below(u64::MAX);
    let regs = kvm_regs {
        rax: word(),
        rcx: word(),
        rsi: word(),
        r8: word(),
        r15: word(),
        rip: guests::ENTRY,
        rflags: 2,
        ..Default::default()
    };
    let mut fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    for register in &mut fpu.xmm {
        *register = (u128::from(word()) << 64 | u128::from(word())).to_le_bytes();
    }
    (regs, fpu)
}

/// Lets a thread run on these processors only, the bits of `processors`.
pub fn pin(thread: Pid, processors: u64) {
    let mut set = CpuSet::new();
    for processor in (0..64).filter(|bit| processors >> bit & 1 != 0) {
        set.set(processor).unwrap();
    }
    sched_setaffinity(thread, &set).unwrap();
}
