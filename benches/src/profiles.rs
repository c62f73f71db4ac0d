//! Profiles of the figures, from the instructions that the recorder has seen.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use profile::fold::{Folded, PROGRAM, fold};
use profile::{Counter, Counts, Decoded, Recording, Section, Symbols};

use crate::cycles::costs::Processor;
use crate::cycles::plain::Estimates;
use crate::interface::INTERFACES;
use crate::parts::parts;
use crate::record::{CaseRow, Figure, Profile, Run};

/// The function that loads a vCPU.
const VCPU_LOAD: &str = "vcpu_load";

/// Adds the profiles to the figures of the machine in which they were recorded. For a
/// `processor`, also adds the estimated cycles of plain instructions. `scratch` is a directory
/// for files.
///
/// # Errors
///
/// If the recording does not fit the figures or the symbols, or if the estimate fails.
pub fn attach(
    runs: &mut [Run],
    recording: &Recording,
    symbols: &Symbols,
    processor: Option<&Processor>,
    scratch: &Path,
) -> Result<()> {
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
    // The pieces of each figure, in the same order.
    let mut all_pieces = Vec::new();
    for run in &mut *runs {
        let mut floor = None;
        for row in &mut run.rows {
            let is_run = row.name.starts_with("kvm_run");
            for (_, figure) in in_order(row) {
                let [overhead, section] = pairs.next().expect("there is a pair for each figure");
                let stacks = stacks(overhead, section, &code, symbols)?;
                let floor = floor.get_or_insert_with(|| stacks.clone());
                let parts = if is_run {
                    parts(&stacks, floor)
                } else {
                    BTreeMap::new()
                };
                let loads_vcpu = stacks
                    .keys()
                    .any(|stack| stack.split(';').any(|it| it == VCPU_LOAD));
                let Counts { events, pieces } = counter.count(section);
                all_pieces.push(pieces);
                figure.profile = Some(Profile {
                    instructions: stacks.values().sum(),
                    calls: section.calls,
                    loads_vcpu,
                    parts,
                    events,
                    plain: None,
                    stacks,
                });
            }
        }
    }
    let Some(processor) = processor else {
        return Ok(());
    };
    let estimates = Estimates::new(all_pieces.iter(), &code, &processor.llvm, scratch)?;
    let mut all_pieces = all_pieces.iter();
    for run in runs {
        run.processor = Some(processor.name.clone());
        for row in &mut run.rows {
            let mut ioctl = None;
            for (name, figure) in in_order(row) {
                let pieces = all_pieces.next().expect("each figure has pieces");
                if name == "ioctl" {
                    ioctl = Some(pieces);
                }
                if let Some(profile) = &mut figure.profile {
                    profile.plain = Some(estimates.plain(pieces, ioctl));
                }
            }
        }
    }
    Ok(())
}

/// The figures of a row in the order of measurement.
fn in_order(row: &mut CaseRow) -> Vec<(&String, &mut Figure)> {
    let place = |name: &str| INTERFACES.iter().position(|it| *it == name);
    let mut figures: Vec<_> = row.figures.iter_mut().collect();
    figures.sort_by_key(|(name, _)| place(name));
    figures
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
