//! kvm_get_regs, kvm_set_regs, kvm_get_sregs, kvm_set_sregs, kvm_translate.

use kvm_api::kvm_sys::{kvm_regs, kvm_sregs};
use kvm_api::{Errno, Vcpu};

use crate::Needs::{AnyVcpu, LongMode};
use crate::{Stage, Test};
use guests::programs::{self, OUT_PORT};
use guests::{ELSEWHERE, ELSEWHERE_PHYS, ENTRY, TestVm};

pub const TESTS: &[Test] = &[
    ("kvm_get_regs::shows_what_the_guest_did", AnyVcpu, get_regs),
    ("kvm_set_regs::reaches_the_guest", AnyVcpu, set_regs),
    (
        "kvm_set_regs::is_what_the_other_interface_gets",
        AnyVcpu,
        regs_both_ways,
    ),
    (
        "kvm_get_sregs::shows_what_the_guest_did",
        AnyVcpu,
        get_sregs,
    ),
    ("kvm_set_sregs::reaches_the_guest", AnyVcpu, set_sregs),
    (
        "kvm_set_sregs::is_what_the_other_interface_gets",
        AnyVcpu,
        sregs_both_ways,
    ),
    (
        "kvm_set_sregs::refuses_what_cannot_be",
        AnyVcpu,
        set_sregs_refuses,
    ),
    (
        "kvm_translate::is_the_identity_without_paging",
        AnyVcpu,
        translate_real,
    ),
    (
        "kvm_translate::walks_the_page_tables",
        LongMode,
        translate_long,
    ),
];

fn get_regs(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::OUT);
    machine.run_to_out(OUT_PORT);
    machine.run_to_hlt();
    let regs = machine.regs();
    assert_eq!(regs.rax & 0xff, 0x2a);
    assert_eq!(regs.rip, ENTRY + programs::OUT.len() as u64);
}

fn set_regs(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::ADD);
    machine.change_regs(|regs| (regs.rbx, regs.rcx) = (30, 12));
    machine.run_to_hlt();
    let mut regs = kvm_regs::default();
    stage
        .witness
        .kvm_get_regs(machine.vcpu(), &mut regs)
        .unwrap();
    assert_eq!((regs.rbx, regs.rcx), (42, 12));
}

fn regs_both_ways(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let mut word = 0x1000_0000_0000_0000;
    let mut next = || {
        word += 0x11;
        word
    };
    let regs = kvm_regs {
        rax: next(),
        rbx: next(),
        rcx: next(),
        rdx: next(),
        rsi: next(),
        rdi: next(),
        rsp: next(),
        rbp: next(),
        r8: next(),
        r9: next(),
        r10: next(),
        r11: next(),
        r12: next(),
        r13: next(),
        r14: next(),
        r15: next(),
        rip: 0x1234,
        rflags: 0x46,
    };
    let mut seen = kvm_regs::default();
    // Copies, because the calls may change their arguments.
    machine.vcpu.kvm_set_regs(&{ regs }).unwrap();
    stage
        .witness
        .kvm_get_regs(machine.vcpu(), &mut seen)
        .unwrap();
    assert_eq!(seen, regs);
    let regs = kvm_regs {
        rax: 1,
        r15: 2,
        ..regs
    };
    stage
        .witness
        .kvm_set_regs(machine.vcpu(), &{ regs })
        .unwrap();
    machine.vcpu.kvm_get_regs(&mut seen).unwrap();
    assert_eq!(seen, regs);
}

fn get_sregs(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::FAR_COPY);
    machine.run();
    let sregs = machine.sregs();
    assert_eq!((sregs.ds.selector, sregs.ds.base), (0x2000, programs::FAR));
}

fn set_sregs(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::READ_ES);
    machine.memory.write(0x3450, &[0x1e]).unwrap();
    machine.change_sregs(|sregs| (sregs.es.selector, sregs.es.base) = (0x345, 0x3450));
    assert_eq!(machine.run_to_out(OUT_PORT), 0x1e);
}

fn sregs_both_ways(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let (ours, theirs) = (&*machine.vcpu, stage.witness.vcpu(machine.vcpu()).unwrap());
    let get = |vcpu: &dyn Vcpu| {
        let mut sregs = kvm_sregs::default();
        vcpu.kvm_get_sregs(&mut sregs).unwrap();
        sregs
    };
    let mut sregs = get(ours);
    assert_eq!(get(&*theirs), sregs);
    sregs.gdt.base = 0x4321;
    sregs.idt.limit = 0x1f;
    sregs.cr2 = 0x8765;
    (sregs.fs.selector, sregs.fs.base) = (0x10, 0x100);
    ours.kvm_set_sregs(&{ sregs }).unwrap();
    assert_eq!(get(&*theirs), sregs);
    sregs.gs.base = 0x70;
    sregs.gs.selector = 7;
    theirs.kvm_set_sregs(&{ sregs }).unwrap();
    assert_eq!(get(ours), sregs);
}

fn set_sregs_refuses(stage: &Stage) {
    const CR0_PG: u64 = 1 << 31;
    const EFER_LME: u64 = 1 << 8;
    let machine = TestVm::of_form(&stage.kvm, 0);
    let mut sregs = machine.sregs();
    // Paging of long mode without PAE.
    sregs.cr0 |= CR0_PG | 1;
    sregs.efer = EFER_LME;
    assert_eq!(machine.vcpu.kvm_set_sregs(&sregs), Err(Errno::EINVAL));
}

/// The results of kvm_translate: the address, and the three bytes.
fn translate(vcpu: &dyn Vcpu, address: u64) -> (u64, [u8; 3]) {
    let (mut physical, mut valid, mut writeable, mut usermode) = (0, 9, 9, 9);
    vcpu.kvm_translate(
        address,
        &mut physical,
        &mut valid,
        &mut writeable,
        &mut usermode,
    )
    .unwrap();
    (physical, [valid, writeable, usermode])
}

fn translate_real(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let witness = stage.witness.vcpu(machine.vcpu()).unwrap();
    for vcpu in [&*machine.vcpu, &*witness] {
        assert_eq!(translate(vcpu, 0x3456), (0x3456, [1, 1, 0]));
    }
}

fn translate_long(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.enter_long_mode();
    // The guest agrees.
    machine
        .memory
        .write(ELSEWHERE_PHYS as usize, &[0x3d])
        .unwrap();
    machine.load(programs::LONG_ELSEWHERE);
    assert_eq!(machine.run_to_out(OUT_PORT), 0x3d);
    let witness = stage.witness.vcpu(machine.vcpu()).unwrap();
    for vcpu in [&*machine.vcpu, &*witness] {
        let elsewhere = translate(vcpu, ELSEWHERE + 0x123);
        assert_eq!(elsewhere, (ELSEWHERE_PHYS + 0x123, [1, 1, 0]));
        assert_eq!(translate(vcpu, 0x3456), (0x3456, [1, 1, 0]));
        let (_, [valid, ..]) = translate(vcpu, ELSEWHERE + 0x1000);
        assert_eq!(valid, 0);
    }
}
