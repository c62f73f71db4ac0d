//! kvm_set_state: MSRs that cannot be restored, and MSRs that depend on another part.

use std::os::fd::{AsFd, AsRawFd};
use std::thread::sleep;
use std::time::Duration;

use guests::msr::{
    APIC_BASE, ASYNC_PF_EN, EFER, FS_BASE, GS_BASE, HV_RESET, HV_TPR, PV_EOI_EN, TSC, TSC_DEADLINE,
    X2APIC_EOI, X2APIC_ICR, X2APIC_LVTT, X2APIC_SELF_IPI, X2APIC_SPIV, X2APIC_TPR,
};
use guests::programs::{HANDLER, HANDLER_AT, OUT_PORT};
use guests::{ENTRY, TestVm};
use kvm_api::kvm_sys::*;
use kvm_api::{Errno, SetState, State};

use crate::state::{merged, on_syscall};
use crate::vcpu_state::{SYSENTER_CS, UNKNOWN, msrs};
use crate::{Stage, Test};
use kvm_api::Form;

pub const TESTS: &[(Form, Test)] = &[
    on_syscall("kvm_set_state::an_msr_that_acts_is_refused", acts),
    on_syscall("kvm_set_state::sregs_come_before_msrs", x2apic),
    on_syscall("kvm_set_state::an_msr_wins_over_sregs", wins),
    on_syscall("kvm_set_state::what_cannot_go_back_comes_last", last),
    on_syscall(
        "kvm_set_state::addresses_are_enabled_and_disabled",
        enabling,
    ),
    on_syscall("kvm_set_state::a_refused_tsc_leaves_no_trace", tsc),
    on_syscall("kvm_set_state::the_last_efer_counts", efers),
    on_syscall("kvm_set_state::a_tpr_that_others_set", tpr),
];

/// The bit of EFER that allows the guest to run guests.
const SVME: u64 = 1 << 12;
/// The bit of EFER that enables system calls.
const SCE: u64 = 1;
/// The bit of IA32_APIC_BASE for x2APIC mode.
const X2APIC: u64 = 1 << 10;
/// The vector of the local APIC's timer, which [`HANDLER`] writes.
const VECTOR: u64 = 0x21;
/// The mode of the timer in which it takes IA32_TSC_DEADLINE.
const DEADLINE_MODE: u64 = 0b10 << 17;
const SOFTWARE_ENABLED: u64 = 0x1ff;

/// A machine with a local APIC in the kernel, and with all features of KVM in CPUID.
pub fn with_apic(stage: &Stage) -> TestVm<'_> {
    let vm = stage.kvm.kvm_create_vm().unwrap();
    crate::raw::create_irqchip(vm.as_fd()).unwrap();
    let machine = TestVm::of_vm(&*stage.kvm, vm, 0);
    let mut supported = kvm_ioctls::Kvm::new()
        .unwrap()
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .unwrap();
    for leaf in supported.as_mut_slice() {
        if leaf.function == 1 {
            // KVM has this feature, but does not list it here.
            leaf.ecx |= 1 << 24;
        }
    }
    machine.vcpu.kvm_set_cpuid(&supported).unwrap();
    machine
}

fn get(stage: &Stage, machine: &TestVm<'_>, index: u32) -> u64 {
    let mut list = msrs(&[(index, 0)]);
    let read = stage.witness.kvm_get_msrs(machine.vcpu(), &mut list);
    assert_eq!(read, Ok(1), "{index:#x}");
    list.as_slice()[0].data
}

fn set(machine: &TestVm<'_>, list: &[(u32, u64)]) -> kvm_api::Result<usize> {
    let list = msrs(list);
    merged(machine).kvm_set_state(&SetState::new().msrs(&list))
}

/// Sets MSRs and special registers.
fn set_both(
    machine: &TestVm<'_>,
    list: &[(u32, u64)],
    sregs: &kvm_sregs,
) -> kvm_api::Result<usize> {
    let list = msrs(list);
    let state = SetState::new().msrs(&list).sregs(sregs);
    merged(machine).kvm_set_state(&state)
}

/// Lets the guest enable interrupts and write `own` to the port. If an interrupt is
/// pending, [`HANDLER`] first writes the vector.
fn first_byte(machine: &mut TestVm<'_>, own: u8) -> u8 {
    // sti; nop; nop; mov $own,%al; out %al,$0x11; jmp .
    machine.load(&[0xfb, 0x90, 0x90, 0xb0, own, 0xe6, 0x11, 0xeb, 0xfe]);
    machine.memory.write(HANDLER_AT.into(), HANDLER).unwrap();
    let entry = [HANDLER_AT.to_le_bytes(), [0, 0]].concat();
    machine.memory.write(4 * VECTOR as usize, &entry).unwrap();
    machine.start_at(ENTRY);
    machine.run_to_out(OUT_PORT)
}

/// MSRs whose write has a further effect, and a value with this effect. The last ones exist
/// in x2APIC mode only.
const ACTING: &[(u32, u64)] = &[
    (0x49, 1),  // IA32_PRED_CMD
    (0x10b, 1), // IA32_FLUSH_CMD
    (HV_RESET, 1),
    (0x4000_0000, 1),    // HV_X64_MSR_GUEST_OS_ID
    (0x4000_0001, 1),    // HV_X64_MSR_HYPERCALL
    (0x4000_0021, 1),    // HV_X64_MSR_REFERENCE_TSC
    (0x4000_0070, 0),    // HV_X64_MSR_EOI
    (0x4000_0071, 0x21), // HV_X64_MSR_ICR
    (HV_TPR, 0x10),
    (0x4000_0073, 1), // HV_X64_MSR_VP_ASSIST_PAGE
    (0x4000_0084, 1), // HV_X64_MSR_EOM
    (0x4000_00b0, 1), // HV_X64_MSR_STIMER0_CONFIG
    (0x4b56_4d07, 1), // MSR_KVM_ASYNC_PF_ACK
    (X2APIC_EOI, 0),
    (X2APIC_ICR, 0x21),
    (X2APIC_SELF_IPI, VECTOR),
];

fn acts(stage: &Stage) {
    let mut machine = with_apic(stage);
    machine.change_sregs(|sregs| sregs.apic_base |= X2APIC);
    let enabled = [(X2APIC_SPIV, SOFTWARE_ENABLED)];
    assert_eq!(set(&machine, &enabled), Ok(1));
    for &(index, data) in ACTING {
        for list in [
            &[(SYSENTER_CS, 7), (index, data)][..],
            // Each comes before an invalid MSR. The call has no effect when it finds
            // that one.
            &[(SYSENTER_CS, 7), (index, data), (UNKNOWN, 0)],
        ] {
            let result = set(&machine, list);
            assert_eq!(result, Err(Errno::EOPNOTSUPP), "{index:#x}");
            assert_eq!(get(stage, &machine, SYSENTER_CS), 0, "{index:#x}");
        }
    }
    // An MSR that has the value already needs no restoring.
    for index in [HV_RESET, 0x4000_0000, 0x4000_0001, 0x4000_0073, 0x4b56_4d07] {
        assert_eq!(set(&machine, &[(index, 0)]), Ok(1), "{index:#x}");
    }
    // The guest continues, without a reset or an interrupt.
    assert_eq!(first_byte(&mut machine, 0x5a), 0x5a);
}

fn x2apic(stage: &Stage) {
    let mut machine = with_apic(stage);
    let mut sregs = machine.sregs();
    let before = sregs;
    sregs.apic_base |= X2APIC;
    let list = [
        (X2APIC_SPIV, SOFTWARE_ENABLED),
        (X2APIC_TPR, 0x10),
        (X2APIC_LVTT, DEADLINE_MODE | VECTOR),
        (TSC_DEADLINE, 1),
    ];
    // These MSRs need the mode. Without it, the call sets none of them.
    assert_eq!(set(&machine, &list), Ok(0));
    // If the call refuses another part, the mode is restored with the rest.
    let bad = [&list[..], &[(UNKNOWN, 0)]].concat();
    assert_eq!(set_both(&machine, &bad, &sregs), Ok(4));
    assert_eq!(machine.sregs().apic_base, before.apic_base);

    assert_eq!(set_both(&machine, &list, &sregs), Ok(4));
    assert_eq!(machine.sregs().apic_base, sregs.apic_base);
    assert_eq!(get(stage, &machine, X2APIC_SPIV), SOFTWARE_ENABLED);
    assert_eq!(get(stage, &machine, X2APIC_LVTT), DEADLINE_MODE | VECTOR);
    assert_eq!(get(stage, &machine, X2APIC_TPR), 0x10);
    // The deadline is in the past.
    assert_eq!(first_byte(&mut machine, 0x5a), VECTOR as u8);

    // An MSR can also enable the mode.
    let other = with_apic(stage);
    let list = [(APIC_BASE, sregs.apic_base), (X2APIC_TPR, 0x20)];
    assert_eq!(set(&other, &list), Ok(2));
    assert_eq!(get(stage, &other, X2APIC_TPR), 0x20);
    // An MSR can also disable it. Then these registers do not exist.
    let list = [(APIC_BASE, before.apic_base), (X2APIC_TPR, 0)];
    assert_eq!(set(&other, &list), Ok(1));
    assert_eq!(get(stage, &other, X2APIC_TPR), 0x20);
}

fn wins(stage: &Stage) {
    let machine = with_apic(stage);
    let sregs = machine.sregs();
    let list = [(EFER, SCE), (FS_BASE, 0x1234_0000), (GS_BASE, 0x5678_0000)];
    assert_eq!(set_both(&machine, &list, &sregs), Ok(3));
    let seen = machine.sregs();
    let seen = (seen.efer, seen.fs.base, seen.gs.base);
    assert_eq!(seen, (SCE, 0x1234_0000, 0x5678_0000));
    // The call finds invalid values of MSRs before it sets anything.
    for (index, data) in [(EFER, !0), (FS_BASE, 1 << 63), (GS_BASE, 1 << 63)] {
        let list = [(SYSENTER_CS, 7), (index, data)];
        let result = set_both(&machine, &list, &sregs);
        assert_eq!(result, Ok(1), "{index:#x}");
        assert_eq!(get(stage, &machine, SYSENTER_CS), 0, "{index:#x}");
        assert_eq!(machine.sregs().fs.base, 0x1234_0000, "{index:#x}");
    }
}

fn last(stage: &Stage) {
    let mut machine = with_apic(stage);
    let sregs = {
        let mut sregs = machine.sregs();
        sregs.apic_base |= X2APIC;
        sregs
    };
    let timer = [
        (X2APIC_SPIV, SOFTWARE_ENABLED),
        (X2APIC_LVTT, DEADLINE_MODE | VECTOR),
    ];
    assert_eq!(set_both(&machine, &timer, &sregs), Ok(2));
    // A deadline in the past, before the MSR that KVM refuses.
    assert_eq!(set(&machine, &[(TSC_DEADLINE, 1), (UNKNOWN, 0)]), Ok(1));
    let mut bad = sregs;
    bad.cr4 = 1 << 31;
    let result = set_both(&machine, &[(TSC_DEADLINE, 1)], &bad);
    assert_eq!(result, Err(Errno::EINVAL));
    assert_eq!(first_byte(&mut machine, 0x5a), 0x5a);
    assert_eq!(set(&machine, &[(TSC_DEADLINE, 1)]), Ok(1));
    assert_eq!(first_byte(&mut machine, 0x5a), VECTOR as u8);
}

/// The MSRs that let KVM write to guest memory.
fn enabling(stage: &Stage) {
    let machine = with_apic(stage);
    for (index, one, other) in [(PV_EOI_EN, 0x2001, 0x3001), (ASYNC_PF_EN, 0x2009, 0x3009)] {
        // Where there is no memory.
        let nowhere = [(index, one | 0x4000_0000)];
        assert_eq!(set(&machine, &nowhere), Ok(0), "{index:#x}");
        assert_eq!(get(stage, &machine, index), 0, "{index:#x}");
        let bad = [(index, one), (UNKNOWN, 0)];
        assert_eq!(set(&machine, &bad), Ok(1), "{index:#x}");
        assert_eq!(get(stage, &machine, index), 0, "{index:#x}");

        assert_eq!(set(&machine, &[(index, one)]), Ok(1), "{index:#x}");
        assert_eq!(set(&machine, &[(index, one)]), Ok(1), "{index:#x}");
        let moved = set(&machine, &[(index, other)]);
        assert_eq!(moved, Err(Errno::EOPNOTSUPP), "{index:#x}");
        let bad = [(index, 0), (UNKNOWN, 0)];
        assert_eq!(set(&machine, &bad), Ok(1), "{index:#x}");
        assert_eq!(get(stage, &machine, index), one, "{index:#x}");
        // The last value counts.
        let again = [(index, 0), (index, one)];
        assert_eq!(set(&machine, &again), Ok(2), "{index:#x}");
        assert_eq!(get(stage, &machine, index), one, "{index:#x}");
        assert_eq!(set(&machine, &[(index, 0)]), Ok(1), "{index:#x}");
        assert_eq!(get(stage, &machine, index), 0, "{index:#x}");
    }
}

/// Once user space has set the TSC of a VM, KVM takes a nearly equal value for an
/// attempt to set the same one. A refused list must not count as such.
fn tsc(stage: &Stage) {
    let machine = with_apic(stage);
    let vcpu = machine.vcpu().as_raw_fd();
    // SAFETY: the request takes nothing.
    let khz = Errno::result(unsafe { libc::ioctl(vcpu, KVM_GET_TSC_KHZ) }).unwrap() as u64;
    assert_eq!(set(&machine, &[(TSC, 1 << 60), (UNKNOWN, 0)]), Ok(1));
    let mut bad = machine.sregs();
    bad.cr4 = 1 << 31;
    let result = set_both(&machine, &[(TSC, 1 << 60)], &bad);
    assert_eq!(result, Err(Errno::EINVAL));
    // If the host's TSC is unreliable, KVM adds the time that has passed to the value.
    sleep(Duration::from_millis(600));
    let jump = khz * 500;
    let before = get(stage, &machine, TSC);
    let list = msrs(&[(TSC, before + jump)]);
    assert_eq!(stage.witness.kvm_set_msrs(machine.vcpu(), &list), Ok(1));
    let moved = get(stage, &machine, TSC) - before;
    assert!((jump..2 * jump).contains(&moved), "{moved}, of {jump}");
    // The call can set it with the rest.
    assert_eq!(set(&machine, &[(TSC, 1 << 60), (SYSENTER_CS, 7)]), Ok(2));
    assert!(get(stage, &machine, TSC) >= 1 << 60);
    assert_eq!(get(stage, &machine, SYSENTER_CS), 7);
}

/// The state for nested guests of a guest that runs none: whether the guest takes
/// interrupts at all. Clearing EFER.SVME allows them.
#[repr(C)]
struct NestedState {
    flags: u16,
    format: u16,
    size: u32,
    rest: [u8; 120],
}

impl NestedState {
    const GIF_SET: u16 = 0x100;
    const SVM: u16 = 1;

    fn of_svm() -> Self {
        Self {
            flags: 0,
            format: Self::SVM,
            size: size_of::<Self>() as u32,
            rest: [0; 120],
        }
    }

    fn pass(&mut self, machine: &TestVm<'_>, request: libc::c_ulong) -> kvm_api::Result<()> {
        let vcpu = machine.vcpu().as_raw_fd();
        // SAFETY: the requests pass a structure of this size.
        Errno::result(unsafe { libc::ioctl(vcpu, request, &raw mut *self) }).map(drop)
    }
}

/// If two entries set EFER, only the last one counts. If it has SVME, the state for nested
/// guests stays.
fn efers(stage: &Stage) {
    let machine = with_apic(stage);
    if set(&machine, &[(EFER, SVME)]) != Ok(1) {
        // This processor does not offer it to guests.
        return;
    }
    NestedState::of_svm()
        .pass(&machine, KVM_SET_NESTED_STATE)
        .unwrap();
    let gif = || {
        let mut state = NestedState::of_svm();
        state.pass(&machine, KVM_GET_NESTED_STATE).unwrap();
        state.flags & NestedState::GIF_SET != 0
    };
    assert!(!gif());
    for list in [
        &[(EFER, 0), (EFER, SVME | SCE)][..],
        &[(EFER, SCE), (EFER, SVME), (EFER, SVME | SCE)],
        &[(EFER, SVME), (EFER, 0), (EFER, SVME | SCE)],
    ] {
        assert_eq!(set(&machine, list), Ok(list.len()));
        assert_eq!(machine.sregs().efer, SVME | SCE);
        assert!(!gif(), "{list:x?}");
    }
    // If the call refuses another part, none of it stays.
    let list = [(EFER, 0), (EFER, SVME), (UNKNOWN, 0)];
    assert_eq!(set(&machine, &list), Ok(2));
    assert_eq!(machine.sregs().efer, SVME | SCE);
    assert!(!gif());
    // With special registers, their EFER comes last, and SVME is not set again.
    let sregs = machine.sregs();
    let list = [(EFER, 0), (EFER, SVME)];
    let result = set_both(&machine, &list, &sregs);
    assert_eq!(result, Err(Errno::EOPNOTSUPP));
    assert_eq!(machine.sregs().efer, SVME | SCE);
    // Unless the special registers have the same value.
    let list = [(EFER, 0), (EFER, SVME | SCE), (EFER, SVME)];
    assert_eq!(set_both(&machine, &list, &sregs), Ok(3));
    assert_eq!(machine.sregs().efer, SVME);
    assert!(!gif());
    assert_eq!(set(&machine, &[(EFER, SVME), (EFER, 0)]), Ok(2));
    assert_eq!(machine.sregs().efer, 0);
}

/// Hyper-V's MSR, CR8, and a register of the local APIC are the same task priority. Its
/// current value depends on the parts that the call has set before.
fn tpr(stage: &Stage) {
    let machine = with_apic(stage);
    let sregs = {
        let mut sregs = machine.sregs();
        sregs.cr8 = 3;
        sregs.apic_base |= X2APIC;
        sregs
    };
    let old = [(HV_TPR, 0)];
    let result = set_both(&machine, &old, &sregs);
    assert_eq!(result, Err(Errno::EOPNOTSUPP));
    assert_eq!(machine.sregs().cr8, 0);
    assert_eq!(set_both(&machine, &[(HV_TPR, 0x30)], &sregs), Ok(1));
    assert_eq!(machine.sregs().cr8, 3);
    assert_eq!(get(stage, &machine, HV_TPR), 0x30);

    let list = [(X2APIC_TPR, 0x52), (HV_TPR, 0x30)];
    assert_eq!(set(&machine, &list), Err(Errno::EOPNOTSUPP));
    assert_eq!(get(stage, &machine, X2APIC_TPR), 0x30);
    let list = [(X2APIC_TPR, 0x52), (HV_TPR, 0x52)];
    assert_eq!(set(&machine, &list), Ok(2));
    assert_eq!(get(stage, &machine, HV_TPR), 0x52);
}
