//! The kernel's clock.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::wait;

const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// How long the kernel may take to change its clock.
const LIMIT: Duration = Duration::from_secs(120);

/// Waits until the kernel uses the TSC as its clock. The kernel boots with another clock,
/// verifies the TSC, and then keeps it.
pub fn wait_for_tsc() -> Result<()> {
    let mut clock = String::new();
    let changed = wait::until(LIMIT, Duration::from_millis(10), || {
        clock = fs::read_to_string(CLOCK).context(CLOCK)?;
        Ok(clock.trim() == "tsc")
    })?;
    ensure!(
        changed,
        "after {} s, the kernel's clock is {}, not tsc",
        LIMIT.as_secs(),
        clock.trim()
    );
    Ok(())
}
