//! Exact counts: the most common count of many calls, each counted by itself.
//!
//! A mean includes timer interrupts and work that the kernel defers, so it varies from run
//! to run. The most common count does not.

use std::collections::BTreeMap;

use anyhow::Result;
use profile::mark;
use profile::marker::Marker;
use serde::{Deserialize, Serialize};

use crate::counter::now;
use crate::workload::{Plain, Workload};

/// The number of calls before those that count, which fill caches and do lazy setup.
const WARM_UP: u64 = 32;
/// The number of calls that count.
const CALLS: u64 = 301;
/// The least number of calls that count, if all would take longer than [`PATIENCE`].
const FEWEST: u64 = 31;
/// A time limit, in ticks.
const PATIENCE: u64 = 40_000_000;

/// The cost of the calls of one workload, in ticks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The most common count. Of two that are equally common, the smaller one.
    pub mode: u64,
    /// The number of calls with this count.
    pub at_mode: u64,
    /// The number of calls.
    pub calls: u64,
    /// The smallest count.
    pub min: u64,
    /// The largest count.
    pub max: u64,
}

/// Counts the calls of `workload`, without the cost of the counting.
///
/// # Errors
///
/// If the calls did not have their effect.
pub fn count(workload: &mut dyn Workload) -> Result<Count> {
    let overhead = sample(&mut Plain(|| ()))?.mode;
    let mut count = sample(workload).inspect_err(|_| {
        mark!(Marker::Discard);
        mark!(Marker::Discard);
    })?;
    for ticks in [&mut count.mode, &mut count.min, &mut count.max] {
        *ticks = ticks.saturating_sub(overhead);
    }
    Ok(count)
}

fn sample(workload: &mut dyn Workload) -> Result<Count> {
    for _ in 0..WARM_UP {
        once(workload);
    }
    mark!(Marker::Section);
    let begin = now();
    let mut outcomes = BTreeMap::new();
    let mut calls = 0;
    while calls < CALLS && (calls < FEWEST || now() - begin < PATIENCE) {
        *outcomes.entry(once(workload)).or_insert(0) += 1;
        calls += 1;
    }
    mark!(Marker::Close);
    workload.check(WARM_UP + calls)?;
    Ok(summarize(&outcomes))
}

/// Makes one call, and counts it.
#[inline(never)]
fn once(workload: &mut dyn Workload) -> u64 {
    workload.before();
    let start = now();
    mark!(Marker::Begin);
    workload.call();
    mark!(Marker::End);
    let end = now();
    workload.after();
    end - start
}

fn summarize(outcomes: &BTreeMap<u64, u64>) -> Count {
    let at_mode = outcomes.values().copied().max().expect("a call was made");
    let modes = outcomes.iter().filter(|(_, calls)| **calls == at_mode);
    Count {
        mode: *modes.map(|(ticks, _)| ticks).min().expect("one has it"),
        at_mode,
        calls: outcomes.values().sum(),
        min: *outcomes.keys().next().expect("a call was made"),
        max: *outcomes.keys().next_back().expect("a call was made"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_common_outcome_counts_and_of_two_the_smaller() {
        let outcomes = [(10, 2), (11, 3), (12, 3), (90, 1)].into();
        let count = summarize(&outcomes);
        assert_eq!((count.mode, count.at_mode, count.calls), (11, 3, 9));
        assert_eq!((count.min, count.max), (10, 90));
    }

    #[test]
    fn calls_without_effect_do_not_count() {
        struct Nowhere;
        impl Workload for Nowhere {
            fn call(&mut self) {}
            fn check(&mut self, calls: u64) -> Result<()> {
                anyhow::bail!("nothing came of {calls} calls")
            }
        }
        let error = count(&mut Nowhere).unwrap_err().to_string();
        assert_eq!(error, "nothing came of 333 calls");
    }
}
