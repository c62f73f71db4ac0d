//! Whether the properties notice when the kernel is broken on purpose.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, ensure};
use kernel_patch::Mutation;
use serde::Serialize;

use crate::cli::Options;
use crate::host::Host;
use crate::lanes;
use crate::outcome::Row;
use crate::property::Property;
use crate::registry;

/// What became of one mutation.
#[derive(Debug, Serialize)]
pub struct Verdict {
    pub mutation: String,
    pub breaks: String,
    pub kernel: &'static str,
    /// The property that is to notice.
    pub expected: String,
    /// What noticed; nothing when the mutation survived.
    pub caught: Option<Caught>,
    /// What the build took.
    pub build_seconds: u64,
    /// What it took to notice.
    pub seconds: u64,
}

/// The property that noticed, and how it said so.
#[derive(Debug, Serialize)]
pub struct Caught {
    pub property: &'static str,
    pub said: String,
}

/// Tries the mutations of these names, or all; each property that is to notice
/// one is tried without any before: what does not hold then says nothing.
pub fn run(options: &Options, names: &[String]) -> Result<Vec<Verdict>> {
    let mutations = chosen(names)?;
    let mut limits = BTreeMap::new();
    for variant in Mutation::VARIANTS {
        let of_variant = mutations.iter().filter(|it| it.variant() == variant);
        let mut named: Vec<_> = of_variant.map(Mutation::caught_by).collect();
        named.sort_unstable();
        named.dedup();
        if named.is_empty() {
            continue;
        }
        let options = options.on(variant, &named);
        let host = Host::new(&options)?;
        for row in lanes::run(&host, &registry::select(&options)?)? {
            let failure = row.outcome.failures.first();
            let what = failure.map_or("nothing was tried", |it| &it.what);
            ensure!(
                row.holds(),
                "{} fails with no mutation: {what}",
                row.property
            );
            limits.insert((variant.name(), row.property), limit(row.seconds));
        }
    }
    let mut verdicts = Vec::new();
    for mutation in &mutations {
        let expected = registry::find(mutation.caught_by())?;
        let limit = limits[&(mutation.variant().name(), expected.name)];
        verdicts.push(one(options, mutation, expected, limit)?);
    }
    Ok(verdicts)
}

fn chosen(names: &[String]) -> Result<Vec<Mutation>> {
    let mut mutations = Mutation::all()?;
    for name in names {
        ensure!(
            mutations.iter().any(|it| it.name() == *name),
            "no mutation {name:?}; there are {}",
            mutations
                .iter()
                .map(Mutation::name)
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    mutations.retain(|it| names.is_empty() || names.contains(&it.name()));
    Ok(mutations)
}

/// How many seconds a broken kernel has for what a good one does in so many:
/// some mutations show by a test that does not end.
fn limit(seconds: u64) -> u64 {
    3 * seconds + 60
}

fn one(options: &Options, mutation: &Mutation, expected: &Property, limit: u64) -> Result<Verdict> {
    let started = Instant::now();
    let mut options = options.on(mutation.variant(), &[expected.name]);
    let whole = options.timeout;
    options.timeout = limit.min(whole);
    let host = Host::mutated(&options, mutation)?;
    let built = Instant::now();
    let mut caught = first_failure(lanes::run(&host, &registry::select(&options)?)?);
    drop(host);
    if caught.is_none() {
        // Whoever notices instead, the mutation has not survived.
        options = options.on(mutation.variant(), &[]);
        options.timeout = whole;
        let others = registry::select(&options)?;
        let others: Vec<_> = others
            .into_iter()
            .filter(|it| it.name != expected.name)
            .collect();
        caught = first_failure(lanes::run(&Host::mutated(&options, mutation)?, &others)?);
    }
    let verdict = Verdict {
        mutation: mutation.name(),
        breaks: mutation.breaks().into(),
        kernel: mutation.variant().name(),
        expected: expected.name.into(),
        caught,
        build_seconds: (built - started).as_secs(),
        seconds: built.elapsed().as_secs(),
    };
    let by = verdict.caught.as_ref().map_or("SURVIVES", |it| it.property);
    eprintln!("conform: {}: {by}", verdict.mutation);
    Ok(verdict)
}

fn first_failure(rows: Vec<Row>) -> Option<Caught> {
    let row = rows.into_iter().find(|row| !row.holds())?;
    let property = row.property;
    let failure = row.outcome.failures.into_iter().next();
    let said = failure.map_or_else(|| "nothing was tried".into(), |it| it.what);
    Some(Caught { property, said })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn who_is_to_notice_is_there() {
        for mutation in Mutation::all().unwrap() {
            let expected = registry::find(mutation.caught_by()).unwrap();
            let options = Cli::parse_from(["conform"]).options;
            let options = options.on(mutation.variant(), &[expected.name]);
            assert!(registry::select(&options).is_ok(), "{}", mutation.name());
        }
    }
}
