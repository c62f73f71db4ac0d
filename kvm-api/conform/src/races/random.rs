//! Irregular pauses.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{sleep, yield_now};
use std::time::Duration;

/// Random numbers, which threads draw concurrently. Another seed gives other
/// rounds, but the same seed does not repeat them.
pub struct Random(AtomicU64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A number below `limit`, by SplitMix64.
    pub fn below(&self, limit: u64) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    pub fn coin(&self) -> bool {
        self.below(2) == 0
    }

    /// Waits a little, or not at all, so that the next operation comes at
    /// another moment each time.
    pub fn pause(&self) {
        match self.below(8) {
            0 => {}
            1..4 => yield_now(),
            // A tick of the clock, at least.
            7 => sleep(Duration::from_micros(1)),
            _ => (0..self.below(4000)).for_each(|_| spin_loop()),
        }
    }
}
