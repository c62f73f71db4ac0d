//! Threads that repeat operations while something else happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, Scope, ScopedJoinHandle, yield_now};

use nix::unistd::{Pid, gettid};

use crate::signal::kick;

/// Starts a thread, and returns its ID and its handle.
pub fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    body: impl FnOnce() -> T + Send + 'scope,
) -> (Pid, ScopedJoinHandle<'scope, T>) {
    let (sender, receiver) = mpsc::channel();
    let handle = scope.spawn(move || {
        sender.send(gettid()).expect("the receiver waits");
        body()
    });
    (receiver.recv().expect("the thread starts"), handle)
}

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

/// Interrupts a thread until it has ended: it may enter the guest after a signal.
pub fn kick_to_end<T>(thread: Pid, handle: &ScopedJoinHandle<'_, T>) {
    while !handle.is_finished() {
        kick(thread);
        yield_now();
    }
}
