//! Random sequences of calls run in lockstep on a model in plain Rust, on a
//! machine for each backend, and on one where each step picks its interface.
//! After each step all agree on the result of the call, the vCPUs' registers,
//! memory, dirty pages, and the exit with its data, except for the differences
//! that a backend documents.

mod facts;
mod lockstep;
mod machine;
mod model;
mod region;
mod steps;

use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use kvm_api::SigSet;
use kvm_api::kvm_sys::CALLS;
use proptest::test_runner::Config;
use proptest_state_machine::StateMachineTest;

use self::facts::Facts;
use self::lockstep::{Lockstep, STEPS, TAKEN};
use self::machine::{MADE, SIGNAL};
use self::model::Model;
use self::steps::Taken;
use crate::cli::Options;
use crate::inside::progress;
use crate::outcome::Outcome;
use crate::property::{Kernels, Property, Test};
use crate::random;

pub const PROPERTY: Property = Property {
    name: "sequences",
    about: "a model and all backends agree after each step of random sequences",
    backends: "model, ioctl, syscall, merged, files, bound, process, mixed",
    kernels: Kernels::Both,
    test: Test::inside(test),
};

/// Sequences that have failed before, and other interesting sequences. They run first.
const KEPT: &str = include_str!("../../corpus/sequences.json");

/// The number of sequences after which each call must have been made.
const MANY: u64 = 1000;

fn test(options: &Options) -> Result<Outcome> {
    Facts::find()?;
    let blocked = SigSet::from(SIGNAL);
    blocked.thread_block()?;
    let outcome = random::quietly(|| sequences(options));
    blocked.thread_unblock()?;
    Facts::get().close();
    outcome
}

fn sequences(options: &Options) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for (number, steps) in kept()?.into_iter().enumerate() {
        outcome.cases += 1;
        if let Err(what) = random::caught(|| take(steps)) {
            outcome.fail(format!("sequence {number} of the corpus: {what}"));
        }
    }
    let cases = options.cases(2000, 400, 60);
    let seed = options.seed;
    let begin = |number| {
        if number % 50 == 0 {
            progress(&format!("{number} of {cases}"));
        }
    };
    let failure = random::sequences::<Lockstep>(seed, cases, STEPS, begin, describe);
    outcome.cases += cases;
    outcome.failures.extend(failure);
    let made = tally(&mut outcome, cases >= MANY);
    let steps = TAKEN.load(Ordering::Relaxed);
    outcome
        .notes
        .push(format!("{steps} steps on each machine, of which{made}"));
    Ok(outcome)
}

fn kept() -> Result<Vec<Vec<Taken>>> {
    serde_json::from_str(KEPT).context("the corpus")
}

/// Takes the given steps.
fn take(steps: Vec<Taken>) {
    let mut model = Model::new();
    for taken in &steps {
        assert!(model.knows(&taken.step), "not known: {taken:?}");
        model.take(&taken.step);
    }
    Lockstep::test_sequential(Config::default(), Model::new(), steps, None);
}

/// A failing sequence, for reading and for the corpus.
fn describe(steps: &[Taken]) -> String {
    let mut text = String::new();
    for taken in steps {
        let by = if taken.flat { "syscall" } else { "ioctl" };
        text += &format!("\n  {:?} (mixed: by {by})", taken.step);
    }
    let json = serde_json::to_string(steps).expect("steps can be serialized");
    text + "\nto keep it, add to corpus/sequences.json:\n" + &json
}

/// How often each call was made. With `all`, each call must have succeeded and
/// failed at least once.
fn tally(outcome: &mut Outcome, all: bool) -> String {
    let made = MADE.lock().expect("no thread panics with the lock");
    let mut text = String::new();
    let names = CALLS.iter().map(|call| call.name);
    for name in names.chain(["kvm_map_memory"]) {
        let [done, refused] = made.get(name).copied().unwrap_or_default();
        text += &format!("\n  {name:27} {done:6} done, {refused:6} refused");
        if all && (done == 0 || refused == 0) {
            outcome.fail(format!("{name}: {done} done, {refused} refused"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_kept_can_be_read() {
        assert!(kept().unwrap().iter().all(|steps| !steps.is_empty()));
    }
}
