//! Valid arguments, at a bad time or from the wrong task.

use anyhow::Result;
use kvm_sys::{Call, Fd};
use nix::errno::Errno::*;

use self::Circumstance::*;
use super::expected::Expectation::{Dies, Fails, Works};
use super::expected::Of::{All, On, These};
use super::expected::{Expected, Rule, both, differs, flat_only, ioctl_only, look_up, nothing};
use super::invocation::Invocation;
use super::misuse::{Made, Misuse};
use super::signature::calls;
use super::testbed::Testbed;
use super::{processes, signals, threads};

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
    (Running, "while another thread runs the vcpu"),
    (
        Signalled,
        "while another thread runs the vcpu, and a signal with a handler comes",
    ),
    (
        Killed,
        "while another process of the same memory runs the vcpu, and SIGKILL comes",
    ),
    (Pending, "with a signal pending that is blocked"),
    (
        LetThrough,
        "with a signal pending that is blocked, but not by the vcpu's mask",
    ),
    (ImmediateExit, "with `immediate_exit` set"),
    (NoFile, "with as many files open as `RLIMIT_NOFILE` allows"),
];

const OWN: &str =
    "what it makes is the caller's own; the ioctl takes `/dev/kvm`, which is nobody's";
const OF_DEVICE: &str = "over ioctl it takes `/dev/kvm`, which is nobody's";
const NOT_ON_VCPU: &str = "it takes no vcpu";
const NO_WAIT: &str = "it does not wait for the vcpu, as it takes none";
const RUNS_NEXT: &str = "it waits, and then is told by `immediate_exit` not to run";
const MEMFD: &str = "over ioctl the memory is a memfd's, the kernel's own needs no descriptor";
const PROCESS: &str = "the library's record is a process' own";
const NO_FD: &str = "it takes no descriptor";

const CREATE_VM: &[&str] = &["kvm_create_vm"];
const LISTS: &[&str] = &["kvm_get_msr_index_list", "kvm_get_vcpu_mmap_size"];
const RUN: &[&str] = &["kvm_run"];
const LIBRARY: &[&str] = &[
    "kvm_set_memory_region",
    "kvm_get_memory_alias",
    "kvm_set_memory_alias",
    "kvm_map_memory",
];
const NEW_FILES: &[&str] = &["kvm_create_vm", "kvm_create_vcpu"];

const OWN_WORKS: Expected = Expected {
    why: OWN,
    ..both(Works)
};
const FOR_VCPU: Expected = nothing(NOT_ON_VCPU);
const FOR_WAITER: Expected = nothing(NO_WAIT);

#[rustfmt::skip]
pub const RULES: &[Rule<Circumstance>] = &[
    Rule(All, Forked, both(Fails(EIO))),
    Rule(These(CREATE_VM), Forked, OWN_WORKS),
    Rule(These(LISTS), Forked, differs(Works, Fails(EIO), OF_DEVICE)),
    Rule(All, Executed, both(Fails(EIO))),
    Rule(These(CREATE_VM), Executed, ioctl_only(Works, NO_FD)),
    Rule(These(LISTS), Executed, differs(Works, Fails(EIO), OF_DEVICE)),
    Rule(These(LIBRARY), Executed, flat_only(Fails(EIO), PROCESS)),
    Rule(All, Thread, both(Works)),
    Rule(All, Running, both(Works)),
    Rule(These(RUN), Running, Expected { why: RUNS_NEXT, ..both(Fails(EINTR)) }),
    Rule(All, Signalled, FOR_WAITER),
    Rule(On(Fd::Vcpu), Signalled, both(Works)),
    Rule(These(RUN), Signalled, Expected { why: RUNS_NEXT, ..both(Fails(EINTR)) }),
    Rule(All, Killed, FOR_WAITER),
    Rule(On(Fd::Vcpu), Killed, both(Dies)),
    Rule(All, Pending, both(Works)),
    Rule(All, LetThrough, FOR_VCPU),
    Rule(On(Fd::Vcpu), LetThrough, both(Works)),
    Rule(These(RUN), LetThrough, both(Fails(EINTR))),
    Rule(All, ImmediateExit, FOR_VCPU),
    Rule(On(Fd::Vcpu), ImmediateExit, both(Works)),
    Rule(These(RUN), ImmediateExit, both(Fails(EINTR))),
    Rule(All, NoFile, both(Works)),
    Rule(These(NEW_FILES), NoFile, both(Fails(EMFILE))),
    Rule(These(&["kvm_set_memory_region"]), NoFile, differs(Fails(EMFILE), Works, MEMFD)),
];

/// A case for each call and each circumstance.
pub fn cases() -> Vec<Misuse> {
    let mut cases = Vec::new();
    for call in calls() {
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
    call: &'static Call,
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
        Pending => signals::pending(testbed, &invocation, None),
        LetThrough => {
            let vcpu = testbed.fd(call);
            signals::pending(testbed, &invocation, Some(vcpu))
        }
        ImmediateExit => {
            testbed.machine.run.set_immediate_exit(true);
            let made = Made::of(&invocation, testbed);
            testbed.machine.run.set_immediate_exit(false);
            Ok(made)
        }
        NoFile => processes::without_files(|| Made::of(&invocation, testbed)),
    }
}
