//! kvm_get_msrs, kvm_set_msrs, kvm_set_cpuid, kvm_get_fpu, kvm_set_fpu.

use kvm_api::kvm_sys::{CpuId, Msrs, kvm_cpuid_entry2, kvm_fpu, kvm_msr_entry};
use kvm_api::{Errno, Vcpu};

use crate::Needs::{AnyVcpu, Processor};
use crate::{Stage, Test};
use guests::programs;
use guests::{ENTRY, TestVm};

pub const TESTS: &[Test] = &[
    ("kvm_get_msrs::shows_what_the_guest_did", AnyVcpu, msrs),
    (
        "kvm_set_msrs::is_what_the_other_interface_gets",
        AnyVcpu,
        msrs_both_ways,
    ),
    (
        "kvm_set_msrs::stops_at_the_first_unknown",
        AnyVcpu,
        msrs_unknown,
    ),
    ("kvm_set_msrs::too_many", AnyVcpu, msrs_too_many),
    ("kvm_set_cpuid::is_what_the_guest_sees", AnyVcpu, cpuid),
    ("kvm_get_fpu::shows_what_the_guest_did", Processor, fpu),
    (
        "kvm_set_fpu::is_what_the_other_interface_gets",
        AnyVcpu,
        fpu_both_ways,
    ),
];

const SYSENTER_CS: u32 = 0x174;
const SYSENTER_EIP: u32 = 0x176;
/// An MSR that no processor has.
const UNKNOWN: u32 = 0x4000_dead;

fn list(entries: &[(u32, u64)]) -> Msrs {
    let entries: Vec<_> = entries
        .iter()
        .map(|&(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        })
        .collect();
    Msrs::from_entries(&entries).unwrap()
}

fn get(vcpu: &dyn Vcpu, index: u32) -> u64 {
    let mut msrs = list(&[(index, 0)]);
    assert_eq!(vcpu.kvm_get_msrs(&mut msrs), Ok(1));
    msrs.as_slice()[0].data
}

fn msrs(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    let set = list(&[(SYSENTER_CS, 0x10)]);
    assert_eq!(machine.vcpu.kvm_set_msrs(&set), Ok(1));
    machine.load(programs::INCREMENT_SYSENTER_CS);
    machine.run_to_hlt();
    assert_eq!(get(&*machine.vcpu, SYSENTER_CS), 0x11);
}

fn msrs_both_ways(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let (ours, theirs) = (&*machine.vcpu, stage.witness.vcpu(machine.vcpu()).unwrap());
    for (vcpu, witness) in [(ours, &*theirs), (&*theirs, ours)] {
        let set = list(&[(SYSENTER_CS, 0x20), (SYSENTER_EIP, 0x1234)]);
        assert_eq!(vcpu.kvm_set_msrs(&set), Ok(2));
        let mut seen = list(&[(SYSENTER_CS, 0), (SYSENTER_EIP, 0)]);
        assert_eq!(witness.kvm_get_msrs(&mut seen), Ok(2));
        assert_eq!(seen, set);
    }
}

fn msrs_unknown(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let mut msrs = list(&[(SYSENTER_CS, 0x30), (UNKNOWN, 0), (SYSENTER_EIP, 1)]);
    assert_eq!(machine.vcpu.kvm_set_msrs(&msrs), Ok(1));
    assert_eq!(machine.vcpu.kvm_get_msrs(&mut msrs), Ok(1));
    let witness = stage.witness.vcpu(machine.vcpu()).unwrap();
    assert_eq!(get(&*witness, SYSENTER_CS), 0x30);
}

fn msrs_too_many(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let mut msrs = Msrs::new(256).unwrap();
    assert_eq!(machine.vcpu.kvm_set_msrs(&msrs), Err(Errno::E2BIG));
    assert_eq!(machine.vcpu.kvm_get_msrs(&mut msrs), Err(Errno::E2BIG));
}

fn cpuid(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    let entry = |function, ebx| kvm_cpuid_entry2 {
        function,
        eax: function,
        ebx,
        ..Default::default()
    };
    let cpuid = CpuId::from_entries(&[entry(0, 0), entry(0x4000_0001, 0xcafe)]).unwrap();
    machine.vcpu.kvm_set_cpuid(&cpuid).unwrap();
    machine.load(programs::CPUID);
    machine.run_to_hlt();
    let regs = machine.regs();
    assert_eq!((regs.rax, regs.rbx), (0x4000_0001, 0xcafe));
}

fn get_fpu(vcpu: &dyn Vcpu) -> kvm_fpu {
    let mut fpu = kvm_fpu::default();
    vcpu.kvm_get_fpu(&mut fpu).unwrap();
    fpu
}

fn fpu(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::SWAP_FCW);
    machine
        .memory
        .write(0x3002, &0x0f7f_u16.to_le_bytes())
        .unwrap();
    // Values that are set before the guest has used its FPU may not reach it: for the
    // processor, the registers are still in their initial state.
    machine.run_to_hlt();
    let mut fpu = get_fpu(&*machine.vcpu);
    assert_eq!(fpu.fcw, 0x0f7f);

    fpu.fcw = 0x027f;
    machine.vcpu.kvm_set_fpu(&fpu).unwrap();
    machine.start_at(ENTRY);
    machine.run_to_hlt();
    let mut seen = [0; 2];
    machine.memory.read(0x3000, &mut seen).unwrap();
    assert_eq!(u16::from_le_bytes(seen), 0x027f);
}

fn fpu_both_ways(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let (ours, theirs) = (&*machine.vcpu, stage.witness.vcpu(machine.vcpu()).unwrap());
    for (vcpu, witness) in [(ours, &*theirs), (&*theirs, ours)] {
        let mut fpu = get_fpu(vcpu);
        fpu.fcw = 0x0b7f;
        fpu.xmm[3] = [0xa5; 16];
        fpu.xmm[15] = [0x5a; 16];
        fpu.fpr[2][..10].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 0x88, 9, 0x40]);
        // A copy, because the call may change its argument.
        vcpu.kvm_set_fpu(&{ fpu }).unwrap();
        let seen = get_fpu(witness);
        assert_eq!((seen.fcw, seen.xmm, seen.fpr), (fpu.fcw, fpu.xmm, fpu.fpr));
    }
}
