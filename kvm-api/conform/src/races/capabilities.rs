//! What a vcpu's events may say depends on capabilities of its machine, which
//! another thread may change while they are set.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvm_api::kvm_sys::{kvm_regs, kvm_vcpu_events};
use kvm_api::{Errno, Kvm, Result, SetState};
use nix::{request_code_read, request_code_write};

use super::Race;
use super::guest::Guest;
use super::round::Round;
use crate::errors::enable;

pub const RACES: &[Race] = &[Race::new(
    "a capability that events need comes and goes",
    race,
)];

/// The type byte of KVM's ioctl requests.
const KVMIO: u8 = 0xae;
const KVM_CAP_EXCEPTION_PAYLOAD: u64 = 164;
const KVM_CAP_X86_TRIPLE_FAULT_EVENT: u64 = 218;
const VALID_PAYLOAD: u32 = 0x10;
const VALID_TRIPLE_FAULT: u32 = 0x20;
/// How often the events are set in a round.
const SETS: u64 = 500;

fn race(round: &Round) {
    let guest = Guest::counting(round.runner());
    let (vm, vcpu) = (guest.vm.as_fd(), guest.vcpu.as_fd());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for cap in [KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_CAP_EXCEPTION_PAYLOAD] {
            let over = &over;
            scope.spawn(move || {
                for on in [true, false].into_iter().cycle() {
                    enable(vm, cap, on.into()).unwrap();
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        set(round, vcpu);
        over.store(true, Ordering::Relaxed);
    });
}

/// Sets registers and events: both are set, or neither.
fn set(round: &Round, vcpu: BorrowedFd<'_>) {
    let mut regs = kvm_regs::default();
    round.runner().kvm_get_regs(vcpu, &mut regs).unwrap();
    let mut events = kvm_vcpu_events::default();
    let request = request_code_read!(KVMIO, 0x9f, size_of::<kvm_vcpu_events>());
    // SAFETY: the request writes this structure.
    let read = unsafe { libc::ioctl(vcpu.as_raw_fd(), request, &raw mut events) };
    Errno::result(read).unwrap();
    for n in 1..=SETS {
        let kvm = round.interface(n as usize);
        let before = regs.rbx;
        regs.rbx = n;
        events.flags = [VALID_TRIPLE_FAULT, VALID_TRIPLE_FAULT | VALID_PAYLOAD][n as usize % 2];
        let done = match kvm.kvm_set_state(vcpu, &SetState::new().regs(&regs).vcpu_events(&events))
        {
            Err(Errno::ENOSYS) => set_one_by_one(kvm, vcpu, &regs, &events),
            done => done.map(drop),
        };
        let mut seen = kvm_regs::default();
        kvm.kvm_get_regs(vcpu, &mut seen).unwrap();
        match done {
            Ok(()) => assert_eq!(seen.rbx, n),
            Err(Errno::EINVAL) => {
                assert_eq!(seen.rbx, before, "set although events are refused");
                regs.rbx = before;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The same by ioctls: events first, as they may be refused.
fn set_one_by_one(
    kvm: &dyn Kvm,
    vcpu: BorrowedFd<'_>,
    regs: &kvm_regs,
    events: &kvm_vcpu_events,
) -> Result<()> {
    let request = request_code_write!(KVMIO, 0xa0, size_of::<kvm_vcpu_events>());
    let mut events = *events;
    // SAFETY: the request reads this structure, and may change it.
    Errno::result(unsafe { libc::ioctl(vcpu.as_raw_fd(), request, &raw mut events) })?;
    kvm.kvm_set_regs(vcpu, regs)
}
