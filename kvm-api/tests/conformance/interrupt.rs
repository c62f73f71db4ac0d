//! kvm_interrupt, kvm_debug_guest, kvm_set_signal_mask.

use kvm_api::kvm_sys::debug::*;
use kvm_api::kvm_sys::kvm_guest_debug;
use kvm_api::{Backend, Errno, Reason, SigSet};
use nix::sys::signal::{Signal, raise};

use crate::Needs::{AnyVcpu, Breakpoints};
use crate::{Stage, Test};
use guests::programs::{self, HANDLER_AT, OUT_PORT};
use guests::{ENTRY, TestVm};

pub const TESTS: &[Test] = &[
    ("kvm_interrupt::reaches_the_handler", AnyVcpu, interrupt),
    (
        "kvm_interrupt::refuses_what_cannot_be",
        AnyVcpu,
        interrupt_refuses,
    ),
    ("kvm_debug_guest::single_steps", AnyVcpu, single_step),
    (
        "kvm_debug_guest::stops_at_breakpoints",
        Breakpoints,
        breakpoint,
    ),
    (
        "kvm_set_signal_mask::lets_a_signal_interrupt",
        AnyVcpu,
        mask_lets,
    ),
    (
        "kvm_set_signal_mask::keeps_a_signal_away",
        AnyVcpu,
        mask_keeps,
    ),
];

const VECTOR: u32 = 0x21;

fn interrupt(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::ENABLE_AND_SPIN);
    machine
        .memory
        .write(HANDLER_AT.into(), programs::HANDLER)
        .unwrap();
    let entry = [HANDLER_AT.to_le_bytes(), [0, 0]].concat();
    machine.memory.write(4 * VECTOR as usize, &entry).unwrap();

    machine.run.set_request_interrupt_window(true);
    assert_eq!(machine.run().reason(), Reason::IrqWindowOpen);
    assert!(machine.run.ready_for_interrupt_injection());
    assert!(machine.run.if_flag());
    machine.run.set_request_interrupt_window(false);

    machine.vcpu.kvm_interrupt(VECTOR).unwrap();
    assert_eq!(machine.run_to_out(OUT_PORT), 0x21);
    assert!(!machine.run.if_flag());
}

fn interrupt_refuses(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    for irq in [256, u32::MAX] {
        let result = machine.vcpu.kvm_interrupt(irq);
        assert_eq!(result, Err(Errno::EINVAL), "{irq}");
    }
}

#[track_caller]
fn assert_debug(reason: Reason, vector: u32, at: u64) {
    match reason {
        Reason::Debug { exception, pc, .. } => assert_eq!((exception, pc), (vector, at)),
        other => panic!("{other:?}"),
    }
}

fn single_step(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::NOPS);
    let debug = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
        ..Default::default()
    };
    machine.vcpu.kvm_debug_guest(&debug).unwrap();
    assert_debug(machine.run().reason(), 1, ENTRY + 1);
    assert_debug(machine.run().reason(), 1, ENTRY + 2);
    stage
        .witness
        .kvm_debug_guest(machine.vcpu(), &kvm_guest_debug::default())
        .unwrap();
    machine.run_to_hlt();
}

/// The exit of a guest with a breakpoint at its second instruction.
pub fn breakpoint_exit(kvm: &Backend) -> Reason {
    const DR7_ENABLE_0: u64 = 1 << 1;
    let mut machine = TestVm::of_form(kvm, 0);
    machine.load(programs::NOPS);
    let mut debug = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
        ..Default::default()
    };
    debug.arch.debugreg[0] = ENTRY + 1;
    debug.arch.debugreg[7] = DR7_ENABLE_0;
    machine.vcpu.kvm_debug_guest(&debug).unwrap();
    machine.run().reason()
}

fn breakpoint(stage: &Stage) {
    assert_debug(breakpoint_exit(&stage.kvm), 1, ENTRY + 1);
}

/// Blocks a signal for this thread and makes it pending. A drop removes and unblocks
/// it.
struct Pending(SigSet);

impl Pending {
    const SIGNAL: Signal = Signal::SIGUSR1;

    fn new() -> Self {
        let set = SigSet::from(Self::SIGNAL);
        set.thread_block().unwrap();
        raise(Self::SIGNAL).unwrap();
        Self(set)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        assert_eq!(self.0.wait(), Ok(Self::SIGNAL));
        self.0.thread_unblock().unwrap();
    }
}

fn mask_lets(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::SPIN);
    machine
        .vcpu
        .kvm_set_signal_mask(Some(&SigSet::empty()))
        .unwrap();
    let _pending = Pending::new();
    assert_eq!(machine.try_run(), Err(Errno::EINTR));
    assert_eq!(machine.run.exit().reason(), Reason::Intr);
}

fn mask_keeps(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::OUT);
    let mask = SigSet::from(Pending::SIGNAL);
    machine.vcpu.kvm_set_signal_mask(Some(&mask)).unwrap();
    let _pending = Pending::new();
    machine.run_to_out(OUT_PORT);
    // Without a mask of the vCPU, the mask of the thread counts, which also blocks the
    // signal.
    machine
        .vcpu
        .kvm_set_signal_mask(Some(&SigSet::empty()))
        .unwrap();
    assert_eq!(machine.try_run(), Err(Errno::EINTR));
    machine.vcpu.kvm_set_signal_mask(None).unwrap();
    machine.run_to_hlt();
}
