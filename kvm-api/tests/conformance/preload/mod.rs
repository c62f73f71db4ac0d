//! The library to preload, which hands requests to calls: the answers are those of the
//! ioctls, whatever the program does with its descriptors, and cost next to nothing.

mod bound;
mod files;
mod games;
mod instructions;
mod races;
mod report;
mod requests;

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use kvm_api::Form;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::Needs::AnyVcpu;
use crate::{Stage, Test};

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
    bound(
        "preload::bound::adds_few_instructions",
        instructions::few_bound,
    ),
    bound("preload::bound::games_with_fd", bound::with_fd),
    bound("preload::bound::games_without_fd", bound::without_fd),
    bound(
        "preload::bound::a_thread_that_waits_gives_its_vcpu",
        bound::given_by_waiting,
    ),
    bound("preload::bound::a_run_is_waited_for", bound::run_waited_for),
    bound("preload::bound::threads_take_turns", bound::turns),
    bound("preload::bound::busy_by_itself", bound::busy_by_itself),
    bound(
        "preload::bound::a_child_of_vfork_has_the_vcpu",
        bound::before_vfork,
    ),
    bound("preload::bound::a_child_of_fork", bound::forked),
    bound("preload::bound::reports_at_its_end", report::of_bound),
    bound(
        "preload::bound::ends_with_a_message",
        bound::ends_with_a_message,
    ),
];

const fn bound(name: &'static str, test: fn(&Stage)) -> (Form, Test) {
    (Form::Syscall, (name, AnyVcpu, test))
}

/// Runs a test in a child, which has machines of its own, and starts the library there.
fn in_child(test: impl FnOnce()) {
    in_child_with(&[], test);
}

/// The same with variables for the library.
fn in_child_with(variables: &[(&CStr, &str)], test: impl FnOnce()) {
    let ended = end_of_child(variables, test);
    assert!(matches!(ended, WaitStatus::Exited(_, 0)), "{ended:?}");
}

/// The same for a child that may end in another way, which is returned.
fn end_of_child(variables: &[(&CStr, &str)], test: impl FnOnce()) -> WaitStatus {
    // SAFETY: this process has one thread that does anything, and the child leaves without
    // unwinding.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            for (name, value) in variables {
                // SAFETY: this process has one thread.
                unsafe { std::env::set_var(name.to_str().unwrap(), value) };
            }
            kvm_preload::start();
            let done = catch_unwind(AssertUnwindSafe(test));
            // SAFETY: nothing of the parent's is touched on the way out.
            unsafe { libc::_exit(done.is_err().into()) }
        }
        ForkResult::Parent { child } => waitpid(child, None).unwrap(),
    }
}
