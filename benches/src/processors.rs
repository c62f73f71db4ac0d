//! The processors on which threads run.

use std::marker::PhantomData;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread.
const THIS: Pid = Pid::from_raw(0);

/// The numbers of the processors on which the calling thread may run, in ascending order.
///
/// # Errors
///
/// Those of sched_getaffinity(2).
pub fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(THIS).context("sched_getaffinity")?;
    let is_set = |number: &usize| set.is_set(*number).unwrap_or(false);
    Ok((0..CpuSet::count()).filter(is_set).collect())
}

/// Keeps the calling thread on one processor until a drop.
pub struct Pinned {
    before: CpuSet,
    /// The affinity is the thread's.
    not_send: PhantomData<*const ()>,
}

impl Pinned {
    /// Moves the thread to the processor with this number.
    ///
    /// # Errors
    ///
    /// Those of sched_setaffinity(2).
    pub fn to(processor: usize) -> Result<Self> {
        let before = sched_getaffinity(THIS).context("sched_getaffinity")?;
        let mut only = CpuSet::new();
        only.set(processor).context("the number of a processor")?;
        sched_setaffinity(THIS, &only)
            .with_context(|| format!("moving to processor {processor}"))?;
        Ok(Self {
            before,
            not_send: PhantomData,
        })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It fails only if these processors have gone offline. Then the kernel chooses.
        let _ = sched_setaffinity(THIS, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_has_one_processor_and_then_all_again() {
        let all = allowed().unwrap();
        for &processor in &all {
            let pinned = Pinned::to(processor).unwrap();
            assert_eq!(allowed().unwrap(), [processor]);
            drop(pinned);
            assert_eq!(allowed().unwrap(), all);
        }
        assert!(Pinned::to(CpuSet::count()).is_err());
        assert_eq!(allowed().unwrap(), all);
    }
}
