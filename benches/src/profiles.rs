//! Profiles of the figures, from the instructions that the recorder has seen.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use profile::fold::{Folded, PROGRAM, fold};
use profile::{Counter, Decoded, Recording, Section, Symbols};

use crate::interface::INTERFACES;
use crate::parts::parts;
use crate::record::{CaseRow, Figure, Profile, Run};

/// Adds the profiles to the figures of the machine in which they were recorded.
///
/// # Errors
///
/// If the recording does not fit the figures or the symbols.
pub fn attach(runs: &mut [Run], recording: &Recording, symbols: &Symbols) -> Result<()> {
    let sections = &recording.sections;
    // In the order of measurement. Each figure has two sections: first its overhead.
    let (pairs, rest) = sections.as_chunks::<2>();
    let rows = runs.iter().flat_map(|run| &run.rows);
    let figures: usize = rows.map(|row| row.figures.len()).sum();
    ensure!(
        pairs.len() == figures && rest.is_empty(),
        "the recorder has seen {} sections, for {figures} figures",
        sections.len()
    );
    let mut pairs = pairs.iter();
    let code = Decoded::new(&recording.code);
    let counter = Counter::new(&code, symbols);
    for run in runs {
        let mut floor = None;
        for row in &mut run.rows {
            let is_run = row.name.starts_with("kvm_run");
            for figure in in_order(row) {
                let [overhead, section] = pairs.next().expect("there is a pair for each figure");
                let stacks = stacks(overhead, section, &code, symbols)?;
                let floor = floor.get_or_insert_with(|| stacks.clone());
                let parts = if is_run {
                    parts(&stacks, floor)
                } else {
                    BTreeMap::new()
                };
                figure.profile = Some(Profile {
                    instructions: stacks.values().sum(),
                    calls: section.calls,
                    parts,
                    events: counter.events(section),
                    stacks,
                });
            }
        }
    }
    Ok(())
}

/// The figures of a row in the order of measurement.
fn in_order(row: &mut CaseRow) -> Vec<&mut Figure> {
    let place = |name: &str| INTERFACES.iter().position(|it| *it == name);
    let mut figures: Vec<_> = row.figures.iter_mut().collect();
    figures.sort_by_key(|(name, _)| place(name));
    figures.into_iter().map(|(_, figure)| figure).collect()
}

fn stacks(
    overhead: &Section,
    section: &Section,
    code: &Decoded,
    symbols: &Symbols,
) -> Result<Folded> {
    let mut stacks = fold(&code.stream(&section.stream), symbols)?;
    let calling = stacks
        .get_mut(PROGRAM)
        .context("no instruction of a recorded call is in a program")?;
    *calling = calling.saturating_sub(overhead.stream.len() as u64);
    Ok(stacks)
}
