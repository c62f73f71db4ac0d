//! Random sequences of steps in lockstep with a model, and the messages of panics.

use std::cell::Cell;
use std::fmt::Write;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Mutex;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use crate::outcome::Failure;

type StepOf<T> = <<T as StateMachineTest>::Reference as ReferenceStateMachine>::Transition;

/// Runs `cases` random sequences of at most `steps` steps, and returns a failure with the
/// shortest sequence that fails, as `describe` shows it. `begin` gets the number of each
/// sequence.
pub fn sequences<T: StateMachineTest>(
    seed: u64,
    cases: u64,
    steps: usize,
    begin: impl Fn(u64),
    describe: impl Fn(&[StepOf<T>]) -> String,
) -> Option<Failure> {
    let begun = Cell::new(0);
    let strategy = T::Reference::sequential_strategy(1..=steps);
    let config = Config {
        cases: cases.try_into().unwrap_or(u32::MAX),
        // The corpus in the repository takes their place.
        failure_persistence: None,
        max_local_rejects: u32::MAX,
        max_shrink_iters: 4000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, random);
    let result = runner.run(&strategy, |(model, steps, seen)| {
        begun.set(begun.get() + 1);
        begin(begun.get());
        caught(|| T::test_sequential(Config::default(), model, steps, seen))
            .map_err(TestCaseError::fail)
    });
    let what = match result.err()? {
        TestError::Abort(reason) => format!("no sequences: {reason}"),
        TestError::Fail(reason, (_, steps, _)) => {
            let steps = describe(&steps);
            format!("{reason}\nby the last of these steps:{steps}")
        }
    };
    Some(Failure::of_seed(what, seed))
}

/// Runs `f` without printing panics: shrinking a sequence causes many.
pub fn quietly<T>(f: impl FnOnce() -> T) -> T {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(remember));
    let result = f();
    panic::set_hook(hook);
    result
}

/// Runs `f`, and returns its message if it panics. Used within [`quietly`].
pub fn caught(f: impl FnOnce()) -> Result<(), String> {
    if let Ok(mut messages) = MESSAGES.lock() {
        messages.clear();
    }
    panic::catch_unwind(AssertUnwindSafe(f)).map_err(|_| messages())
}

/// The messages of the panics: of a thread, and of the one that waits for it.
static MESSAGES: Mutex<String> = Mutex::new(String::new());

/// A panic hook that keeps the message instead of printing it.
fn remember(panic: &PanicHookInfo<'_>) {
    if let Ok(mut messages) = MESSAGES.lock() {
        writeln!(messages, "{panic}").expect("a string takes it");
    }
}

fn messages() -> String {
    MESSAGES
        .lock()
        .map(|messages| messages.trim_end().to_owned())
        .unwrap_or_default()
}
