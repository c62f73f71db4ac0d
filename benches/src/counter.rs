//! The unit of time: instructions if the machine's clock counts them, otherwise
//! nanoseconds.

use std::arch::asm;
use std::arch::x86_64::_rdtsc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// The unit of all figures of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Instructions, by a time stamp counter that each instruction advances by one.
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

/// Determines whether the time stamp counter counts instructions.
///
/// It does with QEMU's -icount. On a processor, 1000 more instructions do not take exactly
/// 1000 more ticks in each of several tries.
#[must_use]
pub fn detect() -> Unit {
    let exact = (0..16).all(|_| measure_nops::<2000>() - measure_nops::<1000>() == 1000);
    if exact {
        Unit::Instructions
    } else {
        Unit::Nanoseconds
    }
}

/// Returns the ticks of `N` NOPs: the least of a few tries, because an interrupt may add
/// some.
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
        .expect("there are four tries")
}

/// Measures the frequency of this processor in GHz, by a chain of multiplications. Each takes
/// three cycles on AMD's and Intel's processors of the last ten years.
#[must_use]
pub fn gigahertz() -> f64 {
    const MULTIPLICATIONS: u32 = 1 << 20;
    const CYCLES: u32 = 3;
    let chain = || {
        let start = Instant::now();
        // SAFETY: the instructions change only the registers that they name.
        unsafe {
            asm!(
                "2: imul {value}, {value}",
                "dec {rest:e}",
                "jnz 2b",
                value = inout(reg) 3_u64 => _,
                rest = inout(reg) MULTIPLICATIONS => _,
                options(nomem, nostack),
            );
        }
        let nanoseconds = start.elapsed().as_nanos() as f64;
        f64::from(CYCLES * MULTIPLICATIONS) / nanoseconds
    };
    // An interrupt makes a try slower.
    (0..16).map(|_| chain()).fold(0.0, f64::max)
}
