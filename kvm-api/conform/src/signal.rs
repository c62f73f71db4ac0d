//! The signal that ends a run, and the threads that take it.

use std::sync::mpsc;
use std::thread::{Scope, ScopedJoinHandle, yield_now};

use kvm_api::{Errno, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{Pid, getpid, gettid};

/// The signal that ends a run.
pub const KICK: Signal = Signal::SIGUSR1;

/// Makes a signal interrupt system calls, without any other effect.
pub fn handle(signal: Signal) -> Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing.
    unsafe { sigaction(signal, &action) }.map(drop)
}

/// Sends the signal to a thread of this process, if it still exists.
pub fn kick(thread: Pid) {
    // SAFETY: the call touches no memory.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_tgkill,
            getpid().as_raw(),
            thread.as_raw(),
            KICK as i32,
        )
    };
    assert!(matches!(Errno::result(sent), Ok(_) | Err(Errno::ESRCH)));
}

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

/// Interrupts a thread until it has ended: it may enter the guest after a signal.
pub fn kick_to_end<T>(thread: Pid, handle: &ScopedJoinHandle<'_, T>) {
    while !handle.is_finished() {
        kick(thread);
        yield_now();
    }
}
