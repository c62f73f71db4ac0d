//! What the tests of random sequences share: where the steps come from, and
//! what a failing one says.

use std::fmt::Write;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Mutex;

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Runs that many sequences, and shortens one that fails.
pub fn runner(seed: u64, cases: u64) -> TestRunner {
    let config = Config {
        cases: cases.try_into().unwrap_or(u32::MAX),
        // They are kept in a file of the repository's instead.
        failure_persistence: None,
        max_local_rejects: u32::MAX,
        max_shrink_iters: 4000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// Runs `f`, in which panics are not told as they come: there is one on each step
/// to the shortest sequence that fails.
pub fn quietly<T>(f: impl FnOnce() -> T) -> T {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(remember));
    let result = f();
    panic::set_hook(hook);
    result
}

/// What `f` says if it panics, which it does [quietly].
pub fn caught(f: impl FnOnce()) -> Result<(), String> {
    if let Ok(mut said) = SAID.lock() {
        said.clear();
    }
    panic::catch_unwind(AssertUnwindSafe(f)).map_err(|_| said())
}

/// What the panics said: that of a thread, and that of who waits for it.
static SAID: Mutex<String> = Mutex::new(String::new());

/// Instead of telling each on the way to the shortest sequence.
fn remember(panic: &PanicHookInfo<'_>) {
    if let Ok(mut said) = SAID.lock() {
        writeln!(said, "{panic}").expect("a string takes it");
    }
}

fn said() -> String {
    SAID.lock()
        .map(|said| said.trim_end().to_owned())
        .unwrap_or_default()
}
