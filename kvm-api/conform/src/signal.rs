//! The signal that ends a run.

use kvm_api::{Errno, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{Pid, getpid};

/// The signal that ends a run.
pub const KICK: Signal = Signal::SIGUSR1;

/// Makes the signal interrupt system calls, without any other effect.
pub fn handle_kick() -> Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing.
    unsafe { sigaction(KICK, &action) }.map(drop)
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
