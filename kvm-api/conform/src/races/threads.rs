//! Threads that run a guest or repeat operations while something else happens.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, Scope, ScopedJoinHandle, yield_now};

use kvm_api::{Errno, GuestMemory, Reason, Result, RunMapping};
use nix::unistd::{Pid, gettid};

use super::guest::{Guest, wait_for_count};
use super::round::SharedKvm;
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

    /// Starts a thread that runs the guest repeatedly. After each run, `look` gets the
    /// result.
    pub fn run(
        &self,
        kvm: &'scope SharedKvm,
        guest: &'scope Guest,
        mut look: impl FnMut(Result<Reason>) + Send + 'scope,
    ) -> Running<'scope> {
        let over = Arc::<AtomicBool>::default();
        let seen = Arc::clone(&over);
        let (thread, handle) = spawn(self.scope, move || {
            let mut run = guest.run.lock().unwrap();
            while !seen.load(Ordering::Relaxed) {
                let end = kvm.kvm_run(guest.vcpu.as_fd(), &mut run);
                look(end.map(|exit| exit.reason()));
            }
        });
        Running {
            thread,
            over,
            handle,
        }
    }
}

/// A thread that runs a vCPU repeatedly.
pub struct Running<'scope> {
    /// The ID of the thread.
    pub thread: Pid,
    over: Arc<AtomicBool>,
    handle: ScopedJoinHandle<'scope, ()>,
}

impl Running<'_> {
    /// Ends the run in progress, if any.
    pub fn interrupt(&self) {
        kick(self.thread);
    }

    /// Ends the thread.
    pub fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        kick_to_end(self.thread, &self.handle);
        self.handle.join().expect("a panic ends the process");
    }
}

/// Runs a counting guest in a thread while `act` runs here; `act` gets the means
/// to end the run. Nothing else may end it.
pub fn while_running(
    kvm: &SharedKvm,
    vcpu: BorrowedFd<'_>,
    run: &mut RunMapping,
    memory: &GuestMemory,
    act: impl FnOnce(&dyn Fn()),
) {
    thread::scope(|scope| {
        let body = move || kvm.kvm_run(vcpu, run).map(|exit| exit.reason());
        let (thread, runner) = spawn(scope, body);
        wait_for_count(memory);
        let stop = || kick_to_end(thread, &runner);
        act(&stop);
        stop();
        let end = runner.join().expect("a panic ends the process");
        assert_eq!(end, Err(Errno::EINTR));
    });
}

/// Waits until `done` returns true. If it never does, the watchdog ends the race.
pub fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        yield_now();
    }
}

/// Interrupts a thread until it has ended: it may enter the guest after a signal.
fn kick_to_end<T>(thread: Pid, handle: &ScopedJoinHandle<'_, T>) {
    while !handle.is_finished() {
        kick(thread);
        yield_now();
    }
}
