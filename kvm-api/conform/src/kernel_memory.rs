//! Guest memory that the kernel has allocated, among the mappings of this process.

use std::fs;

use anyhow::{Context, Result};

/// The name of the mappings of such memory.
const NAME: &str = "kvm-memory";

/// The address at which the kernel has mapped the memory, if it has.
pub fn address() -> Result<Option<usize>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let Some(line) = maps.lines().find(|line| line.contains(NAME)) else {
        return Ok(None);
    };
    let (start, _) = line.split_once('-').context("a mapping without a range")?;
    Ok(Some(usize::from_str_radix(start, 16)?))
}
