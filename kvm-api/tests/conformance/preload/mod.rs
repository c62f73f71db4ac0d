//! The library to preload, which hands requests to calls: the answers are those of the
//! ioctls, whatever the program does with its descriptors, and cost next to nothing.

mod files;
mod games;
mod instructions;
mod races;
mod report;
mod requests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use kvm_api::Form;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::Needs::AnyVcpu;
use crate::Test;

pub const TESTS: &[(Form, Test)] = &[
    (
        Form::Syscall,
        (
            "preload::adds_at_most_40_instructions",
            AnyVcpu,
            instructions::few,
        ),
    ),
    (
        Form::Syscall,
        (
            "preload::a_wrong_memory_is_not_seen",
            AnyVcpu,
            games::wrong_memories,
        ),
    ),
    (
        Form::Syscall,
        ("preload::random_games", AnyVcpu, games::random),
    ),
    (
        Form::Syscall,
        (
            "preload::answers_while_another_thread_replaces_the_file",
            AnyVcpu,
            races::replaced,
        ),
    ),
    (
        Form::Syscall,
        (
            "preload::a_thread_with_its_own_descriptors",
            AnyVcpu,
            races::unshared,
        ),
    ),
    (
        Form::Syscall,
        (
            "preload::a_filter_of_system_calls_is_not_seen",
            AnyVcpu,
            games::filtered,
        ),
    ),
    (
        Form::Syscall,
        ("preload::reports_at_its_end", AnyVcpu, report::written),
    ),
];

/// Runs a test in a child, which has machines of its own, and starts the library there.
fn in_child(test: impl FnOnce()) {
    // SAFETY: this process has one thread that does anything, and the child leaves without
    // unwinding.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            kvm_preload::start();
            let done = catch_unwind(AssertUnwindSafe(test));
            // SAFETY: nothing of the parent's is touched on the way out.
            unsafe { libc::_exit(done.is_err().into()) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }
}
