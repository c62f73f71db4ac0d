//! Waiting for something that another thread, a process or the kernel does.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Calls `done` until it returns true, with a pause before each further call. Returns false
/// if the limit passes first.
pub fn until(
    limit: Duration,
    pause: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<bool> {
    let deadline = Instant::now() + limit;
    while !done()? {
        if Instant::now() > deadline {
            return Ok(false);
        }
        sleep(pause);
    }
    Ok(true)
}
