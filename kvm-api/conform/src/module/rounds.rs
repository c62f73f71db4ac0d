//! KVM is loaded and unloaded repeatedly while other threads make calls.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kvm_api::Errno;

use super::callers::{Callers, shifting};
use super::loading::{self, KVM, LIMIT, VENDOR};
use crate::cli::Options;
use crate::inside::progress;
use crate::outcome::Outcome;

/// Runs the rounds. Some of them unload and load all modules.
const WHOLE: u64 = 4;

pub fn test(options: &Options, outcome: &mut Outcome) -> Result<()> {
    let rounds = options.cases(24, 6, 6);
    let callers = Callers::default();
    let file = shifting()?;
    let number = file.as_raw_fd();
    let refused = thread::scope(|scope| {
        let threads = [
            scope.spawn(|| callers.call_all(number)),
            scope.spawn(|| callers.make(number)),
        ];
        let refused = (1..=rounds).try_fold(0, |refused, round| {
            progress(&format!("{round} of {rounds}"));
            anyhow::Ok(refused + one(round, &callers)?)
        });
        callers.done.store(true, Relaxed);
        for thread in threads {
            thread.join().expect("a caller does not panic")?;
        }
        refused
    })?;
    outcome.cases += rounds;
    let [absent, present, made] =
        [&callers.absent, &callers.present, &callers.made].map(|count| count.load(Relaxed));
    // Without all of these results, nothing was tested.
    ensure!(
        absent > 0 && present > 0 && made > 0,
        "KVM was absent {absent} times and present {present} times, {made} VMs were created"
    );
    outcome.notes.push(format!(
        "{rounds} rounds of loading and unloading under callers: {absent} calls found no KVM, \
         {present} found it, {made} VMs were created; unloading was refused {refused} times"
    ));
    Ok(())
}

/// Runs one round, which the callers notice. Returns how often unloading was
/// refused.
fn one(round: u64, callers: &Callers) -> Result<u64> {
    loading::load_all()?;
    seen(&callers.made)?;
    callers.unloading.store(true, Relaxed);
    let refused = unload();
    callers.unloading.store(false, Relaxed);
    let refused = refused?;
    seen(&callers.absent)?;
    if round.is_multiple_of(WHOLE) {
        loading::unload(KVM)?;
    }
    Ok(refused)
}

/// Attempts to unload the vendor's module until no VM keeps it. Returns how
/// often that was refused.
fn unload() -> Result<u64> {
    let start = Instant::now();
    let mut refused = 0;
    loop {
        match loading::unload(VENDOR) {
            Err(Errno::EAGAIN) if start.elapsed() < LIMIT => refused += 1,
            result => {
                result.with_context(|| format!("unloading {VENDOR}"))?;
                return Ok(refused);
            }
        }
        thread::yield_now();
    }
}

/// Waits until a caller increments the counter.
fn seen(count: &AtomicU64) -> Result<()> {
    let (start, before) = (Instant::now(), count.load(Relaxed));
    while count.load(Relaxed) == before {
        ensure!(start.elapsed() < LIMIT, "the callers make no progress");
        thread::yield_now();
    }
    Ok(())
}
