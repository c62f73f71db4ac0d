//! Work in parallel.

use std::sync::Mutex;
use std::thread;

use super::error::Result;
use crate::host::interrupt;

/// Calls `work` with the index of each item and the item, at most `jobs` at a time. Returns
/// the results in the order of the items.
///
/// # Errors
///
/// A signal interrupts it. It starts no further item then.
///
/// # Panics
///
/// `work` panics.
pub fn lanes<T: Sync, R: Send>(
    jobs: usize,
    items: &[T],
    work: impl Fn(usize, &T) -> R + Sync,
) -> Result<Vec<R>> {
    let queue = Mutex::new(items.iter().enumerate());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.min(items.len()) {
            scope.spawn(|| {
                while interrupt::check().is_ok() {
                    let next = queue.lock().expect("no holder panics").next();
                    let Some((place, item)) = next else { return };
                    let result = work(place, item);
                    let mut done = done.lock().expect("no holder panics");
                    done.push((place, result));
                }
            });
        }
    });
    interrupt::check()?;
    let mut done = done.into_inner().expect("no holder panics");
    done.sort_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn as_many_at_a_time_as_there_are_jobs_and_in_order() {
        // The two of a pair wait for each other, so one lane would not end.
        let pairs = Barrier::new(2);
        let found = lanes(2, &[7, 8, 9, 10], |place, item| {
            pairs.wait();
            (place, *item)
        })
        .unwrap();
        assert_eq!(found, [(0, 7), (1, 8), (2, 9), (3, 10)]);
    }

    #[test]
    fn no_items_are_no_work() {
        assert!(lanes(2, &[0; 0], |_, item| *item).unwrap().is_empty());
    }
}
