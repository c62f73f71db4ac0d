//! Each call on each backend. A test is written once, and runs on every backend.
//!
//! A trial is named `backend::call::test`. KVM_API_EXPECT lists the features that this
//! host must have, separated by commas: `ioctl`, `syscall`, `longmode`, `processor`,
//! `private` and `breakpoints`. The suite fails if a listed feature is missing. If another feature is
//! missing, its trials are ignored, with the reason.

#![allow(missing_docs)]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod alias;
mod backing;
mod bound;
mod files;
mod host;
mod interrupt;
mod kick;
mod memory;
mod misuse;
mod msrs;
mod permission;
mod pointers;
mod preload;
mod process;
mod range_guest;
mod range_logs;
mod range_model;
mod range_private;
mod range_slots;
mod ranges;
mod raw;
mod regs;
mod run;
mod shim;
mod state;
mod state_migration;
mod state_misuse;
mod state_msrs;
mod state_nested;
mod steps;
mod traced;
mod uring;
mod vcpu_state;
mod vm;

use std::process::ExitCode;

use host::Host;
use kvm_api::kvm_sys::FlatCall;
use kvm_api::{Backend, Form};
use libtest_mimic::{Arguments, Trial};

/// What a test gets.
pub struct Stage {
    /// The backend under test.
    pub kvm: Backend,
    /// Another view of the same kernel objects: the other backend if the host has both,
    /// otherwise a second one of the same kind.
    pub witness: Backend,
    /// The form under test.
    pub form: Form,
}

/// The requirement of a test on the host's processor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// A vCPU of any kind.
    AnyVcpu,
    /// A vCPU that pages and runs 64-bit code.
    LongMode,
    /// A vCPU that runs on the processor, and so has every instruction. On a host
    /// without hardware virtualization, KVM may emulate all instructions with its own
    /// emulator, which knows only the few that device drivers use.
    Processor,
    /// A vCPU with debug registers. QEMU's emulation of SVM loads a guest's debug
    /// registers, but ignores them.
    Breakpoints,
    /// A virtual machine with memory that the host does not see, which takes nested paging.
    PrivateMemory,
}

/// A test: its name, its requirements, and its function.
pub type Test = (&'static str, Needs, fn(&Stage));

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Tests fork, and send signals to themselves.
    arguments.test_threads.get_or_insert(1);

    let host = Host::look();
    let tests = [
        vm::TESTS,
        memory::TESTS,
        alias::TESTS,
        run::TESTS,
        regs::TESTS,
        interrupt::TESTS,
        msrs::TESTS,
    ]
    .concat();
    // Tests of descriptors, and of calls on the vCPU that the form `bound` makes, too.
    let by_descriptor = [misuse::TESTS, pointers::TESTS].concat();

    host.report();
    let mut trials = host.trials();
    for form in Form::ALL {
        let by_descriptor = by_descriptor.iter().filter(|_| form != Form::Process);
        for &(name, needs, test) in tests.iter().chain(by_descriptor) {
            // `misuse` tests how a backend refuses a call that it lacks.
            let call = FlatCall::named(name.split("::").next().unwrap_or(name));
            if call.is_none_or(|call| !form.lacks(&call)) {
                trials.push(host.trial(form, name, needs, test));
            }
        }
    }
    let of_one = [
        backing::TESTS,
        bound::TESTS,
        files::TESTS,
        kick::TESTS,
        permission::TESTS,
        preload::TESTS,
        process::TESTS,
        range_logs::TESTS,
        range_model::TESTS,
        range_private::TESTS,
        range_slots::TESTS,
        ranges::TESTS,
        shim::TESTS,
        state::TESTS,
        state_migration::TESTS,
        state_misuse::TESTS,
        state_msrs::TESTS,
        state_nested::TESTS,
        traced::TESTS,
        uring::TESTS,
    ]
    .concat();
    for (form, (name, needs, test)) in of_one {
        trials.push(host.trial(form, name, needs, test));
    }
    trials.push(Trial::test(
        "syscall::open::says_what_it_takes",
        host::open_explains_itself,
    ));
    libtest_mimic::run(&arguments, trials).exit_code()
}
