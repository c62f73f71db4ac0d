//! What time is measured in: instructions where the machine's clock counts
//! them, else nanoseconds.

use std::arch::asm;
use std::arch::x86_64::_rdtsc;

use serde::{Deserialize, Serialize};

/// The unit of all figures of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Instructions, by a time stamp counter that advances by one with each.
    Instructions,
    /// Nanoseconds.
    Nanoseconds,
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Instructions => "instructions",
            Self::Nanoseconds => "nanoseconds",
        })
    }
}

/// The time stamp counter.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { _rdtsc() }
}

/// Finds out what the time stamp counter counts.
///
/// QEMU's -icount makes it count instructions. No processor takes exactly 1000
/// ticks more for 1000 instructions more, each time that it is tried.
#[must_use]
pub fn detect() -> Unit {
    let exact = (0..16).all(|_| measure_nops::<2000>() - measure_nops::<1000>() == 1000);
    if exact {
        Unit::Instructions
    } else {
        Unit::Nanoseconds
    }
}

/// The ticks that `N` instructions take which do nothing; the least of a few
/// tries, for an interrupt may come between.
#[inline(never)]
fn measure_nops<const N: usize>() -> i64 {
    (0..4)
        .map(|_| {
            let start = now();
            // SAFETY: the instructions do nothing.
            unsafe {
                asm!(".fill {n}, 1, 0x90", n = const N, options(nomem, nostack, preserves_flags));
            }
            now().wrapping_sub(start) as i64
        })
        .min()
        .expect("it was tried")
}
