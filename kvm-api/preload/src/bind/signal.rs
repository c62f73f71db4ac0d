//! The signal by which a thread is asked for its vCPU: the highest real-time signal that
//! has no handler when the program begins.

use std::sync::atomic::{AtomicI32, Ordering};

use kvm_sys::instruction::{syscall3, syscall4};
use libc::{c_int, c_void, siginfo_t};

use super::{process, record};

/// The signal; 0 as long as there is none.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

type Action = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// Chooses a signal and catches it.
pub(crate) fn catch() -> bool {
    if is_caught() {
        return true;
    }
    let is_default = |signal: &c_int| handler(*signal) == Some(libc::SIG_DFL);
    let Some(signal) = (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev().find(is_default) else {
        return false;
    };
    // SAFETY: a `sigaction` has numbers and addresses only. The handler does what a handler
    // may do, and the program has none.
    let caught = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = (on_signal as Action as *const ()).expose_provenance();
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigfillset(&raw mut action.sa_mask);
        libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0
    };
    SIGNAL.store(signal, Ordering::Release);
    caught
}

fn handler(signal: c_int) -> Option<libc::sighandler_t> {
    // SAFETY: the kernel writes one `sigaction`.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let known = libc::sigaction(signal, std::ptr::null(), &raw mut action);
        (known == 0).then_some(action.sa_sigaction)
    }
}

/// Whether the handler is still the library's.
pub(crate) fn is_caught() -> bool {
    let signal = SIGNAL.load(Ordering::Acquire);
    signal != 0 && handler(signal) == Some((on_signal as Action as *const ()).expose_provenance())
}

extern "C" fn on_signal(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    let asked = record::mine().filter(|it| it.is_own() && it.is_asked());
    if let Some(record) = asked {
        return record.unbind_in_handler();
    }
    // SAFETY: the kernel gives the signal with its origin.
    let (code, sender) = unsafe { ((*info).si_code, (*info).si_pid()) };
    // A thread may get the number of one that has ended, and its signal.
    if code == libc::SI_TKILL && sender == process() {
        return;
    }
    // What happens without the library: the program ends.
    // SAFETY: the signal comes when the handler returns.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Sends it to a thread of the process, and returns 0 or the error.
pub(crate) fn send(task: c_int) -> c_int {
    kill(task, SIGNAL.load(Ordering::Acquire))
}

/// Whether the process has a thread with this number.
pub(crate) fn is_alive(task: c_int) -> bool {
    task > 0 && kill(task, 0) != libc::ESRCH
}

fn kill(task: c_int, signal: c_int) -> c_int {
    let (task, signal) = (task as usize, signal as usize);
    // SAFETY: the call touches no memory, and the signal has a handler that expects it.
    -(unsafe { syscall3(libc::SYS_tgkill, process() as usize, task, signal) } as c_int)
}

/// The bit of the signal in a set of signals.
pub(crate) fn bit() -> u64 {
    match SIGNAL.load(Ordering::Acquire) {
        0 => 0,
        signal => 1 << (signal - 1),
    }
}

/// Has the calling thread get the signal.
pub(crate) fn unblock() {
    set(libc::SIG_UNBLOCK, bit());
}

/// While this exists, the calling thread gets no signal.
pub(crate) struct Blocked(u64);

impl Blocked {
    pub(crate) fn begin() -> Self {
        Self(set(libc::SIG_SETMASK, u64::MAX))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        set(libc::SIG_SETMASK, self.0);
    }
}

/// While this exists, the calling thread gets the signal.
pub(crate) struct Unblocked(u64);

impl Unblocked {
    pub(crate) fn begin() -> Self {
        Self(set(libc::SIG_UNBLOCK, bit()))
    }
}

impl Drop for Unblocked {
    fn drop(&mut self) {
        set(libc::SIG_SETMASK, self.0);
    }
}

/// Changes the blocked signals of the calling thread, and returns those before.
fn set(how: c_int, signals: u64) -> u64 {
    let mut before = 0_u64;
    let new = (&raw const signals).expose_provenance();
    let old = (&raw mut before).expose_provenance();
    let number = libc::SYS_rt_sigprocmask;
    // SAFETY: the kernel reads and writes a set of signals.
    unsafe { syscall4(number, how as usize, new, old, size_of::<u64>()) };
    before
}
