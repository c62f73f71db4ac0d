//! Two profiles, function by function.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use profile::Folded;

/// The instructions of each function itself in both profiles, the largest change first.
pub fn by_function<'a>(before: &'a Folded, after: &'a Folded) -> Vec<(&'a str, [u64; 2])> {
    let mut counts: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    for (side, stacks) in [before, after].into_iter().enumerate() {
        for (stack, count) in stacks {
            let function = stack.rsplit(';').next().unwrap_or_default();
            counts.entry(function).or_default()[side] += count;
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, [before, after])| Reverse(before.abs_diff(*after)));
    counts
}

/// The cells of two counts, and of the change from the first to the second.
pub fn change([before, after]: [u64; 2]) -> [Option<String>; 3] {
    let change = after.cast_signed() - before.cast_signed();
    [before.to_string(), after.to_string(), format!("{change:+}")].map(Some)
}
