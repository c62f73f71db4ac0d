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
    let code = Decoded::new(&recording.code);
    let counter = Counter::new(&code, symbols);
    let count = |[_, section]: &[Section; 2]| counter.count(section);
    let counts: Vec<_> = pairs.iter().map(count).collect();
    let estimate = |it: &Processor| {
        let pieces = counts.iter().map(|it| &it.pieces);
        Estimates::new(pieces, &code, &it.llvm, scratch)
    };
    let estimates = processor.map(estimate).transpose()?;
    let mut recorded = pairs.iter().zip(&counts);
    for run in runs {
        run.processor = processor.map(|it| it.name.clone());
        let mut floor = None;
        for row in &mut run.rows {
            let is_run = row.name.starts_with("kvm_run");
            let mut ioctl = None;
            for (name, figure) in in_order(row) {
                let (pair, Counts { events, pieces }) =
                    recorded.next().expect("there is a pair for each figure");
                let stacks = stacks(pair, &code, symbols)?;
                let floor = floor.get_or_insert_with(|| stacks.clone());
                let mut functions = stacks.keys().flat_map(|stack| stack.split(';'));
                let loads_vcpu = functions.any(|it| it == VCPU_LOAD);
                if name == "ioctl" {
                    ioctl = Some(pieces);
                }
                let parts = if is_run {
                    parts(&stacks, floor)
                } else {
                    BTreeMap::new()
                };
                figure.profile = Some(Profile {
                    instructions: stacks.values().sum(),
                    calls: pair[1].calls,
                    loads_vcpu,
                    parts,
                    events: events.clone(),
                    plain: estimates.as_ref().map(|it| it.plain(pieces, ioctl)),
                    stacks,
                });
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

fn stacks([overhead, section]: &[Section; 2], code: &Decoded, symbols: &Symbols) -> Result<Folded> {
    let mut stacks = fold(&code.stream(&section.stream), symbols)?;
    let calling = stacks
        .get_mut(PROGRAM)
        .context("no instruction of a recorded call is in a program")?;
    *calling = calling.saturating_sub(overhead.stream.len() as u64);
    Ok(stacks)
}
