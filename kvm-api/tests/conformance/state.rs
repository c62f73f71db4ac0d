//! kvm_get_state, kvm_set_state: each part alone and with the others. A call that fails
//! has changed nothing.

use std::os::fd::BorrowedFd;

use guests::TestVm;
use kvm_api::kvm_sys::*;
use kvm_api::merged::MergedVcpu;
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, GetState, Result, SetState, State};

use crate::Needs::AnyVcpu;
use crate::state_misuse::{CALLS, SIZE, addresses, raw_state};
use crate::vcpu_state::{PARTS, SYSENTER_CS, SYSENTER_ESP, UNKNOWN, Whole, msrs};
use crate::{Stage, Test};
use kvm_api::Form;

/// A test of the backend with the calls.
pub const fn on_syscall(name: &'static str, test: fn(&Stage)) -> (Form, Test) {
    (Form::Syscall, (name, AnyVcpu, test))
}

pub const TESTS: &[(Form, Test)] = &[
    on_syscall("kvm_get_state::each_subset", get_subsets),
    on_syscall("kvm_get_state::an_msr_that_cannot_be_read", get_unknown),
    on_syscall("kvm_set_state::each_subset", set_subsets),
    on_syscall("kvm_set_state::one_bad_part_and_nothing_is_set", set_bad),
    on_syscall("kvm_set_state::a_bad_pointer_and_nothing_is_set", set_fault),
    on_syscall("kvm_set_state::msrs_go_back", set_msrs_go_back),
    on_syscall("kvm_set_state::the_tsc_goes_on", set_tsc),
    on_syscall("kvm_set_state::an_exception_stays_pending", set_exception),
];

/// Every part's bit.
pub const ALL: u64 = (1 << PARTS) - 1;

/// A machine whose vCPU has every feature of KVM, and the state that the ioctls read.
pub fn machine(stage: &Stage) -> (TestVm<'_>, Whole) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let supported = kvm_ioctls::Kvm::new()
        .unwrap()
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .unwrap();
    machine.vcpu.kvm_set_cpuid(&supported).unwrap();
    let whole = read(stage, &machine);
    (machine, whole)
}

/// The vCPU of a machine, by the merged calls.
pub fn merged<'m>(machine: &'m TestVm<'_>) -> MergedVcpu<BorrowedFd<'m>> {
    MergedVcpu::new(Syscall::open().unwrap(), machine.vcpu())
}

fn read(stage: &Stage, machine: &TestVm<'_>) -> Whole {
    Whole::read(&*stage.witness, machine.vcpu())
}

/// The number of MSRs of a call with these parts.
fn moved(parts: u64) -> usize {
    if parts & state::KVM_STATE_MSRS == 0 {
        0
    } else {
        2
    }
}

fn get_subsets(stage: &Stage) {
    let (machine, whole) = machine(stage);
    whole.changed().set(&*stage.witness, machine.vcpu());
    let all = read(stage, &machine).parts();
    let before = Whole::empty().parts();
    for parts in 0..=ALL {
        let mut got = Whole::empty();
        let result = merged(&machine).kvm_get_state(&mut got.getting(parts));
        assert_eq!(result, Ok(moved(parts)), "{parts:#b}");
        for (part, got) in got.parts().iter().enumerate() {
            let chosen = parts & (1 << part) != 0;
            let expected = if chosen { &all } else { &before };
            assert_eq!(got, &expected[part], "part {part} of {parts:#b}");
        }
    }
}

fn set_subsets(stage: &Stage) {
    let (machine, whole) = machine(stage);
    let changed = whole.changed();
    for parts in 0..=ALL {
        whole.clone().set(&*stage.witness, machine.vcpu());
        let before = read(stage, &machine).parts();
        let result = merged(&machine).kvm_set_state(&changed.setting(parts));
        assert_eq!(result, Ok(moved(parts)), "{parts:#b}");
        let after = read(stage, &machine).parts();
        for part in 0..PARTS {
            let chosen = parts & (1 << part) != 0;
            let expected = if chosen {
                changed.parts()
            } else {
                before.clone()
            };
            assert_eq!(after[part], expected[part], "part {part} of {parts:#b}");
        }
    }
}

fn get_unknown(stage: &Stage) {
    let (machine, _) = machine(stage);
    for (index, list) in [
        (0, &[(UNKNOWN, 0), (SYSENTER_CS, 0)]),
        (1, &[(SYSENTER_CS, 7), (UNKNOWN, 7)]),
    ] {
        let mut got = Whole::empty();
        got.msrs = msrs(list);
        let before = got.parts();
        let result = merged(&machine).kvm_get_state(&mut got.getting(ALL));
        assert_eq!(result, Ok(index));
        assert_eq!(got.parts(), before);
    }
    let mut many = Msrs::new(256).unwrap();
    let result = merged(&machine).kvm_get_state(&mut GetState::new().msrs(&mut many));
    assert_eq!(result, Err(Errno::E2BIG));
}

/// A change that makes one part of a state invalid.
type Spoil = (&'static str, fn(&mut Whole), Result<usize>);

const BAD: &[Spoil] = &[
    (
        "sregs, of a mode that cannot be",
        |whole| whole.sregs.efer = 1 << 10,
        Err(Errno::EINVAL),
    ),
    (
        "sregs, an APIC base beyond the addresses",
        |whole| whole.sregs.apic_base = 1 << 60,
        Err(Errno::EINVAL),
    ),
    (
        "msrs, the first",
        |whole| whole.msrs = msrs(&[(UNKNOWN, 1), (SYSENTER_CS, 1)]),
        Ok(0),
    ),
    (
        "msrs, the last",
        |whole| whole.msrs = msrs(&[(SYSENTER_CS, 1), (SYSENTER_ESP, 1), (UNKNOWN, 1)]),
        Ok(2),
    ),
    (
        "msrs, a value",
        |whole| whole.msrs = msrs(&[(SYSENTER_CS, 1), (0xc000_0080, !0)]),
        Ok(1),
    ),
    (
        "msrs, a register of the APIC",
        |whole| whole.msrs = msrs(&[(SYSENTER_CS, 1), (0x808, 0)]),
        Ok(1),
    ),
    (
        "msrs, too many",
        |whole| whole.msrs = Msrs::new(256).unwrap(),
        Err(Errno::E2BIG),
    ),
    (
        "debugregs, flags",
        |whole| whole.debugregs.flags = 1,
        Err(Errno::EINVAL),
    ),
    (
        "debugregs, dr6",
        |whole| whole.debugregs.dr6 = 1 << 32,
        Err(Errno::EINVAL),
    ),
    (
        "debugregs, dr7",
        |whole| whole.debugregs.dr7 = 1 << 32,
        Err(Errno::EINVAL),
    ),
    (
        "vcpu_events, flags",
        |whole| whole.vcpu_events.flags |= 1 << 31,
        Err(Errno::EINVAL),
    ),
    (
        "vcpu_events, a vector that is no exception's",
        |whole| {
            whole.vcpu_events.exception.injected = 1;
            whole.vcpu_events.exception.nr = 32;
        },
        Err(Errno::EINVAL),
    ),
    (
        "vcpu_events, a triple fault where it has no meaning",
        |whole| whole.vcpu_events.flags |= TRIPLE_FAULT,
        Err(Errno::EINVAL),
    ),
    (
        "xcrs, without the FPU",
        |whole| whole.xcrs.xcrs[0].value = 0,
        Err(Errno::EINVAL),
    ),
    (
        "xcrs, too many",
        |whole| whole.xcrs.nr_xcrs = 17,
        Err(Errno::EINVAL),
    ),
    (
        "xcrs, flags",
        |whole| whole.xcrs.flags = 1,
        Err(Errno::EINVAL),
    ),
];

/// KVM_VCPUEVENT_VALID_TRIPLE_FAULT.
const TRIPLE_FAULT: u32 = 0x20;

fn set_bad(stage: &Stage) {
    let (machine, whole) = machine(stage);
    let before = whole.parts();
    for (what, spoil, expected) in BAD {
        let mut changed = whole.changed();
        spoil(&mut changed);
        let result = merged(&machine).kvm_set_state(&changed.setting(ALL));
        assert_eq!(result, *expected, "{what}");
        assert_eq!(read(stage, &machine).parts(), before, "{what}");
    }
}

fn set_fault(stage: &Stage) {
    let (machine, whole) = machine(stage);
    let before = whole.parts();
    for part in 0..PARTS {
        for bad in [0, 1 << 63] {
            let mut changed = whole.changed();
            let mut state = addresses(&mut changed);
            let field = match part {
                0 => &mut state.regs,
                1 => &mut state.sregs,
                2 => &mut state.fpu,
                3 => &mut state.msrs,
                4 => &mut state.debugregs,
                5 => &mut state.vcpu_events,
                _ => &mut state.xcrs,
            };
            *field = bad;
            for number in CALLS {
                let result = raw_state(number, machine.vcpu(), &state, SIZE);
                assert_eq!(result, Err(Errno::EFAULT), "part {part}");
                assert_eq!(read(stage, &machine).parts(), before, "part {part}");
            }
        }
    }
}

fn set_msrs_go_back(stage: &Stage) {
    let (machine, whole) = machine(stage);
    let mut changed = whole.changed();
    // The list has one MSR twice. The call has to restore its first value.
    changed.msrs = msrs(&[(SYSENTER_CS, 1), (SYSENTER_ESP, 2), (SYSENTER_CS, 3)]);
    // The parts after the MSRs in order, which the call checks after it has set the MSRs.
    changed.sregs.apic_base = 1 << 60;
    let result = merged(&machine).kvm_set_state(&changed.setting(ALL));
    assert_eq!(result, Err(Errno::EINVAL));
    assert_eq!(read(stage, &machine).parts(), whole.parts());
}

fn set_tsc(stage: &Stage) {
    const TSC: u32 = 0x10;
    let (machine, _) = machine(stage);
    let tsc = || {
        let mut list = msrs(&[(TSC, 0)]);
        assert_eq!(stage.witness.kvm_get_msrs(machine.vcpu(), &mut list), Ok(1));
        list.as_slice()[0].data
    };
    let before = tsc();
    let list = msrs(&[(TSC, 1 << 60), (UNKNOWN, 0)]);
    let result = merged(&machine).kvm_set_state(&SetState::new().msrs(&list));
    assert_eq!(result, Ok(1));
    let after = tsc();
    assert!((before..1 << 60).contains(&after), "{before} {after}");
}

fn set_exception(stage: &Stage) {
    const UD: u8 = 6;
    let (machine, mut whole) = machine(stage);
    whole.vcpu_events.exception.injected = 1;
    whole.vcpu_events.exception.nr = UD;
    let result = merged(&machine).kvm_set_state(&whole.setting(ALL));
    assert_eq!(result, Ok(2));
    let exception = read(stage, &machine).vcpu_events.exception;
    assert_eq!((exception.injected, exception.nr), (1, UD));
}
