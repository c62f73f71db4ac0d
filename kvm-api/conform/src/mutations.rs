//! Breaks the kernel on purpose, and shows which property notices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use kernel_patch::{Base, Mutation, interrupt};
use serde::Serialize;

use crate::cli::Options;
use crate::lanes;
use crate::outcome::PropertyResult;
use crate::property::Property;
use crate::registry;
use crate::test_kernel::TestKernel;

#[derive(Debug, Serialize)]
pub struct MutationResult {
    pub mutation: String,
    pub breaks: String,
    pub kernel: &'static str,
    /// The property that must notice.
    pub expected: String,
    /// The property that noticed. None if the mutation survived, or was not
    /// tested.
    pub caught: Option<Caught>,
    /// Why the mutation could not be built or tested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The duration of the build. It overlaps with the test of the mutation
    /// before.
    pub build_seconds: u64,
    pub seconds: u64,
}

/// The property that noticed a mutation.
#[derive(Debug, Serialize)]
pub struct Caught {
    pub property: &'static str,
    /// Its first failure.
    pub failure: String,
}

/// A mutation, and how it is tested.
struct Trial {
    mutation: Mutation,
    expected: &'static Property,
    /// The options that test the expected property, or the expected cases of it, within
    /// its limit.
    options: Options,
    /// How the expected property fails without a mutation. Its failures then prove
    /// nothing, and the mutation is not tested.
    fails: Option<String>,
}

/// Tests the mutations of these names, or all, and adds a result for each. A
/// mutation that cannot be built or tested, or whose property fails without it,
/// does not stop the others. While one is tested, the next is built.
///
/// # Errors
///
/// If the kernel cannot be built or booted without a mutation, or if the run is
/// interrupted. The results so far remain.
pub fn run(options: &Options, names: &[String], results: &mut Vec<MutationResult>) -> Result<()> {
    let mut trials = trials(options, select(options.base, names)?)?;
    trials.retain(|trial| match &trial.fails {
        Some(fails) => {
            let error = Err(anyhow!("{fails}"));
            results.push(trial.result(error, Duration::ZERO, Duration::ZERO));
            false
        }
        None => true,
    });
    let trials = &trials;
    let started = Instant::now();
    thread::scope(|scope| {
        // Without room for a kernel, the channel lets the builder run ahead of
        // the tests by one: there are two trees to build mutations in.
        let (sender, built) = sync_channel(0);
        scope.spawn(move || {
            leave_processor_to_tests();
            for trial in trials {
                let started = Instant::now();
                let kernel = TestKernel::mutated(&trial.options, &trial.mutation);
                if sender.send((kernel, started.elapsed())).is_err() {
                    return;
                }
            }
        });
        for (done, trial) in trials.iter().enumerate() {
            interrupt::check()?;
            let (kernel, build_time) = built
                .recv()
                .context("the thread that builds kernels has ended")?;
            let test_started = Instant::now();
            let caught = kernel.and_then(|kernel| test(options, trial, kernel));
            interrupt::check()?;
            let result = trial.result(caught, build_time, test_started.elapsed());
            eprintln!(
                "conform: mutation {} of {}: {}: {}{}",
                done + 1,
                trials.len(),
                result.mutation,
                result.verdict(),
                time_left(started.elapsed(), done + 1, trials.len()),
            );
            results.push(result);
        }
        Ok(())
    })
}

/// The mutations of these names, or all.
fn select(base: Base, names: &[String]) -> Result<Vec<Mutation>> {
    let mut mutations = Mutation::all(base)?;
    let known: Vec<_> = mutations.iter().map(Mutation::name).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(name)) {
        bail!("no mutation {name:?}; there are {}", known.join(", "));
    }
    mutations.retain(|it| names.is_empty() || names.contains(&it.name()));
    Ok(mutations)
}

/// Tests the expected properties without a mutation, and derives from that how
/// long each may take with one.
fn trials(options: &Options, mutations: Vec<Mutation>) -> Result<Vec<Trial>> {
    let mut expected = BTreeMap::<_, BTreeSet<_>>::new();
    for mutation in &mutations {
        let together = expected.entry((mutation.variant, mutation.case.as_deref()));
        together.or_default().insert(&*mutation.caught_by);
    }
    let mut unbroken = BTreeMap::new();
    for ((variant, case), properties) in expected {
        let properties: Vec<_> = properties.into_iter().collect();
        let options = options.on(variant, &properties, case);
        let kernel = TestKernel::new(&options)?;
        for row in results(&kernel, &registry::select(&options)?)? {
            unbroken.insert((variant, case.map(str::to_owned), row.property), row);
        }
    }
    let trial = |mutation: Mutation| {
        let expected = registry::find(&mutation.caught_by)?;
        let (variant, case) = (mutation.variant, mutation.case.as_deref());
        let mut options = options.on(variant, &[expected.name], case);
        let row = &unbroken[&(variant, case.map(str::to_owned), expected.name)];
        options.timeout = limit(row.seconds).min(options.timeout);
        let fails = |failure| format!("{} fails without a mutation: {failure}", row.property);
        Ok(Trial {
            mutation,
            expected,
            options,
            fails: row.failure().map(fails),
        })
    };
    mutations.into_iter().map(trial).collect()
}

/// How many seconds a property may take on a broken kernel, if it takes
/// `seconds` on a good one: some mutations show by a test that does not end.
fn limit(seconds: u64) -> u64 {
    3 * seconds + 60
}

/// Gives the calling thread, and the processes that it starts, a low priority:
/// the tests have a time limit, and the builds do not.
fn leave_processor_to_tests() {
    // SAFETY: the call takes no pointer. A failure leaves the priority as it is.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

/// The results of properties, unless an interrupt leaves some out.
fn results(
    kernel: &TestKernel<'_>,
    properties: &[&'static Property],
) -> Result<Vec<PropertyResult>> {
    let (rows, ended) = lanes::run(kernel, properties);
    ended.map(|()| rows)
}

/// Tests a mutation by the expected property, and by all others if that one
/// does not notice.
fn test(options: &Options, trial: &Trial, kernel: TestKernel<'_>) -> Result<Option<Caught>> {
    let expected = registry::select(&trial.options)?;
    let caught = first_failure(&results(&kernel, &expected)?);
    if caught.is_some() {
        return Ok(caught);
    }
    let options = options.on(trial.mutation.variant, &[], None);
    let mut others = registry::select(&options)?;
    let other = |name| name != trial.expected.name || trial.mutation.case.is_some();
    others.retain(|it| other(it.name));
    // The kernel is already built, and stays until the first value is dropped.
    let all = TestKernel::mutated(&options, &trial.mutation)?;
    drop(kernel);
    Ok(first_failure(&results(&all, &others)?))
}

fn first_failure(rows: &[PropertyResult]) -> Option<Caught> {
    rows.iter().find_map(|row| {
        Some(Caught {
            property: row.property,
            failure: row.failure()?.into(),
        })
    })
}

impl Trial {
    fn result(
        &self,
        caught: Result<Option<Caught>>,
        build: Duration,
        test: Duration,
    ) -> MutationResult {
        let (caught, error) = match caught {
            Ok(caught) => (caught, None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        MutationResult {
            mutation: self.mutation.name(),
            breaks: self.mutation.breaks.clone(),
            kernel: self.mutation.variant.name(),
            expected: self.expected.name.into(),
            caught,
            error,
            build_seconds: build.as_secs(),
            seconds: test.as_secs(),
        }
    }
}

impl MutationResult {
    /// The result in a word or two.
    pub fn verdict(&self) -> String {
        match (&self.caught, &self.error) {
            (Some(caught), _) if caught.property == self.expected => caught.property.into(),
            (Some(caught), _) => format!("{}, not {}", caught.property, self.expected),
            (None, Some(_)) => "NOT TESTED".into(),
            (None, None) => "SURVIVES".into(),
        }
    }
}

/// An estimate from the mutations that are done.
fn time_left(elapsed: Duration, done: usize, all: usize) -> String {
    if done == all {
        return String::new();
    }
    let seconds = elapsed.as_secs_f64() / done as f64 * (all - done) as f64;
    format!("; about {} min left", (seconds / 60.0).ceil())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_catcher_exists() {
        let all = Base::ALL.map(|base| Mutation::all(base).unwrap());
        for mutation in all.concat() {
            let expected = registry::find(&mutation.caught_by).unwrap();
            let options = Cli::parse_from(["conform"]).options;
            let options = options.on(mutation.variant, &[expected.name], mutation.case.as_deref());
            assert!(registry::select(&options).is_ok(), "{}", mutation.name());
        }
    }

    #[test]
    fn the_estimate_follows_the_pace_so_far() {
        let pace = Duration::from_secs(12 * 50);
        assert_eq!(time_left(pace, 12, 67), "; about 46 min left");
        assert_eq!(time_left(pace, 67, 67), "");
    }
}
