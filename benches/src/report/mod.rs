//! The report: one HTML file with everything in a record. It needs no other file.

mod answer;
mod bars;
mod cycles;
pub mod documents;
mod events;
mod flames;
mod functions;
mod intervals;
mod matrix;
mod message;
mod releases;
mod words;

use anyhow::{Context, Result};
use askama::Template;
use jiff::Timestamp;

use self::bars::Bars;
use self::cycles::Cycles;
use self::flames::Flames;
use crate::grid::{Grid, Section};
use crate::interface::INTERFACES;
use crate::record::{Figure, Record, Run};

/// Renders a record.
///
/// In place of a part that the record lacks, the report has a note.
///
/// # Errors
///
/// If there is nothing to show, or if the stacks are malformed.
pub fn render(record: &Record) -> Result<String> {
    let run = record.runs.first().context("the record has no run")?;
    let ended = Timestamp::from_second(i64::try_from(record.time)?)?;
    let report = Report {
        record,
        run,
        ended: ended.strftime("%-d %B %Y, %H:%M UTC").to_string(),
        flames: flames::of(run)?,
        cycles: Cycles::new(record)?,
    };
    Ok(report.render()?)
}

#[derive(Template)]
#[template(path = "report.html")]
struct Report<'a> {
    record: &'a Record,
    /// The run under the usual condition.
    run: &'a Run,
    ended: String,
    flames: Vec<Flames<'a>>,
    cycles: Option<Cycles<'a>>,
}

impl Report<'_> {
    fn answer(&self) -> Vec<String> {
        let sentences = answer::sentences(self.record, self.cycles.as_ref());
        let sentences = sentences.iter();
        sentences.map(|it| it.replace(" %", "\u{a0}%")).collect()
    }

    fn bars(&self) -> Vec<Bars<'_>> {
        self.run.rows.iter().filter_map(bars::bars).collect()
    }

    fn events(&self) -> Vec<Section> {
        events::sections(self.record, |row| row.own_work.is_none())
    }
}

/// The largest difference between the recorder and the clock, if both were there.
fn difference(record: &Record) -> Option<u64> {
    let rows = record.runs.iter().flat_map(|run| &run.rows);
    let figures = rows.flat_map(|row| row.figures.values());
    let difference = |figure: &Figure| {
        let exact = figure.exact.as_ref()?.mode;
        Some(figure.profile.as_ref()?.instructions.abs_diff(exact))
    };
    figures.filter_map(difference).max()
}

/// For each interface, the exact counts with criterion's estimates beside them.
fn criterion(record: &Record, run: &Run) -> Vec<Section> {
    let title = format!("call, {}", record.unit);
    let section = |name: &str| {
        let mut grid = Grid::new([&*title, "exact", "mean", "95 %"]);
        for row in &run.rows {
            if let Some(figure) = row.figures.get(name)
                && let (Some(exact), Some(estimate)) = (&figure.exact, figure.criterion)
            {
                let (low, high) = estimate.interval;
                let (mean, interval) = (estimate.mean, format!("{low:.1} to {high:.1}"));
                let numbers = [exact.mode.to_string(), format!("{mean:.1}"), interval];
                grid.push([&row.name], numbers.map(Some));
            }
        }
        Section::new(format!("estimates-{name}"), name, "", grid)
    };
    INTERFACES.into_iter().filter_map(section).collect()
}
