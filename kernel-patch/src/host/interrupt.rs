//! Ctrl-C and similar signals: a flag that every wait checks.
//!
//! The signal handler cleans nothing up. The wait that sees the flag returns
//! [`HostError::Interrupted`], and the callers release their children, locks and
//! temporary files as with any other error.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use super::error::{HostError, Result};

static PENDING: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// Handles SIGINT, SIGTERM and SIGHUP in this process. The second signal ends the
/// process at once.
///
/// # Errors
///
/// `sigaction` fails.
pub fn install() -> io::Result<()> {
    let pending = PENDING.get_or_init(Arc::default);
    let seen = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&seen))?;
        flag::register(signal, Arc::clone(&seen))?;
        flag::register_usize(signal, Arc::clone(pending), signal as usize)?;
    }
    Ok(())
}

/// Fails if a signal has arrived.
///
/// # Errors
///
/// [`HostError::Interrupted`].
pub fn check() -> Result<()> {
    match pending() {
        0 => Ok(()),
        _ => Err(HostError::Interrupted),
    }
}

/// Returns the exit status of a program that has failed: 1, or the one that a shell
/// reports for the signal that interrupted it.
#[must_use]
pub fn exit_code() -> u8 {
    match pending() {
        0 => 1,
        signal => 128 + signal as u8,
    }
}

fn pending() -> usize {
    PENDING.get().map_or(0, |it| it.load(Ordering::Relaxed))
}
