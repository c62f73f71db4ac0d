//! Ctrl-C and its kin: a flag that every wait looks at.
//!
//! Nothing is cleaned up in the signal handler. The wait that sees the flag
//! returns [`Error::Interrupted`], and what the callers hold (children, locks,
//! temporary files) goes away as with any other error.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::host::error::{Error, Result};

static PENDING: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// Takes over SIGINT, SIGTERM and SIGHUP for this process.
///
/// The second signal ends the process at once.
///
/// # Errors
///
/// What `sigaction` gives.
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

/// Fails once a signal has come.
///
/// # Errors
///
/// [`Error::Interrupted`].
pub fn check() -> Result<()> {
    match PENDING.get().map_or(0, |it| it.load(Ordering::Relaxed)) {
        0 => Ok(()),
        signal => Err(Error::Interrupted(signal as i32)),
    }
}
