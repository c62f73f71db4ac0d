//! Valid arguments, at a bad time or from the wrong task.

use anyhow::Result;
use kvm_sys::FlatCall::*;
use kvm_sys::{BindingCall, Fd, ProcessCall};
use nix::errno::Errno::*;

use self::Circumstance::*;
use super::expected::Expectation::{Dies, Fails, Works};
use super::expected::Of::{All, On, These};
use super::expected::{Expected, LIBRARY, LISTS, Rule};
use super::expected::{both, differs, flat_only, ioctl_only, look_up, nothing};
use super::invocation::Invocation;
use super::misuse::{Made, Misuse};
use super::testbed::Testbed;
use super::{processes, signals, threads};
use crate::open_files::without_files;
use crate::tested_call::TestedCall::{self, Binding, Flat, Process};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circumstance {
    Forked,
    Executed,
    Thread,
    Running,
    Signalled,
    Killed,
    Pending,
    LetThrough,
    ImmediateExit,
    NoFile,
}

pub const ALL_CIRCUMSTANCES: [(Circumstance, &str); 10] = [
    (Forked, "from a child that has been forked"),
    (
        Executed,
        "from a program that has been executed and has inherited the descriptor",
    ),
    (Thread, "from another thread"),
    (Running, "while another thread runs the vCPU"),
    (
        Signalled,
        "while another thread runs the vCPU, and a signal with a handler comes",
    ),
    (
        Killed,
        "while another process of the same memory runs the vCPU, and SIGKILL comes",
    ),
    (Pending, "with a signal pending that is blocked"),
    (
        LetThrough,
        "with a signal pending that is blocked, but not by the vCPU's mask",
    ),
    (ImmediateExit, "with `immediate_exit` set"),
    (NoFile, "with as many files open as `RLIMIT_NOFILE` allows"),
];

const OWN: &str =
    "the new VM belongs to the caller; the ioctl takes `/dev/kvm`, which belongs to no process";
const OF_DEVICE: &str = "the ioctl takes `/dev/kvm`, which belongs to no process";
const NOT_ON_VCPU: &str = "it takes no vCPU";
const NO_WAIT: &str = "it takes no vCPU, so it does not wait for one";
const RUNS_NEXT: &str = "it waits, and then `immediate_exit` ends its run";
const MEMFD: &str = "the library allocates a memfd; memory of the kernel needs no descriptor";
const OWN_RECORD: &str = "each process has its own record in the library";
const NO_FD: &str = "it takes no descriptor";

const CREATE_VM: &[TestedCall] = &[Flat(kvm_create_vm)];
const RUN: &[TestedCall] = &[Flat(kvm_run)];
const SET_MEMORY: &[TestedCall] = &[Flat(kvm_set_memory_region)];
const NEW_FILES: &[TestedCall] = &[Flat(kvm_create_vm), Flat(kvm_create_vcpu)];
/// The calls on the vCPU that is bound to the task.
const ON_BOUND: &[TestedCall] = &[
    Binding(BindingCall::kvm_unbind),
    Process(ProcessCall::kvm_bound_mmap),
];
const UNBIND_VM: &[TestedCall] = &[Process(ProcessCall::kvm_unbind_vm)];
const CREATE_BOUND_VM: &[TestedCall] = &[Process(ProcessCall::kvm_create_bound_vm)];
const CREATE_BOUND_VCPU: &[TestedCall] = &[Process(ProcessCall::kvm_create_bound_vcpu)];

const OWN_WORKS: Expected = Expected {
    why: OWN,
    ..both(Works)
};
/// The binding is that of the task which runs the tests, or of its address space.
const UNBOUND: Expected = both(Fails(ENXIO));
const FOR_VCPU: Expected = nothing(NOT_ON_VCPU);
const FOR_WAITER: Expected = nothing(NO_WAIT);

#[rustfmt::skip]
pub const RULES: &[Rule<Circumstance>] = &[
    Rule(All, &[Forked, Executed], both(Fails(EIO))),
    Rule(These(CREATE_VM), &[Forked], OWN_WORKS),
    Rule(These(CREATE_VM), &[Executed], ioctl_only(Works, NO_FD)),
    Rule(These(LISTS), &[Forked, Executed], differs(Works, Fails(EIO), OF_DEVICE)),
    Rule(These(LIBRARY), &[Executed], flat_only(Fails(EIO), OWN_RECORD)),
    Rule(These(ON_BOUND), &[Forked, Executed, Thread, Running], UNBOUND),
    Rule(These(UNBIND_VM), &[Forked, Executed], UNBOUND),
    Rule(These(CREATE_BOUND_VM), &[Forked, Executed], both(Works)),
    Rule(These(CREATE_BOUND_VCPU), &[Forked, Executed], both(Fails(EBADF))),
    Rule(All, &[Thread, Running, Pending, NoFile], both(Works)),
    Rule(These(RUN), &[Running, Signalled], Expected { why: RUNS_NEXT, ..both(Fails(EINTR)) }),
    Rule(All, &[Signalled, Killed], FOR_WAITER),
    Rule(On(Fd::Vcpu), &[Signalled], both(Works)),
    Rule(On(Fd::Vcpu), &[Killed], both(Dies)),
    Rule(All, &[LetThrough, ImmediateExit], FOR_VCPU),
    Rule(On(Fd::Vcpu), &[LetThrough, ImmediateExit], both(Works)),
    Rule(These(RUN), &[LetThrough, ImmediateExit], both(Fails(EINTR))),
    Rule(These(NEW_FILES), &[NoFile], both(Fails(EMFILE))),
    Rule(These(SET_MEMORY), &[NoFile], differs(Fails(EMFILE), Works, MEMFD)),
];

pub fn cases() -> Vec<Misuse> {
    let mut cases = Vec::new();
    for call in TestedCall::all() {
        for (circumstance, name) in ALL_CIRCUMSTANCES {
            let expected = look_up(RULES, call, circumstance);
            cases.push(Misuse::new(call, name, expected, move |testbed, it| {
                attempt(testbed, it, call, circumstance)
            }));
        }
    }
    cases
}

fn attempt(
    testbed: &mut Testbed<'_>,
    invocation: Invocation,
    call: TestedCall,
    circumstance: Circumstance,
) -> Result<Made> {
    let waits = call.fd == Fd::Vcpu;
    match circumstance {
        Forked => processes::forked(testbed, &invocation),
        Executed => processes::executed(testbed, &invocation),
        Thread => threads::another(testbed, &invocation),
        Running => threads::while_running(testbed, invocation, waits, false),
        Signalled => threads::while_running(testbed, invocation, waits, true),
        Killed => threads::killed(testbed, invocation),
        Pending => signals::pending(testbed, &invocation, false),
        LetThrough => signals::pending(testbed, &invocation, true),
        ImmediateExit => {
            testbed.machine.run.set_immediate_exit(true);
            let made = Made::of(&invocation, testbed);
            testbed.machine.run.set_immediate_exit(false);
            Ok(made)
        }
        NoFile => Ok(without_files(|| Made::of(&invocation, testbed))?),
    }
}
