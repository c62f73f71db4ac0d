//! kvm_get_state, kvm_set_state: a vCPU moves while its guest runs a guest of its own.

use std::mem::offset_of;

use guests::TestVm;
use guests::msr::EFER;
use guests::programs::OUT_PORT;
use kvm_api::kvm_sys::{
    CpuId, KVM_GET_NESTED_STATE, KvmNestedStateBuffer, kvm_cpuid_entry2, kvm_regs, kvm_sregs,
};
use kvm_api::{Errno, Form, GetState, SetState, State};

use crate::state::{merged, on_syscall};
use crate::vcpu_state::{ioctl, msrs};
use crate::{Stage, Test};

pub const TESTS: &[(Form, Test)] = &[on_syscall(
    "kvm_set_state::a_nested_guest_moves",
    nested_guest_moves,
)];

/// VM_HSAVE_PA, the page in which the processor keeps the state of the outer guest.
const HSAVE_MSR: u32 = 0xc001_0117;
/// EFER.SVME and, in CPUID, SVM.
const SVME: u64 = 1 << 12;
const SVM: u32 = 1 << 2;
/// The flag of a vCPU that runs a nested guest.
const GUEST_MODE: u16 = 1;

/// The program of the nested guest, and the pages of SVM.
const NESTED: usize = 0x2000;
const VMCB: usize = 0xd000;
const HSAVE: u64 = 0xe000;

/// The size of the control area of a control block. The registers follow.
const CONTROL_AREA: usize = 0x400;

/// What each guest writes to the port.
const BY_NESTED: u8 = 1;
const BY_OUTER: u8 = 2;

#[rustfmt::skip]
const OUTER_PROGRAM: &[u8] = &[
    0xb8, 0x00, 0xd0, 0x00, 0x00, // mov $VMCB,%eax
    0x0f, 0x01, 0xd8,             // vmrun %rax
    0xb0, BY_OUTER,               // mov $BY_OUTER,%al
    0xe6, OUT_PORT as u8,         // out %al,$OUT_PORT
    0xf4,                         // hlt
];

#[rustfmt::skip]
const NESTED_PROGRAM: &[u8] = &[
    0xb0, BY_NESTED,      // mov $BY_NESTED,%al
    0xe6, OUT_PORT as u8, // out %al,$OUT_PORT
    0xf4,                 // hlt, which the outer guest intercepts
];

/// A control block for a guest in real mode, whose port accesses are KVM's.
fn vmcb() -> Vec<u8> {
    const DATA: u16 = 0x93;
    const CODE: u16 = 0x9b;
    let mut vmcb = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| vmcb[at..at + bytes.len()].copy_from_slice(bytes);
    // Intercepts: HLT, and VMRUN, which has to be intercepted.
    put(0x0c, &(1_u32 << 24).to_le_bytes());
    put(0x10, &1_u32.to_le_bytes());
    // The address space, which must not be the host's.
    put(0x58, &1_u32.to_le_bytes());
    for (segment, attributes) in [DATA, CODE, DATA, DATA].into_iter().enumerate() {
        put(CONTROL_AREA + 16 * segment + 2, &attributes.to_le_bytes());
        put(CONTROL_AREA + 16 * segment + 4, &0xffff_u32.to_le_bytes());
    }
    for (at, value) in [
        (0xd0, SVME),
        // CR0 with ET, DR7, DR6, RFLAGS, RIP.
        (0x158, 0x10),
        (0x160, 0x400),
        (0x168, 0xffff_0ff0),
        (0x170, 2),
        (0x178, NESTED as u64),
    ] {
        put(CONTROL_AREA + at, &value.to_le_bytes());
    }
    vmcb
}

/// 64-bit mode, and SVM.
fn cpuid() -> CpuId {
    const LONG_MODE: u32 = 1 << 29;
    let leaf = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
        function,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    };
    CpuId::from_entries(&[
        leaf(0, 1, 0, 0, 0),
        leaf(1, 0, 0, 0, 0),
        leaf(0x8000_0000, 0x8000_000a, 0, 0, 0),
        leaf(0x8000_0001, 0, 0, SVM, LONG_MODE),
        // The revision, and the number of address spaces.
        leaf(0x8000_000a, 1, 8, 0, 0),
    ])
    .unwrap()
}

/// The parts of a vCPU that runs a nested guest.
struct Parts {
    nested: KvmNestedStateBuffer,
    sregs: kvm_sregs,
    regs: kvm_regs,
    cpuid: CpuId,
}

fn get(machine: &TestVm<'_>) -> Parts {
    let mut parts = Parts {
        nested: KvmNestedStateBuffer::empty(),
        sregs: kvm_sregs::default(),
        regs: kvm_regs::default(),
        cpuid: CpuId::new(16).unwrap(),
    };
    let mut state = GetState::new()
        .nested_state(&mut parts.nested)
        .sregs(&mut parts.sregs)
        .regs(&mut parts.regs)
        .cpuid(&mut parts.cpuid);
    assert_eq!(merged(machine).kvm_get_state(&mut state), Ok(0));
    parts
}

fn nested_guest_moves(stage: &Stage) {
    let mut machine = TestVm::new(&*stage.witness);
    machine.enter_long_mode();
    machine.vcpu.kvm_set_cpuid(&cpuid()).unwrap();
    let hsave = msrs(&[(HSAVE_MSR, HSAVE)]);
    let svm = msrs(&[(EFER, machine.sregs().efer | SVME), (HSAVE_MSR, HSAVE)]);
    if machine.vcpu.kvm_set_msrs(&svm).unwrap() < 2 {
        eprintln!("the host does not virtualize SVM");
        return;
    }
    machine.load(OUTER_PROGRAM);
    machine.memory.write(NESTED, NESTED_PROGRAM).unwrap();
    machine.memory.write(VMCB, &vmcb()).unwrap();
    assert_eq!(machine.run_to_out(OUT_PORT), BY_NESTED);
    // Complete the exit, and leave the vCPU in the nested guest.
    machine.run.set_immediate_exit(true);
    assert_eq!(machine.try_run(), Err(Errno::EINTR));

    let parts = get(&machine);
    assert_eq!(parts.nested.flags & GUEST_MODE, GUEST_MODE);
    assert_eq!(parts.regs.rip as usize, NESTED + 4);
    let mut by_ioctl = KvmNestedStateBuffer::empty();
    ioctl(machine.vcpu(), KVM_GET_NESTED_STATE, &mut by_ioctl).unwrap();
    assert!(bytes(&parts.nested) == bytes(&by_ioctl));

    let mut other = TestVm::new(&*stage.witness);
    let mut memory = vec![0; guests::MEMORY];
    machine.memory.read(0, &mut memory).unwrap();
    drop(machine);
    other.memory.write(0, &memory).unwrap();
    let state = SetState::new()
        .nested_state(&parts.nested)
        .sregs(&parts.sregs)
        .regs(&parts.regs)
        .cpuid(&parts.cpuid)
        .msrs(&hsave);
    assert_eq!(merged(&other).kvm_set_state(&state), Ok(1));
    let moved = get(&other);
    // KVM keeps only the registers of the outer guest that VMRUN saves.
    let end = offset_of!(KvmNestedStateBuffer, data) + CONTROL_AREA;
    assert!(bytes(&moved.nested)[..end] == bytes(&parts.nested)[..end]);
    assert_eq!((moved.regs, moved.sregs), (parts.regs, parts.sregs));
    // The nested guest halts, and the outer one goes on.
    assert_eq!(other.run_to_out(OUT_PORT), BY_OUTER);
    other.run_to_hlt();
}

/// The header, and the control area and the state of the outer guest behind it.
fn bytes(state: &KvmNestedStateBuffer) -> &[u8] {
    // SAFETY: all of the structure is initialized, and has no padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(state).cast(), size_of_val(state)) }
}
