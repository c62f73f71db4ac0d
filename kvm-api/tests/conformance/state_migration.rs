//! kvm_get_state, kvm_set_state: the parts that only migration needs, their order, and what
//! is refused before anything has changed.

use std::os::fd::{AsRawFd, BorrowedFd};

use guests::TestVm;
use guests::msr::{EFER, TSC, TSC_DEADLINE, X2APIC_TPR};
use guests::programs::OUT_PORT;
use kvm_api::bound::BoundVcpu;
use kvm_api::kvm_sys::*;
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, Form, GetState, Result, SetState, State, XsaveArea};

use crate::raw::check_extension;
use crate::state::{ALL, merged, on_syscall};
use crate::state_misuse::{CALLS, SIZE, raw_state};
use crate::state_msrs::with_apic;
use crate::vcpu_state::{SYSENTER_CS, SYSENTER_ESP, UNKNOWN, Whole, ioctl, msrs};
use crate::{Stage, Test};

pub const TESTS: &[(Form, Test)] = &[
    on_syscall("kvm_get_state::each_migrated_part", get_each),
    on_syscall("kvm_set_state::each_migrated_part", set_each),
    on_syscall("kvm_get_state::areas_that_are_too_small", small),
    on_syscall(
        "kvm_set_state::a_deadline_follows_the_timers_mode",
        deadline,
    ),
    on_syscall("kvm_set_state::an_x2apic_msr_follows_the_base", x2apic),
    on_syscall("kvm_set_state::the_tsc_offset_wins_over_the_msr", offset),
    on_syscall("kvm_set_state::one_bad_migrated_part", bad),
    on_syscall("kvm_set_state::a_bad_migrated_pointer", faults),
    on_syscall("kvm_set_state::cpuid_goes_back", cpuid_back),
    on_syscall("kvm_set_state::nested_state_before_the_first_run", nested),
    on_syscall("kvm_set_state::nested_state_that_fails", nested_fails),
    on_syscall("kvm_set_state::cpuid_after_the_first_run", cpuid_after_run),
    on_syscall("kvm_set_state::both_kinds_of_sregs", both_sregs),
    on_syscall("kvm_set_state::no_local_apic", no_apic),
    on_syscall("kvm_set_state::a_vcpu_moves", moves),
    on_syscall("kvm_set_state::a_bound_vcpu_moves", bound_moves),
];

/// The bits of the parts, in order, and the number of the first.
const MIGRATED: [u64; 8] = [
    state::KVM_STATE_SREGS2,
    state::KVM_STATE_XSAVE,
    state::KVM_STATE_LAPIC,
    state::KVM_STATE_MP_STATE,
    state::KVM_STATE_NESTED_STATE,
    state::KVM_STATE_CPUID,
    state::KVM_STATE_TSC_KHZ,
    state::KVM_STATE_TSC_OFFSET,
];

/// KVM_CAP_XSAVE2.
const XSAVE2: u32 = 208;
/// KVM_CAP_NESTED_STATE.
const NESTED: u32 = 157;
/// KVM_MP_STATE_HALTED.
const HALTED: u32 = 3;
/// The offset of the timer's entry in the registers of the local APIC.
const LVTT: usize = 0x320;
/// The offset of the task priority.
const TPR: usize = 0x80;
/// The offset of the divisor of the timer.
const TDCR: usize = 0x3e0;
/// The mode of the timer in which it takes IA32_TSC_DEADLINE, and its vector.
const DEADLINE_MODE: u32 = 0b10 << 17 | 0x21;
/// The bit of IA32_APIC_BASE for x2APIC mode.
const X2APIC: u64 = 1 << 10;

/// The parts, and the MSRs and registers that depend on them.
#[derive(Clone)]
struct Migrated {
    sregs2: kvm_sregs2,
    xsave: XsaveArea,
    lapic: kvm_lapic_state,
    mp_state: kvm_mp_state,
    nested_state: KvmNestedStateBuffer,
    cpuid: CpuId,
    tsc_khz: u32,
    tsc_offset: u64,
}

/// The attribute KVM_VCPU_TSC_OFFSET.
fn tsc_offset(vcpu: BorrowedFd<'_>) -> u64 {
    let mut offset = 0_u64;
    let mut attribute = kvm_device_attr {
        addr: (&raw mut offset).expose_provenance() as u64,
        ..Default::default()
    };
    ioctl(vcpu, KVM_GET_DEVICE_ATTR, &mut attribute).unwrap();
    offset
}

fn set_register(lapic: &mut kvm_lapic_state, at: usize, value: u32) {
    for (register, byte) in lapic.regs[at..].iter_mut().zip(value.to_le_bytes()) {
        *register = byte.cast_signed();
    }
}

impl Migrated {
    /// Room for the parts of a vCPU.
    fn room(machine: &TestVm<'_>) -> Self {
        let size = check_extension(machine.vm(), XSAVE2).unwrap();
        Self {
            sregs2: kvm_sregs2::default(),
            xsave: XsaveArea::new(size.try_into().unwrap()),
            lapic: kvm_lapic_state::default(),
            mp_state: kvm_mp_state::default(),
            nested_state: KvmNestedStateBuffer::empty(),
            cpuid: CpuId::new(KVM_MAX_CPUID_ENTRIES).unwrap(),
            tsc_khz: 0,
            tsc_offset: 0,
        }
    }

    /// What the ioctls read.
    fn read(machine: &TestVm<'_>) -> Self {
        let vcpu = machine.vcpu();
        let mut it = Self::room(machine);
        ioctl(vcpu, KVM_GET_MP_STATE, &mut it.mp_state).unwrap();
        ioctl(vcpu, KVM_GET_SREGS2, &mut it.sregs2).unwrap();
        let area = it.xsave.data_mut().as_mut_ptr();
        ioctl(vcpu, KVM_GET_XSAVE2, area).unwrap();
        ioctl(vcpu, KVM_GET_LAPIC, &mut it.lapic).unwrap();
        ioctl(vcpu, KVM_GET_NESTED_STATE, &mut it.nested_state).unwrap();
        ioctl(vcpu, KVM_GET_CPUID2, it.cpuid.as_mut_fam_struct_ptr()).unwrap();
        // SAFETY: the request touches no memory.
        let khz = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_TSC_KHZ) };
        it.tsc_khz = khz.try_into().unwrap();
        it.tsc_offset = tsc_offset(vcpu);
        it
    }

    /// The same state with a valid change in every part that can change alone. A local
    /// APIC in xAPIC mode, and a clock that stays as fast.
    fn changed(&self) -> Self {
        let mut it = self.clone();
        it.sregs2.cr2 ^= 0x5000;
        // XMM5, and its bit in the header.
        it.xsave.data_mut()[(160 + 5 * 16) / 8] ^= 0x5a5a;
        it.xsave.data_mut()[512 / 8] |= 0b10;
        set_register(&mut it.lapic, TDCR, 0b1011);
        it.mp_state.mp_state = HALTED;
        if it.sregs2.efer & SVME != 0 {
            it.nested_state.flags ^= NESTED_GIF_SET;
        }
        let leaf = it.cpuid.as_mut_slice().iter_mut();
        let leaf = leaf.filter(|leaf| leaf.function == 0x8000_0002);
        for leaf in leaf {
            leaf.eax ^= 1;
        }
        it.tsc_offset ^= 0x1234_5678;
        it
    }

    fn bytes(&self) -> [Vec<u8>; 8] {
        let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let cpuid = self.cpuid.as_slice().iter();
        let nested = [
            self.nested_state.flags.into(),
            self.nested_state.format.into(),
            self.nested_state.size,
        ];
        [
            format!("{:?}", self.sregs2).into(),
            words(self.xsave.data()),
            self.lapic
                .regs
                .iter()
                .map(|it| it.cast_unsigned())
                .collect(),
            self.mp_state.mp_state.to_le_bytes().into(),
            nested
                .iter()
                .flat_map(|it: &u32| it.to_le_bytes())
                .collect(),
            cpuid
                .flat_map(|it| format!("{it:?}").into_bytes())
                .collect(),
            self.tsc_khz.to_le_bytes().into(),
            self.tsc_offset.to_le_bytes().into(),
        ]
    }

    fn getting(&mut self, parts: u64) -> GetState<'_> {
        let has = |part| parts & part != 0;
        let mut state = GetState::new();
        if has(state::KVM_STATE_SREGS2) {
            state = state.sregs2(&mut self.sregs2);
        }
        if has(state::KVM_STATE_XSAVE) {
            state = state.xsave(&mut self.xsave);
        }
        if has(state::KVM_STATE_LAPIC) {
            state = state.lapic(&mut self.lapic);
        }
        if has(state::KVM_STATE_MP_STATE) {
            state = state.mp_state(&mut self.mp_state);
        }
        if has(state::KVM_STATE_NESTED_STATE) {
            state = state.nested_state(&mut self.nested_state);
        }
        if has(state::KVM_STATE_CPUID) {
            state = state.cpuid(&mut self.cpuid);
        }
        if has(state::KVM_STATE_TSC_KHZ) {
            state = state.tsc_khz(&mut self.tsc_khz);
        }
        if has(state::KVM_STATE_TSC_OFFSET) {
            state = state.tsc_offset(&mut self.tsc_offset);
        }
        state
    }

    fn setting(&self, parts: u64) -> SetState<'_> {
        self.adding(SetState::new(), parts)
    }

    /// Adds parts to those that a call sets.
    fn adding<'s>(&'s self, mut state: SetState<'s>, parts: u64) -> SetState<'s> {
        let has = |part| parts & part != 0;
        if has(state::KVM_STATE_SREGS2) {
            state = state.sregs2(&self.sregs2);
        }
        if has(state::KVM_STATE_XSAVE) {
            state = state.xsave(&self.xsave);
        }
        if has(state::KVM_STATE_LAPIC) {
            state = state.lapic(&self.lapic);
        }
        if has(state::KVM_STATE_MP_STATE) {
            state = state.mp_state(&self.mp_state);
        }
        if has(state::KVM_STATE_NESTED_STATE) {
            state = state.nested_state(&self.nested_state);
        }
        if has(state::KVM_STATE_CPUID) {
            state = state.cpuid(&self.cpuid);
        }
        if has(state::KVM_STATE_TSC_KHZ) {
            state = state.tsc_khz(&self.tsc_khz);
        }
        if has(state::KVM_STATE_TSC_OFFSET) {
            state = state.tsc_offset(&self.tsc_offset);
        }
        state
    }
}

/// KVM_STATE_NESTED_GIF_SET.
const NESTED_GIF_SET: u16 = 0x100;

/// EFER.SVME.
const SVME: u64 = 1 << 12;

/// A machine with a local APIC, whose guest may run guests if the host virtualizes by SVM.
fn machine(stage: &Stage) -> TestVm<'_> {
    let machine = with_apic(stage);
    // A host with VMX refuses the bit.
    let _ = merged(&machine).kvm_set_state(&SetState::new().msrs(&msrs(&[(EFER, SVME)])));
    machine
}

/// Compares all parts with those of another state.
#[track_caller]
fn assert_same(machine: &TestVm<'_>, expected: &Migrated, what: &str) {
    let (found, expected) = (Migrated::read(machine).bytes(), expected.bytes());
    for (part, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let at = found.iter().zip(expected).position(|(a, b)| a != b);
        assert!(found == expected, "{what}: part {part} differs at {at:?}");
    }
}

#[track_caller]
fn assert_same_whole(stage: &Stage, machine: &TestVm<'_>, expected: &Whole, what: &str) {
    let found = Whole::read(&*stage.witness, machine.vcpu()).parts();
    for (part, (found, expected)) in found.iter().zip(&expected.parts()).enumerate() {
        let at = found.iter().zip(expected).position(|(a, b)| a != b);
        assert!(
            found == expected,
            "{what}: part {part} of the first differs at {at:?}"
        );
    }
}

fn every() -> u64 {
    MIGRATED.iter().sum()
}

fn get_each(stage: &Stage) {
    let machine = machine(stage);
    let expected = Migrated::read(&machine).bytes();
    let before = Migrated::room(&machine).bytes();
    for parts in MIGRATED.into_iter().chain([every()]) {
        let mut got = Migrated::room(&machine);
        let result = merged(&machine).kvm_get_state(&mut got.getting(parts));
        assert_eq!(result, Ok(0), "{parts:#x}");
        for (part, got) in got.bytes().iter().enumerate() {
            let chosen = parts & MIGRATED[part] != 0;
            let expected = if chosen { &expected } else { &before };
            assert!(got == &expected[part], "part {part} of {parts:#x}");
        }
    }
}

fn set_each(stage: &Stage) {
    for parts in MIGRATED.into_iter().chain([every()]) {
        let machine = machine(stage);
        let before = Migrated::read(&machine);
        let changed = before.changed();
        let result = merged(&machine).kvm_set_state(&changed.setting(parts));
        assert_eq!(result, Ok(0), "{parts:#x}");
        let after = Migrated::read(&machine);
        for (part, after) in after.bytes().iter().enumerate() {
            let chosen = parts & MIGRATED[part] != 0;
            let expected = if chosen { &changed } else { &before };
            assert!(
                after == &expected.bytes()[part],
                "part {part} of {parts:#x}"
            );
        }
        // The same once more changes nothing.
        let result = merged(&machine).kvm_set_state(&after.setting(parts));
        assert_eq!(result, Ok(0), "{parts:#x} again");
        assert_same(&machine, &after, "again");
    }
}

fn small(stage: &Stage) {
    let machine = machine(stage);
    let room = Migrated::room(&machine);
    type Spoil = fn(&mut Migrated);
    let spoils: [(&str, Spoil); 3] = [
        ("xsave", |it| it.xsave = XsaveArea::new(4095)),
        ("cpuid", |it| it.cpuid = CpuId::new(1).unwrap()),
        ("nested_state", |it| it.nested_state.size = 128),
    ];
    for (what, spoil) in spoils {
        let mut small = room.clone();
        spoil(&mut small);
        let before = small.bytes();
        let result = merged(&machine).kvm_get_state(&mut small.getting(every()));
        assert_eq!(result, Err(Errno::E2BIG), "{what}");
        assert!(small.bytes() == before, "{what}: something was written");
    }
    let size = check_extension(machine.vm(), NESTED).unwrap();
    let mut enough = room;
    enough.nested_state.size = size.try_into().unwrap();
    let result = merged(&machine).kvm_get_state(&mut enough.getting(every()));
    assert_eq!(result, Ok(0));
}

/// Reads an MSR.
fn msr(stage: &Stage, machine: &TestVm<'_>, index: u32) -> u64 {
    let mut list = msrs(&[(index, 0)]);
    assert_eq!(stage.witness.kvm_get_msrs(machine.vcpu(), &mut list), Ok(1));
    list.as_slice()[0].data
}

fn deadline(stage: &Stage) {
    let machine = with_apic(stage);
    let mut saved = Migrated::read(&machine);
    set_register(&mut saved.lapic, LVTT, DEADLINE_MODE);
    // Far enough in the future.
    let list = msrs(&[(TSC_DEADLINE, 1 << 60)]);
    // KVM drops the deadline while the timer has another mode.
    assert_eq!(stage.witness.kvm_set_msrs(machine.vcpu(), &list), Ok(1));
    assert_eq!(msr(stage, &machine, TSC_DEADLINE), 0);
    let state = SetState::new().msrs(&list).lapic(&saved.lapic);
    assert_eq!(merged(&machine).kvm_set_state(&state), Ok(1));
    assert_eq!(msr(stage, &machine, TSC_DEADLINE), 1 << 60);
    // Setting the registers disarms the timer. The deadline that it had is set again.
    assert_eq!(merged(&machine).kvm_set_state(&state), Ok(1));
    assert_eq!(msr(stage, &machine, TSC_DEADLINE), 1 << 60);
}

fn x2apic(stage: &Stage) {
    for sregs2 in [false, true] {
        let machine = with_apic(stage);
        let mut saved = Migrated::read(&machine);
        let mut sregs = machine.sregs();
        sregs.apic_base |= X2APIC;
        saved.sregs2.apic_base |= X2APIC;
        set_register(&mut saved.lapic, TPR, 0x20);
        let list = msrs(&[(X2APIC_TPR, 0x30)]);
        let state = SetState::new().msrs(&list).lapic(&saved.lapic);
        // Without the base, the MSR does not exist.
        assert_eq!(merged(&machine).kvm_set_state(&state), Ok(0));
        let state = if sregs2 {
            state.sregs2(&saved.sregs2)
        } else {
            state.sregs(&sregs)
        };
        assert_eq!(merged(&machine).kvm_set_state(&state), Ok(1));
        // The MSR comes after the registers of the APIC.
        assert_eq!(msr(stage, &machine, X2APIC_TPR), 0x30);
    }
}

fn offset(stage: &Stage) {
    let machine = with_apic(stage);
    let wanted = tsc_offset(machine.vcpu()) ^ 0x4000_0000;
    for list in [msrs(&[(TSC, 7)]), msrs(&[(TSC, 1 << 50)])] {
        let state = SetState::new().msrs(&list).tsc_offset(&wanted);
        assert_eq!(merged(&machine).kvm_set_state(&state), Ok(1));
        assert_eq!(tsc_offset(machine.vcpu()), wanted);
    }
}

/// A change that makes one part of a state invalid.
type Spoil = (&'static str, fn(&mut Migrated), Errno);

const BAD: &[Spoil] = &[
    (
        "sregs2, of a mode that cannot be",
        |it| it.sregs2.efer = 1 << 10,
        Errno::EINVAL,
    ),
    ("sregs2, flags", |it| it.sregs2.flags = 2, Errno::EINVAL),
    (
        "sregs2, PDPTRs without PAE",
        |it| it.sregs2.flags = 1,
        Errno::EINVAL,
    ),
    (
        "sregs2, an APIC base beyond the addresses",
        |it| it.sregs2.apic_base = 1 << 60,
        Errno::EINVAL,
    ),
    (
        "xsave, too small",
        |it| it.xsave = XsaveArea::new(4088),
        Errno::EINVAL,
    ),
    (
        "xsave, too large",
        |it| it.xsave = XsaveArea::new(1 << 20),
        Errno::EINVAL,
    ),
    (
        "xsave, a feature that is not there",
        |it| it.xsave.data_mut()[512 / 8] = 1 << 62,
        Errno::EINVAL,
    ),
    (
        "xsave, MXCSR",
        |it| {
            it.xsave.data_mut()[512 / 8] |= 0b11;
            it.xsave.data_mut()[24 / 8] |= 1 << 31;
        },
        Errno::EINVAL,
    ),
    (
        "mp_state, unknown",
        |it| it.mp_state.mp_state = 99,
        Errno::EINVAL,
    ),
    (
        "nested_state, another vendor's",
        |it| it.nested_state.format ^= 1,
        Errno::EINVAL,
    ),
    (
        "nested_state, flags",
        |it| it.nested_state.flags |= 1 << 15,
        Errno::EINVAL,
    ),
    (
        "nested_state, too small",
        |it| it.nested_state.size = 64,
        Errno::EINVAL,
    ),
    (
        "cpuid, addresses of a size that cannot be",
        |it| {
            let leaves = it.cpuid.as_mut_slice().iter_mut();
            let leaf = leaves.filter(|leaf| leaf.function == 0x8000_0008);
            leaf.for_each(|leaf| leaf.eax = 0x2028);
        },
        Errno::EINVAL,
    ),
];

/// A frequency that KVM_SET_TSC_KHZ refuses: with TSC scaling those that are too high,
/// without it those that are too low.
fn refused_khz(stage: &Stage) -> u32 {
    let machine = with_apic(stage);
    let refused = |&khz: &u32| {
        let vcpu = machine.vcpu().as_raw_fd();
        // SAFETY: the request touches no memory.
        let answer = unsafe { libc::ioctl(vcpu, KVM_SET_TSC_KHZ, libc::c_ulong::from(khz)) };
        Errno::result(answer) == Err(Errno::EINVAL)
    };
    [1, u32::MAX].into_iter().find(refused).unwrap()
}

fn bad(stage: &Stage) {
    let machine = machine(stage);
    let whole = Whole::read(&*stage.witness, machine.vcpu());
    let before = Migrated::read(&machine);
    let sregs = state::KVM_STATE_SREGS;
    for &(what, spoil, errno) in BAD {
        let (mut changed, others) = (before.changed(), whole.changed());
        spoil(&mut changed);
        let state = changed.adding(others.setting(ALL & !sregs), every());
        let result = merged(&machine).kvm_set_state(&state);
        assert_eq!(result, Err(errno), "{what}");
        assert_same_whole(stage, &machine, &whole, what);
        assert_same(&machine, &before, what);
    }
    // A frequency that this host refuses.
    let mut changed = before.changed();
    changed.tsc_khz = refused_khz(stage);
    let result = merged(&machine).kvm_set_state(&changed.setting(every()));
    assert_eq!(result, Err(Errno::EINVAL));
    assert_same(&machine, &before, "tsc_khz");
    // An MSR that is refused takes the rest with it.
    let (changed, mut others) = (before.changed(), whole.changed());
    others.msrs = msrs(&[(SYSENTER_CS, 1), (UNKNOWN, 1)]);
    let state = changed.adding(others.setting(ALL & !sregs), every());
    assert_eq!(merged(&machine).kvm_set_state(&state), Ok(1));
    assert_same(&machine, &before, "an unknown MSR");
    // Without any of these, everything is set.
    let (changed, others) = (before.changed(), whole.changed());
    let state = changed.adding(
        others.setting(ALL & !sregs & !state::KVM_STATE_FPU),
        every(),
    );
    assert_eq!(merged(&machine).kvm_set_state(&state), Ok(2));
    assert_same(&machine, &changed, "all parts");
}

fn faults(stage: &Stage) {
    let machine = machine(stage);
    let before = Migrated::read(&machine);
    for part in MIGRATED {
        for bad in [0, 1 << 63] {
            let mut changed = before.changed();
            changed.nested_state.size = size_of::<KvmNestedStateBuffer>() as u32;
            let mut state = changed.addresses(every());
            let field = part.trailing_zeros() as usize + 1;
            // SAFETY: the structure is an array of words.
            unsafe { (&raw mut state).cast::<u64>().add(field).write(bad) };
            for number in CALLS {
                let result = raw_state(number, machine.vcpu(), &state, SIZE);
                assert_eq!(result, Err(Errno::EFAULT), "{part:#x}");
                assert_same(&machine, &before, "a bad pointer");
            }
        }
    }
}

impl Migrated {
    /// The addresses of every part.
    fn addresses(&mut self, parts: u64) -> kvm_vcpu_state {
        kvm_vcpu_state {
            parts,
            sregs2: (&raw mut self.sregs2).expose_provenance() as u64,
            // The header is before the data.
            xsave: self.xsave.data_mut().as_mut_ptr().expose_provenance() as u64 - 8,
            lapic: (&raw mut self.lapic).expose_provenance() as u64,
            mp_state: (&raw mut self.mp_state).expose_provenance() as u64,
            nested_state: (&raw mut self.nested_state).expose_provenance() as u64,
            cpuid: self.cpuid.as_mut_fam_struct_ptr().expose_provenance() as u64,
            tsc_khz: (&raw mut self.tsc_khz).expose_provenance() as u64,
            tsc_offset: (&raw mut self.tsc_offset).expose_provenance() as u64,
            ..Default::default()
        }
    }
}

fn cpuid_back(stage: &Stage) {
    let machine = machine(stage);
    let before = Migrated::read(&machine);
    // The new CPUID lacks the feature whose bit in CR4 is to be set.
    let mut changed = before.changed();
    for leaf in changed.cpuid.as_mut_slice() {
        if leaf.function == 1 {
            leaf.ecx &= !(1 << 26);
        }
    }
    changed.sregs2.cr4 |= 1 << 18;
    let parts = state::KVM_STATE_CPUID | state::KVM_STATE_SREGS2;
    let result = merged(&machine).kvm_set_state(&changed.setting(parts));
    assert_eq!(result, Err(Errno::EINVAL));
    assert_same(&machine, &before, "a refused part");
    // The old CPUID has it, and is in force again.
    let parts = state::KVM_STATE_SREGS2;
    let result = merged(&machine).kvm_set_state(&changed.setting(parts));
    assert_eq!(result, Ok(0));
}

fn nested(stage: &Stage) {
    let mut machine = machine(stage);
    let saved = Migrated::read(&machine);
    let part = state::KVM_STATE_NESTED_STATE;
    for state in [&saved.changed(), &saved] {
        let result = merged(&machine).kvm_set_state(&state.setting(part));
        assert_eq!(result, Ok(0));
    }
    run(&mut machine);
    let before = Migrated::read(&machine);
    let result = merged(&machine).kvm_set_state(&before.changed().setting(every()));
    assert_eq!(result, Err(Errno::EBUSY));
    assert_same(&machine, &before, "a refused part");
    // The ioctl still takes it, and the call the rest.
    let result = merged(&machine).kvm_set_state(&before.setting(every() & !part));
    assert_eq!(result, Ok(0));
}

/// Runs the guest until it has written a byte to the port.
fn run(machine: &mut TestVm<'_>) {
    // mov $7,%al; out %al,$0x11; jmp .
    machine.load(&[0xb0, 7, 0xe6, 0x11, 0xeb, 0xfe]);
    assert_eq!(machine.run_to_out(OUT_PORT), 7);
}

/// Nested state that KVM refuses only after the state before it has been set.
fn nested_fails(stage: &Stage) {
    let machine = with_apic(stage);
    let whole = Whole::read(&*stage.witness, machine.vcpu());
    let before = Migrated::read(&machine);
    let (mut changed, mut others) = (before.changed(), whole.changed());
    // A guest that runs, but an address that is not aligned.
    changed.nested_state.flags |= 1;
    changed.nested_state.size = check_extension(machine.vm(), NESTED).unwrap() as u32;
    // Only a host with SVM takes it.
    changed.sregs2.efer |= self::machine(stage).sregs().efer & SVME;
    others.msrs = msrs(&[(SYSENTER_CS, 5), (SYSENTER_ESP, 6)]);
    let sregs = state::KVM_STATE_SREGS;
    let state = changed.adding(others.setting(ALL & !sregs), every());
    let result = merged(&machine).kvm_set_state(&state);
    assert_eq!(result, Err(Errno::EINVAL));
    assert_same_whole(stage, &machine, &whole, "nested state");
    assert_same(&machine, &before, "nested state");
}

fn cpuid_after_run(stage: &Stage) {
    let mut machine = machine(stage);
    run(&mut machine);
    let before = Migrated::read(&machine);
    let part = state::KVM_STATE_CPUID;
    let result = merged(&machine).kvm_set_state(&before.changed().setting(part));
    assert_eq!(result, Err(Errno::EINVAL));
    let result = merged(&machine).kvm_set_state(&before.setting(part));
    assert_eq!(result, Ok(0));
    assert_same(&machine, &before, "a refused part");
}

fn both_sregs(stage: &Stage) {
    let machine = with_apic(stage);
    let mut saved = Migrated::read(&machine);
    let (mut sregs, mut regs) = (machine.sregs(), machine.regs());
    let vcpu = merged(&machine);
    let both = SetState::new().sregs(&sregs).sregs2(&saved.sregs2);
    assert_eq!(vcpu.kvm_set_state(&both), Err(Errno::EINVAL));
    assert_eq!(vcpu.kvm_set_state(&both.regs(&regs)), Err(Errno::EINVAL));
    let both = GetState::new().sregs(&mut sregs).sregs2(&mut saved.sregs2);
    assert_eq!(
        vcpu.kvm_get_state(&mut both.regs(&mut regs)),
        Err(Errno::EINVAL)
    );
}

fn no_apic(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let mut lapic = kvm_lapic_state::default();
    let vcpu = merged(&machine);
    let result = vcpu.kvm_get_state(&mut GetState::new().lapic(&mut lapic));
    assert_eq!(result, Err(Errno::EINVAL));
    let result = vcpu.kvm_set_state(&SetState::new().lapic(&lapic));
    assert_eq!(result, Err(Errno::EINVAL));
    let mp_state = kvm_mp_state { mp_state: HALTED };
    let result = vcpu.kvm_set_state(&SetState::new().mp_state(&mp_state));
    assert_eq!(result, Err(Errno::EINVAL));
}

/// The guest counts in cx and writes its lowest byte to the port, for ever.
const COUNTER: &[u8] = &[
    // inc %cx; mov %cl,%al; out %al,$0x11; jmp to the start
    0x41, 0x88, 0xc8, 0xe6, 0x11, 0xeb, 0xf9,
];

type Get = fn(&TestVm<'_>, &mut GetState<'_>) -> Result<usize>;
type Set = fn(&TestVm<'_>, &SetState<'_>) -> Result<usize>;

/// Moves a vCPU by one call each way: the guest goes on in another VM where it was.
fn move_by(stage: &Stage, get: Get, set: Set) {
    let (mut source, mut target) = (machine(stage), machine(stage));
    for machine in [&mut source, &mut target] {
        machine.load(COUNTER);
        machine.change_regs(|regs| regs.rcx = 0);
    }
    for round in 1..=3 {
        assert_eq!(source.run_to_out(OUT_PORT), round);
    }
    // Finish the instruction that wrote to the port.
    source.run.set_immediate_exit(true);
    assert_eq!(source.try_run(), Err(Errno::EINTR));
    source.run.set_immediate_exit(false);
    let mut whole = Whole::empty();
    let mut rest = Migrated::room(&source);
    let mut state = GetState::new()
        .regs(&mut whole.regs)
        .msrs(&mut whole.msrs)
        .debugregs(&mut whole.debugregs)
        .vcpu_events(&mut whole.vcpu_events)
        .xcrs(&mut whole.xcrs)
        .sregs2(&mut rest.sregs2)
        .xsave(&mut rest.xsave)
        .lapic(&mut rest.lapic)
        .mp_state(&mut rest.mp_state)
        .nested_state(&mut rest.nested_state)
        .cpuid(&mut rest.cpuid)
        .tsc_khz(&mut rest.tsc_khz)
        .tsc_offset(&mut rest.tsc_offset);
    assert_eq!(get(&source, &mut state), Ok(2));
    let parts = ALL & !(state::KVM_STATE_SREGS | state::KVM_STATE_FPU);
    let state = rest.adding(whole.setting(parts), every());
    assert_eq!(set(&target, &state), Ok(2));
    for round in 4..=6 {
        assert_eq!(target.run_to_out(OUT_PORT), round);
    }
}

fn moves(stage: &Stage) {
    move_by(
        stage,
        |machine, state| merged(machine).kvm_get_state(state),
        |machine, state| merged(machine).kvm_set_state(state),
    );
}

fn bound_moves(stage: &Stage) {
    move_by(
        stage,
        |machine, state| bound(machine).kvm_get_state(state),
        |machine, state| bound(machine).kvm_set_state(state),
    );
}

fn bound<'m>(machine: &'m TestVm<'_>) -> BoundVcpu<BorrowedFd<'m>> {
    BoundVcpu::bind(Syscall::open().unwrap(), machine.vcpu()).unwrap()
}
