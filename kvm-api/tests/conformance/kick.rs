//! A kick ends one run: the present one, or else the next one. The vCPU may run by its
//! descriptor or as a bound one, and the kick may name it or its thread.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread;

use guests::{ENTRY, TestVm, programs};
use kvm_api::kvm_sys::exit::KVM_EXIT_INTR;
use kvm_api::kvm_sys::kvm_regs;
use kvm_api::{Backend, Errno, Form, Reason, RunMapping, Vcpu, kick};

use crate::Needs::AnyVcpu;
use crate::bound::{
    PATIENCE, bind, bound_run, flat, in_child, limited, machine, this_thread, unbind,
};
use crate::{Stage, Test};

pub const TESTS: &[(Form, Test)] = &[
    of_flat("kvm_kick::of_one_that_does_not_run", before),
    of_flat("kvm_kick::of_one_that_runs", during),
    of_flat("kvm_kick::of_one_that_is_halted", halted),
    of_flat("kvm_kick::completes_the_exit", completes),
    of_flat("kvm_kick::says_what_cannot_be_kicked", refused),
    of_bound("kvm_kick::of_one_that_does_not_run", before),
    of_bound("kvm_kick::of_one_that_runs", during),
    of_bound("kvm_kick::of_one_that_is_halted", halted),
    of_bound("kvm_kick::completes_the_exit", completes),
    of_bound(
        "kvm_kick::says_which_thread_cannot_be_kicked",
        thread_refused,
    ),
    of_bound("kvm_kick::stays_when_a_binding_begins_or_ends", stays),
];

const fn of_flat(name: &'static str, test: fn(&Stage)) -> (Form, Test) {
    (Form::Syscall, (name, AnyVcpu, test))
}

const fn of_bound(name: &'static str, test: fn(&Stage)) -> (Form, Test) {
    (Form::Bound, (name, AnyVcpu, test))
}

/// A way to run a vCPU and to kick it.
#[derive(Clone, Copy)]
struct Way<'s> {
    runner: &'s Backend,
    /// Whether the kick names the thread and not the vCPU.
    thread: bool,
}

impl<'s> Way<'s> {
    fn all(stage: &'s Stage) -> [Self; 2] {
        let of = |runner, thread| Self { runner, thread };
        match stage.form {
            Form::Bound => [of(&stage.kvm, false), of(&stage.kvm, true)],
            _ => [of(&stage.kvm, false), of(&stage.witness, false)],
        }
    }

    fn vcpu(self, machine: &TestVm<'_>) -> Box<dyn Vcpu + 's> {
        self.runner.vcpu(machine.vcpu_fd()).unwrap()
    }
}

/// The descriptor by which to kick a vCPU that the calling thread runs.
fn target(vcpu: &dyn Vcpu, thread: bool) -> OwnedFd {
    match thread {
        true => this_thread(),
        false => vcpu.as_fd().try_clone_to_owned().unwrap(),
    }
}

/// Checks that the run is the one that a kick ends.
fn expect_kick(vcpu: &dyn Vcpu, run: &mut RunMapping) {
    let end = vcpu.kvm_run(run).map(|exit| exit.reason());
    assert_eq!(end, Err(Errno::EINTR));
    assert_eq!(run.exit().exit_reason(), KVM_EXIT_INTR);
}

fn before(stage: &Stage) {
    for way in Way::all(stage) {
        let mut machine = machine(stage, programs::OUT);
        let vcpu = way.vcpu(&machine);
        let target = target(&*vcpu, way.thread);
        // Several kicks count as one.
        for _ in 0..3 {
            kick(flat(), target.as_fd()).unwrap();
        }
        expect_kick(&*vcpu, &mut machine.run);
        let exit = vcpu.kvm_run(&mut machine.run).unwrap();
        assert!(matches!(exit.reason(), Reason::Io { .. }), "{exit:?}");
    }
}

fn during(stage: &Stage) {
    for way in Way::all(stage) {
        kick_often(way, machine(stage, programs::SPIN));
    }
}

fn halted(stage: &Stage) {
    for way in Way::all(stage) {
        // With the interrupt controller in the kernel, a halted vCPU waits in the kernel.
        let kvm = &*stage.witness;
        let vm = kvm.kvm_create_vm().unwrap();
        crate::raw::create_irqchip(vm.as_fd()).unwrap();
        let mut machine = TestVm::of_vm(kvm, vm, 0);
        machine.load(programs::HLT);
        kick_often(way, machine);
    }
}

/// Kicks a guest that does not exit by itself, several times.
fn kick_often(way: Way<'_>, mut machine: TestVm<'_>) {
    const ROUNDS: usize = 20;
    let (form, by_thread) = (way.runner.form(), way.thread);
    let fd = machine.vcpu_fd();
    let run = &mut machine.run;
    let (tell, told) = mpsc::channel();
    limited(|| {
        thread::scope(|scope| {
            scope.spawn(move || {
                let runner = form.open().unwrap();
                let vcpu = runner.vcpu(fd).unwrap();
                for _ in 0..ROUNDS {
                    tell.send(target(&*vcpu, by_thread)).unwrap();
                    expect_kick(&*vcpu, run);
                }
            });
            for _ in 0..ROUNDS {
                let target = told.recv_timeout(PATIENCE).unwrap();
                kick(flat(), target.as_fd()).unwrap();
            }
        })
    });
}

fn completes(stage: &Stage) {
    for way in Way::all(stage) {
        let mut machine = machine(stage, programs::IN);
        let vcpu = way.vcpu(&machine);
        vcpu.kvm_run(&mut machine.run).unwrap().write_data(&[0x10]);
        kick(flat(), target(&*vcpu, way.thread).as_fd()).unwrap();
        expect_kick(&*vcpu, &mut machine.run);
        // The run completes the pending instruction, and begins no other.
        let mut regs = kvm_regs::default();
        vcpu.kvm_get_regs(&mut regs).unwrap();
        assert_eq!((regs.rax & 0xff, regs.rip), (0x10, ENTRY + 2));
    }
}

fn refused(stage: &Stage) {
    let machine = machine(stage, programs::OUT);
    let null = File::open("/dev/null").unwrap();
    let device = crate::raw::device();
    for other in [null.as_fd(), device.as_fd(), machine.vm()] {
        assert_eq!(kick(flat(), other), Err(Errno::EBADF));
    }
    // A process may not kick the vCPU of another process.
    let status = in_child(|| i32::from(kick(flat(), machine.vcpu()) != Err(Errno::EIO)));
    assert_eq!(status, 0);
}

fn thread_refused(stage: &Stage) {
    let machine = machine(stage, programs::OUT);
    let me = this_thread();
    assert_eq!(kick(flat(), me.as_fd()), Err(Errno::ESRCH));
    bind(machine.vcpu()).unwrap();
    let status = in_child(|| i32::from(kick(flat(), me.as_fd()) != Err(Errno::EIO)));
    assert_eq!(status, 0);
    unbind().unwrap();
}

fn stays(stage: &Stage) {
    let mut machine = machine(stage, programs::OUT);
    let me = this_thread();
    kick(flat(), machine.vcpu()).unwrap();
    bind(machine.vcpu()).unwrap();
    assert_eq!(bound_run(), Err(Errno::EINTR));
    kick(flat(), me.as_fd()).unwrap();
    unbind().unwrap();
    assert_eq!(machine.try_run(), Err(Errno::EINTR));
    machine.run_to_out(programs::OUT_PORT);
}
