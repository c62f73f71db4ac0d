//! Threads that repeat operations while something else happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope, yield_now};

/// Threads that repeat operations until they are told that it is over.
pub struct Repeating<'scope, 'env> {
    pub scope: &'scope Scope<'scope, 'env>,
    over: Arc<AtomicBool>,
}

/// Runs `act`, and tells the threads that it has started that it is over.
pub fn repeating<'env, T>(act: impl for<'scope> FnOnce(&Repeating<'scope, 'env>) -> T) -> T {
    thread::scope(|scope| {
        let threads = Repeating {
            scope,
            over: Arc::default(),
        };
        let result = act(&threads);
        threads.over.store(true, Ordering::Relaxed);
        result
    })
}

impl<'scope> Repeating<'scope, '_> {
    /// Starts a thread that repeats `operation`.
    pub fn repeat(&self, mut operation: impl FnMut() + Send + 'scope) {
        let over = Arc::clone(&self.over);
        self.scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                operation();
            }
        });
    }
}

/// Waits until `done` returns true. If it never does, the watchdog ends the race.
pub fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        yield_now();
    }
}
