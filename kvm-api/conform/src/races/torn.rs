//! State that several threads set at once is never a mixture of their values.

use std::os::fd::{AsFd, BorrowedFd};

use guests::{ENTRY, programs};
use kvm_api::kvm_sys::*;
use kvm_api::merged::MergedVcpu;
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, GetState, Kvm, SetState, State};

use super::Race;
use super::round::Round;
use super::threads::repeating;
use crate::requests::{filled, msrs};

pub const RACES: &[Race] = &[
    ("general registers are not torn", |round| {
        race(round, set_regs, get_regs);
    }),
    ("special registers are not torn", |round| {
        race(round, set_sregs, get_sregs);
    }),
    ("floating point registers are not torn", |round| {
        race(round, set_fpu, get_fpu);
    }),
    ("MSRs are not torn", |round| race(round, set_msrs, get_msrs)),
    ("migrated state is not torn", |round| {
        race(round, set_migrated, get_migrated);
    }),
];

type Set = fn(&dyn Kvm, BorrowedFd<'_>, u32);
type Get = fn(&dyn Kvm, BorrowedFd<'_>) -> Vec<u64>;

/// The number of runs of the guest in a round.
const PIECES: u32 = 20;

/// Two threads set the state, each to its own values, two threads read it, and one
/// thread runs the guest in pieces, which does not change the state.
fn race(round: &Round, set: Set, get: Get) {
    let mut guest = round.guest(programs::SPIN);
    guest.settle(round.runner());
    let vcpu = guest.vcpu.as_fd();
    set(round.runner(), vcpu, 1);
    repeating(|threads| {
        for n in 0..2 {
            let mut value = 1 + n as u32;
            threads.repeat(move || {
                set(round.interface(n), vcpu, value);
                value += 2;
                round.pause();
            });
            threads.repeat(move || {
                let values = get(round.interface(n), vcpu);
                let first = values[0];
                let whole = values.iter().all(|it| *it == first);
                assert!(whole && first != 0, "{values:x?}");
                round.pause();
            });
        }
        let runner = threads.run(round.runner(), &guest, |end| {
            assert_eq!(end, Err(Errno::EINTR));
        });
        // The others use the vCPU between runs.
        for _ in 0..PIECES {
            round.pause();
            round.pause();
            runner.interrupt();
        }
        runner.end();
    });
}

fn set_regs(kvm: &dyn Kvm, vcpu: BorrowedFd<'_>, value: u32) {
    let v = u64::from(value);
    #[rustfmt::skip]
    let regs = kvm_regs {
        rax: v, rbx: v, rcx: v, rdx: v, rsi: v, rdi: v, rsp: v, rbp: v,
        r8: v, r9: v, r10: v, r11: v, r12: v, r13: v, r14: v, r15: v,
        rip: ENTRY, rflags: 2,
    };
    kvm.kvm_set_regs(vcpu, &regs).unwrap();
}

fn get_regs(kvm: &dyn Kvm, vcpu: BorrowedFd<'_>) -> Vec<u64> {
    let r: kvm_regs = filled(|regs| kvm.kvm_get_regs(vcpu, regs)).unwrap();
    assert_eq!((r.rip, r.rflags), (ENTRY, 2));
    #[rustfmt::skip]
    let values = vec![
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp,
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15,
    ];
    values
}

/// The bases of segments and tables that the guest does not use, and CR2, of either structure.
macro_rules! unused {
    ($sregs:ident) => {
        [
            &mut $sregs.fs.base,
            &mut $sregs.gs.base,
            &mut $sregs.ldt.base,
            &mut $sregs.gdt.base,
            &mut $sregs.idt.base,
            &mut $sregs.cr2,
        ]
    };
}

fn set_sregs(kvm: &dyn Kvm, vcpu: BorrowedFd<'_>, value: u32) {
    let v = u64::from(value);
    let mut sregs: kvm_sregs = filled(|sregs| kvm.kvm_get_sregs(vcpu, sregs)).unwrap();
    for register in unused!(sregs) {
        *register = v;
    }
    kvm.kvm_set_sregs(vcpu, &sregs).unwrap();
}

fn get_sregs(kvm: &dyn Kvm, vcpu: BorrowedFd<'_>) -> Vec<u64> {
    let mut sregs: kvm_sregs = filled(|sregs| kvm.kvm_get_sregs(vcpu, sregs)).unwrap();
    unused!(sregs).map(|register| *register).into()
}

fn set_fpu(kvm: &dyn Kvm, vcpu: BorrowedFd<'_>, value: u32) {
    let mut register = [0; 16];
    register[..4].copy_from_slice(&value.to_le_bytes());
    let fpu = kvm_fpu {
        // A processor keeps ten bytes of each x87 register, which include
        // these.
        fpr: [register; 8],
        xmm: [register; 16],
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    kvm.kvm_set_fpu(vcpu, &fpu).unwrap();
}

fn get_fpu(kvm: &dyn Kvm, vcpu: BorrowedFd<'_>) -> Vec<u64> {
    let fpu: kvm_fpu = filled(|fpu| kvm.kvm_get_fpu(vcpu, fpu)).unwrap();
    let registers = fpu.fpr.iter().chain(&fpu.xmm);
    let low = |register: &[u8; 16]| {
        let (low, _) = register.split_first_chunk().expect("16 are more than 8");
        u64::from_le_bytes(*low)
    };
    registers.map(low).collect()
}

/// SYSENTER's three, STAR, LSTAR, CSTAR and KERNEL_GS_BASE.
const MSRS: [u32; 7] = [
    0x174,
    0x175,
    0x176,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0102,
];

fn values(value: u32) -> Msrs {
    msrs(MSRS.map(|index| (index, value.into())))
}

fn set_msrs(kvm: &dyn Kvm, vcpu: BorrowedFd<'_>, value: u32) {
    // A processor may keep 16 bits of SYSENTER_CS.
    let set = kvm.kvm_set_msrs(vcpu, &values(value % 0xffff + 1)).unwrap();
    assert_eq!(set, MSRS.len());
}

fn get_msrs(kvm: &dyn Kvm, vcpu: BorrowedFd<'_>) -> Vec<u64> {
    let mut msrs = values(0);
    assert_eq!(kvm.kvm_get_msrs(vcpu, &mut msrs).unwrap(), MSRS.len());
    msrs.as_slice().iter().map(|msr| msr.data).collect()
}

fn merged(vcpu: BorrowedFd<'_>) -> MergedVcpu<BorrowedFd<'_>> {
    MergedVcpu::new(Syscall::open().unwrap(), vcpu)
}

/// Those registers, and the offset of the TSC, in one call.
fn set_migrated(_: &dyn Kvm, vcpu: BorrowedFd<'_>, value: u32) {
    let v = u64::from(value);
    let mut sregs = kvm_sregs2::default();
    let mut state = GetState::new().sregs2(&mut sregs);
    merged(vcpu).kvm_get_state(&mut state).unwrap();
    for register in unused!(sregs) {
        *register = v;
    }
    let state = SetState::new().sregs2(&sregs).tsc_offset(&v);
    merged(vcpu).kvm_set_state(&state).unwrap();
}

fn get_migrated(_: &dyn Kvm, vcpu: BorrowedFd<'_>) -> Vec<u64> {
    let (mut sregs, mut offset) = (kvm_sregs2::default(), 0);
    let mut state = GetState::new().sregs2(&mut sregs).tsc_offset(&mut offset);
    merged(vcpu).kvm_get_state(&mut state).unwrap();
    let registers = unused!(sregs).map(|register| *register);
    registers.into_iter().chain([offset]).collect()
}
