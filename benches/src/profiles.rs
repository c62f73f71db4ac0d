//! Where the instructions of a figure went, from what the recorder has seen.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use profile::fold::{Folded, PROGRAM, fold};
use profile::{Section, Symbols};

use crate::interface::INTERFACES;
use crate::parts::parts;
use crate::record::{Figure, Profile, Row, Run};

/// Puts what was recorded to the figures of the machine that it was recorded in.
///
/// # Errors
///
/// When one does not belong to the other.
pub fn attach(runs: &mut [Run], sections: &[Section], symbols: &Symbols) -> Result<()> {
    // As they were measured: for each, first what the counting takes.
    let (pairs, rest) = sections.as_chunks::<2>();
    let rows = runs.iter().flat_map(|run| &run.rows);
    let figures: usize = rows.map(|row| row.figures.len()).sum();
    ensure!(
        pairs.len() == figures && rest.is_empty(),
        "the recorder has seen {} sections, for {figures} figures",
        sections.len()
    );
    let mut pairs = pairs.iter();
    for run in runs {
        let mut floor = None;
        for row in &mut run.rows {
            let is_run = row.name.starts_with("kvm_run");
            for figure in in_order(row) {
                let [overhead, section] = pairs.next().expect("they were counted");
                let stacks = stacks(overhead, section, symbols)?;
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
                    stacks,
                });
            }
        }
    }
    Ok(())
}

/// A row's figures as they were measured, one after the other.
fn in_order(row: &mut Row) -> Vec<&mut Figure> {
    let place = |name: &str| INTERFACES.iter().position(|it| *it == name);
    let mut figures: Vec<_> = row.figures.iter_mut().collect();
    figures.sort_by_key(|(name, _)| place(name));
    figures.into_iter().map(|(_, figure)| figure).collect()
}

fn stacks(overhead: &Section, section: &Section, symbols: &Symbols) -> Result<Folded> {
    let mut stacks = fold(&section.stream, symbols)?;
    let calling = stacks
        .get_mut(PROGRAM)
        .context("a call that no program makes")?;
    *calling = calling.saturating_sub(overhead.stream.count());
    Ok(stacks)
}
