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

/// Starts an interval timer with this period in microseconds, or stops it for 0. It is
/// periodic because the first signal may come before the call that it is to interrupt.
pub fn set_timer(which: libc::c_int, period: libc::suseconds_t) {
    let period = libc::timeval {
        tv_sec: 0,
        tv_usec: period,
    };
    let timer = libc::itimerval {
        it_interval: period,
        it_value: period,
    };
    // SAFETY: it reads a good structure. With one, it does not fail.
    unsafe { libc::setitimer(which, &raw const timer, std::ptr::null_mut()) };
}

/// Sends the signal to a thread of this process, if it still exists.
pub fn kick(thread: Pid) {
    let (process, thread) = (getpid().as_raw(), thread.as_raw());
    // SAFETY: the call touches no memory.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, KICK as i32) };
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
