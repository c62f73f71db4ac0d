//! Further processors of a machine that starts with one.
//!
//! The emulator does not get it right if the kernel patches its code while another
//! processor runs: the other one may still run into the breakpoint that was there during the
//! patching, and the kernel does not know the breakpoint any more. So other processors are
//! offline until the patching is over.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// The clock that the kernel uses. Some time after it has booted, it changes to another, and
/// patches the code that reads the clock.
const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
/// The clock that it keeps.
const LAST_CLOCK: &str = "tsc";

/// How long the kernel may take to change the clock.
const LIMIT: Duration = Duration::from_secs(120);

/// Brings a processor online.
pub fn bring_online(processor: u32) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let clock = fs::read_to_string(CLOCK).context(CLOCK)?;
        if clock.trim() == LAST_CLOCK {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "after {} s, the kernel's clock is {}, not {LAST_CLOCK}",
            LIMIT.as_secs(),
            clock.trim()
        );
        sleep(Duration::from_millis(10));
    }
    switch(processor, "1")
}

/// Takes a processor offline.
pub fn take_offline(processor: u32) -> Result<()> {
    switch(processor, "0")
}

fn switch(processor: u32, state: &str) -> Result<()> {
    let switch = format!("/sys/devices/system/cpu/cpu{processor}/online");
    fs::write(&switch, state).context(switch)
}
