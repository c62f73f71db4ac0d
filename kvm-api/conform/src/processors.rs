//! Further processors of a machine that starts with one.
//!
//! The emulator mishandles kernel code that is patched while another processor runs: that
//! processor may hit the breakpoint of the patching after the kernel has forgotten it. So
//! further processors stay offline until the patching is over.

use std::fs;

use anyhow::{Context, Result};

use crate::clock;

pub fn bring_online(processor: u32) -> Result<()> {
    // When the kernel changes its clock, it patches the code that reads the clock.
    clock::wait_for_tsc()?;
    switch(processor, "1")
}

pub fn take_offline(processor: u32) -> Result<()> {
    switch(processor, "0")
}

fn switch(processor: u32, state: &str) -> Result<()> {
    let switch = format!("/sys/devices/system/cpu/cpu{processor}/online");
    fs::write(&switch, state).context(switch)
}
