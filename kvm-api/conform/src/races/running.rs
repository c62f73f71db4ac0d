//! Threads that run a guest while something happens.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, Scope, ScopedJoinHandle, yield_now};

use kvm_api::{GuestMemory, Reason, Result, RunMapping};
use nix::unistd::{Pid, gettid};

use super::guest::wait_for_count;
use super::kick::kick;
use super::round::Interface;

/// A thread that runs a vCPU repeatedly.
pub struct Running<'scope> {
    thread: Pid,
    over: Arc<AtomicBool>,
    handle: ScopedJoinHandle<'scope, ()>,
}

impl<'scope> Running<'scope> {
    /// Starts the thread. After each run, `look` gets the result and the
    /// mapping.
    pub fn begin(
        scope: &'scope Scope<'scope, '_>,
        kvm: &'scope Interface,
        vcpu: BorrowedFd<'scope>,
        run: &'scope mut RunMapping,
        mut look: impl FnMut(Result<Reason>) + Send + 'scope,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let handle = scope.spawn({
            let over = Arc::clone(&over);
            move || {
                sender.send(gettid()).expect("the receiver waits");
                while !over.load(Ordering::Relaxed) {
                    look(kvm.kvm_run(vcpu, run).map(|exit| exit.reason()));
                }
            }
        });
        let thread = receiver.recv().expect("the thread starts");
        Self {
            thread,
            over,
            handle,
        }
    }

    /// Ends the run in progress, if any.
    pub fn interrupt(&self) {
        kick(self.thread);
    }

    /// The ID of the thread.
    pub fn thread(&self) -> Pid {
        self.thread
    }

    /// Ends the thread.
    pub fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        while !self.handle.is_finished() {
            self.interrupt();
            yield_now();
        }
        self.handle.join().expect("a panic ends the process");
    }
}

/// Runs a counting guest in a thread while `act` runs here; `act` gets the
/// means to end the run. Returns the results of both, after the end of the run.
pub fn while_running<T>(
    kvm: &Interface,
    vcpu: BorrowedFd<'_>,
    run: &mut RunMapping,
    memory: &GuestMemory,
    act: impl FnOnce(&dyn Fn()) -> T,
) -> (Result<Reason>, T) {
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let runner = scope.spawn(move || {
            sender.send(gettid()).expect("the receiver waits");
            kvm.kvm_run(vcpu, run).map(|exit| exit.reason())
        });
        let thread = receiver.recv().expect("the thread starts");
        wait_for_count(memory);
        let stop = || {
            // The run may begin after the first.
            while !runner.is_finished() {
                kick(thread);
                yield_now();
            }
        };
        let done = act(&stop);
        stop();
        (runner.join().expect("a panic ends the process"), done)
    })
}
