//! kvm_run: the data of each kind of exit, and the data that returns to the guest.

use kvm_api::kvm_sys::exit::KVM_EXIT_IO;
use kvm_api::{Direction, Errno, Reason};

use crate::Needs::{AnyVcpu, LongMode, Processor};
use crate::{Stage, Test};
use guests::TestVm;
use guests::programs::{self, IN_PORT, MMIO, OUT_PORT};

pub const TESTS: &[Test] = &[
    ("kvm_run::port_out", AnyVcpu, port_out),
    ("kvm_run::port_in_reaches_the_guest", AnyVcpu, port_in),
    ("kvm_run::port_string_out", AnyVcpu, port_string),
    ("kvm_run::mmio_write", AnyVcpu, mmio_write),
    ("kvm_run::mmio_read_reaches_the_guest", AnyVcpu, mmio_read),
    ("kvm_run::hlt_goes_on_behind_it", AnyVcpu, hlt),
    ("kvm_run::immediate_exit", AnyVcpu, immediate_exit),
    ("kvm_run::completes_no_exit_that_was_left", Processor, left),
    (
        "kvm_run::runs_through_either_interface",
        AnyVcpu,
        either_interface,
    ),
    ("kvm_run::shutdown", Processor, shutdown),
    ("kvm_run::long_mode_port_out", LongMode, long_mode),
    ("kvm_run::long_mode_mmio", LongMode, long_mode_mmio),
];

fn port_out(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::OUT);
    assert_eq!(machine.run().exit_reason(), KVM_EXIT_IO);
    let exit = machine.run.exit();
    assert_eq!(
        exit.reason(),
        Reason::Io {
            direction: Direction::Out,
            port: OUT_PORT,
            size: 1,
            count: 1
        }
    );
    let mut data = [0; 4];
    assert_eq!(exit.read_data(&mut data), 1);
    assert_eq!(data, [0x2a, 0, 0, 0]);
    machine.run_to_hlt();
}

fn port_in(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::IN);
    let mut exit = machine.run();
    assert_eq!(
        exit.reason(),
        Reason::Io {
            direction: Direction::In,
            port: IN_PORT,
            size: 1,
            count: 1
        }
    );
    assert_eq!(exit.write_data(&[0x70, 0xff]), 1);
    assert_eq!(machine.run_to_out(OUT_PORT), 0x71);
    machine.run_to_hlt();
}

fn port_string(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::OUT_STRING);
    machine.memory.write(0x1040, b"flat").unwrap();
    let mut written = Vec::new();
    // KVM may make one exit of it or several.
    loop {
        let exit = machine.run();
        match exit.reason() {
            Reason::Io {
                direction: Direction::Out,
                port: OUT_PORT,
                size: 1,
                count,
            } => {
                let mut data = vec![0; count as usize];
                assert_eq!(exit.read_data(&mut data), data.len());
                written.extend(data);
            }
            Reason::Hlt => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(written, b"flat");
}

fn mmio_write(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::MMIO_WRITE);
    let exit = machine.run();
    assert_eq!(
        exit.reason(),
        Reason::Mmio {
            phys_addr: MMIO,
            len: 1,
            is_write: true
        }
    );
    let mut data = [0; 8];
    assert_eq!(exit.read_data(&mut data), 1);
    assert_eq!(data[0], 0x5a);
    machine.run_to_hlt();
}

fn mmio_read(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::MMIO_READ);
    let mut exit = machine.run();
    assert_eq!(
        exit.reason(),
        Reason::Mmio {
            phys_addr: MMIO,
            len: 1,
            is_write: false
        }
    );
    assert_eq!(exit.write_data(&[0xc3]), 1);
    assert_eq!(machine.run_to_out(OUT_PORT), 0xc3);
    machine.run_to_hlt();
}

fn hlt(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(&[programs::HLT, programs::OUT].concat());
    let mut exit = machine.run();
    assert_eq!(exit.reason(), Reason::Hlt);
    assert_eq!(exit.read_data(&mut [0; 8]), 0);
    assert_eq!(exit.write_data(&[0; 8]), 0);
    assert_eq!(machine.run_to_out(OUT_PORT), 0x2a);
}

/// A run completes an exit only if the vCPU is still at the same address.
fn left(stage: &Stage) {
    const FURTHER: u64 = 0x100;
    type Leave = fn(&mut TestVm);
    let stay: Leave = |machine| machine.change_regs(|regs| regs.rbx = 1);
    let move_rip: Leave = |machine| machine.change_regs(|regs| regs.rip += FURTHER);
    let move_base: Leave = |machine| machine.change_sregs(|sregs| sregs.cs.base += FURTHER);
    let there_and_back: Leave = |machine| {
        machine.change_sregs(|sregs| sregs.cs.base += FURTHER);
        machine.change_sregs(|sregs| sregs.cs.base -= FURTHER);
    };
    for (program, length) in [(programs::OUT, 4), (programs::IN, 2)] {
        for (leave, completed) in [
            (stay, true),
            (move_rip, false),
            (move_base, false),
            (there_and_back, true),
        ] {
            let mut machine = TestVm::of_form(&stage.kvm, 0);
            machine.load(program);
            // The guest continues at halts.
            let halts = [0xf4; 16];
            machine
                .memory
                .write((guests::ENTRY + FURTHER) as usize, &halts)
                .unwrap();
            let mut exit = machine.run();
            exit.write_data(&[0x10]);
            let before = machine.regs();
            leave(&mut machine);
            let after = machine.regs();
            machine.run.set_immediate_exit(true);
            assert_eq!(machine.try_run(), Err(Errno::EINTR));
            machine.run.set_immediate_exit(false);
            let now = machine.regs();
            let expected = if completed {
                guests::ENTRY + length
            } else {
                after.rip
            };
            assert_eq!(now.rip, expected);
            let read = completed && program == programs::IN;
            let rax = if read { 0x10 } else { before.rax & 0xff };
            assert_eq!(now.rax & 0xff, rax);
        }
    }
}

fn immediate_exit(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::IN);
    machine.run().write_data(&[0x10]);
    let before = machine.regs();
    machine.run.set_immediate_exit(true);
    assert_eq!(machine.try_run(), Err(Errno::EINTR));
    // The run completes the pending instruction, and begins no other.
    let after = machine.regs();
    assert_eq!(after.rax & 0xff, 0x10);
    assert_eq!(after.rip, before.rip.max(guests::ENTRY + 2));
    machine.run.set_immediate_exit(false);
    assert_eq!(machine.run_to_out(OUT_PORT), 0x11);
}

fn either_interface(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::IN);
    machine.run().write_data(&[1]);
    let witness = stage.witness.vcpu(machine.vcpu_fd()).unwrap();
    let own = std::mem::replace(&mut machine.vcpu, witness);
    assert_eq!(machine.run_to_out(OUT_PORT), 2);
    machine.vcpu = own;
    machine.run_to_hlt();
}

fn shutdown(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    // With a limit of 0, the IDT has no entry for the interrupt: a triple fault.
    machine.change_sregs(|sregs| sregs.idt.limit = 0);
    machine.load(&[0xcd, 0x21]);
    assert_eq!(machine.run().reason(), Reason::Shutdown);
}

fn long_mode(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.enter_long_mode();
    machine.load(programs::LONG);
    assert_eq!(machine.run_to_out(OUT_PORT), 0x2a);
    machine.run_to_hlt();
    let mut word = [0; 8];
    machine.memory.read(0x3000, &mut word).unwrap();
    assert_eq!(u64::from_le_bytes(word), 0x1122_3344_5566_7788);
}

fn long_mode_mmio(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.enter_long_mode();
    machine.load(programs::LONG_MMIO);
    machine.change_regs(|regs| regs.r8 = 0x0102_0304_0506_0708);
    let exit = machine.run();
    assert_eq!(
        exit.reason(),
        Reason::Mmio {
            phys_addr: MMIO,
            len: 8,
            is_write: true
        }
    );
    let mut data = [0; 8];
    assert_eq!(exit.read_data(&mut data), 8);
    assert_eq!(u64::from_le_bytes(data), 0x0102_0304_0506_0708);
    let mut exit = machine.run();
    assert_eq!(
        exit.reason(),
        Reason::Mmio {
            phys_addr: MMIO,
            len: 8,
            is_write: false
        }
    );
    assert_eq!(exit.write_data(&u64::MAX.to_le_bytes()), 8);
    machine.run_to_hlt();
    assert_eq!(machine.regs().rax, u64::MAX);
}
