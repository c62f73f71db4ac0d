//! Machines side by side.

use std::sync::Mutex;
use std::thread;

use super::error::Result;
use crate::host::interrupt;

/// Does `work` on each item, with its place, at most `jobs` of them at a time,
/// and gives what came of each, in their order.
///
/// # Errors
///
/// When it was interrupted. Nothing more is begun then.
///
/// # Panics
///
/// When `work` does.
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
                    let next = queue.lock().expect("nobody panics with it").next();
                    let Some((place, item)) = next else { return };
                    let result = work(place, item);
                    let mut done = done.lock().expect("nobody panics with it");
                    done.push((place, result));
                }
            });
        }
    });
    interrupt::check()?;
    let mut done = done.into_inner().expect("nobody panics with it");
    done.sort_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn as_many_at_a_time_as_there_are_jobs_and_in_order() {
        // Each pair waits for the other of it: one lane would wait for ever.
        let pairs = Barrier::new(2);
        let found = lanes(2, &[7, 8, 9, 10], |place, item| {
            pairs.wait();
            (place, *item)
        })
        .unwrap();
        assert_eq!(found, [(0, 7), (1, 8), (2, 9), (3, 10)]);
    }

    #[test]
    fn nothing_to_do_is_done() {
        assert!(lanes(2, &[0; 0], |_, item| *item).unwrap().is_empty());
    }
}
