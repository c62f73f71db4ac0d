//! The valid events of a vCPU, and the effect of a write to an MSR, depend on
//! settings of the VM. Another thread changes the settings while events and
//! MSRs are set.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use guests::msr::TSC_DEADLINE;
use kvm_api::bound::BoundVcpu;
use kvm_api::kvm_sys::{
    KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_XEN_HVM_CONFIG, kvm_regs, kvm_vcpu_events,
    kvm_xen_hvm_config,
};
use kvm_api::merged::MergedVcpu;
use kvm_api::{Errno, Kvm, Result, SetState, State};

use super::Race;
use super::round::Round;
use super::threads::repeating;
use crate::requests::{KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT};
use crate::requests::{enable, filled, msrs, request};

pub const RACES: &[Race] = &[("a capability that events need comes and goes", race)];

const VALID_PAYLOAD: u32 = 0x10;
const VALID_TRIPLE_FAULT: u32 = 0x20;
/// An MSR that nobody sets.
const HYPERCALL_PAGE: u32 = 0x4000_0200;
/// The number of times that the events are set in a round.
const SETS: u64 = 500;

/// Names the MSR whose write fills the page for Xen's hypercalls.
fn name_hypercall_msr(vm: BorrowedFd<'_>, msr: u32) -> anyhow::Result<()> {
    // It has no page to write.
    let config = kvm_xen_hvm_config {
        msr,
        ..Default::default()
    };
    let config = (&raw const config).expose_provenance();
    request(vm, KVM_XEN_HVM_CONFIG, config)
}

/// As long as the VM lives, KVM does not patch its code when a hypercall page
/// is set or removed.
pub fn keep(vm: BorrowedFd<'_>) {
    name_hypercall_msr(vm, HYPERCALL_PAGE).unwrap();
}

/// Whether any MSR can be named. Linux 7.3 accepts only those of Xen's range, and a write
/// by userspace does not fill the page.
fn accepts_any_msr(vm: BorrowedFd<'_>) -> bool {
    match name_hypercall_msr(vm, TSC_DEADLINE) {
        Ok(()) => true,
        Err(error) => {
            let errno = error.downcast_ref();
            assert_eq!(errno, Some(&Errno::EINVAL), "{error:#}");
            false
        }
    }
}

fn race(round: &Round) {
    let guest = round.counting();
    let (vm, vcpu) = (guest.vm.as_fd(), guest.vcpu.as_fd());
    repeating(|threads| {
        if accepts_any_msr(vm) {
            threads.repeat(move || {
                // A write to TSC_DEADLINE fails only while it names the page.
                name_hypercall_msr(vm, TSC_DEADLINE).unwrap();
                name_hypercall_msr(vm, HYPERCALL_PAGE).unwrap();
            });
        }
        for cap in [KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_CAP_EXCEPTION_PAYLOAD] {
            threads.repeat(move || {
                enable(vm, cap, 1).unwrap();
                enable(vm, cap, 0).unwrap();
            });
        }
        set(round, vcpu, None);
        if let Some(flat) = round.flat(0) {
            let bound = BoundVcpu::bind(flat, vcpu).unwrap();
            set(round, vcpu, Some(&bound));
        }
    });
}

/// Sets registers and events, by the binding if there is one: KVM sets both, or neither.
fn set(round: &Round, vcpu: BorrowedFd<'_>, bound: Option<&BoundVcpu<BorrowedFd<'_>>>) {
    let msrs = msrs([(TSC_DEADLINE, 0)]);
    let get_regs =
        |kvm: &dyn Kvm| -> kvm_regs { filled(|regs| kvm.kvm_get_regs(vcpu, regs)).unwrap() };
    let mut regs = get_regs(round.runner());
    let mut events = kvm_vcpu_events::default();
    let place = (&raw mut events).expose_provenance();
    request(vcpu, KVM_GET_VCPU_EVENTS, place).unwrap();
    for n in 1..=SETS {
        let kvm = round.interface(n as usize);
        let before = regs.rbx;
        regs.rbx = n;
        events.flags = [VALID_TRIPLE_FAULT, VALID_TRIPLE_FAULT | VALID_PAYLOAD][n as usize % 2];
        let state = SetState::new().regs(&regs).msrs(&msrs).vcpu_events(&events);
        let done = match (bound, round.flat(n as usize)) {
            (Some(bound), _) => bound.kvm_set_state(&state).map(drop),
            (None, Some(flat)) => MergedVcpu::new(flat, vcpu).kvm_set_state(&state).map(drop),
            (None, None) => set_one_by_one(kvm, vcpu, &regs, &events),
        };
        let seen = get_regs(kvm).rbx;
        match done {
            Ok(()) => assert_eq!(seen, n),
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => {
                assert_eq!(seen, before, "set although the call failed");
                regs.rbx = before;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Sets them by ioctls: the events first, because KVM may refuse them.
fn set_one_by_one(
    kvm: &dyn Kvm,
    vcpu: BorrowedFd<'_>,
    regs: &kvm_regs,
    events: &kvm_vcpu_events,
) -> Result<()> {
    let mut events = *events;
    // SAFETY: the request reads this structure, and may change it.
    Errno::result(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_VCPU_EVENTS, &raw mut events) })?;
    kvm.kvm_set_regs(vcpu, regs)
}
