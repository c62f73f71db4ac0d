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
mod releases;

use anyhow::{Context, Result};
use askama::Template;
use jiff::Timestamp;

use self::bars::Bars;
use self::cycles::Cycles;
use self::flames::Flames;
use self::intervals::Intervals;
use self::matrix::Filtering;
use crate::chart::{self, Chart};
use crate::counter::Unit;
use crate::grid::{Grid, Section};
use crate::interface::INTERFACES;
use crate::legend;
use crate::parts::Part;
use crate::record::{self, Figure, Record, Run};
use crate::table;

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
    let cycles = Cycles::new(record)?;
    let report = Report {
        ended: ended.strftime("%-d %B %Y, %H:%M UTC").to_string(),
        answer: answer::sentences(record, cycles.as_ref())
            .iter()
            .map(|sentence| sentence.replace(" %", "\u{a0}%"))
            .collect(),
        chart: Chart::new(record, &chart::FIRST),
        exits: Chart::new(record, &chart::EXITS),
        work: Chart::new(record, &chart::WORK),
        summary: table::summary(run),
        summary_text: table::summary_text(record.unit),
        meaning: legend::meaning(record.unit),
        counted: record.unit == Unit::Instructions,
        questions: table::questions(run, record.unit),
        bars: run.rows.iter().filter_map(bars::bars).collect(),
        parts: Part::ALL,
        remains: answer::remains(record).map(|(_, sentence)| sentence),
        events: events::sections(record, |row| row.own_work.is_none()),
        flames: flames::of(run)?,
        conditions: table::conditions(record),
        filtering: matrix::filtering(record),
        vendors: documents::vendors(record),
        intervals: cycles.as_ref().map(Intervals::new),
        cycles_answer: cycles.as_ref().map(Cycles::answer).unwrap_or_default(),
        cycles: cycles.as_ref().map(Cycles::sections).unwrap_or_default(),
        place: legend::place(run),
        difference: difference(record),
        criterion: criterion(record, run),
        native: record.native.as_ref().map(Native::new),
    };
    Ok(report.render()?)
}

#[derive(Template)]
#[template(path = "report.html")]
struct Report<'a> {
    ended: String,
    answer: Vec<String>,
    chart: Option<Chart<'a>>,
    exits: Option<Chart<'a>>,
    work: Option<Chart<'a>>,
    summary: Option<Grid>,
    summary_text: String,
    meaning: &'static str,
    counted: bool,
    questions: Vec<Section>,
    bars: Vec<Bars<'a>>,
    parts: [Part; 6],
    remains: Option<String>,
    events: Vec<Section>,
    flames: Vec<Flames<'a>>,
    conditions: Vec<Section>,
    filtering: Option<Filtering>,
    vendors: Vec<Section>,
    intervals: Option<Intervals<'a>>,
    cycles_answer: Vec<String>,
    cycles: Vec<Section>,
    place: Vec<(&'static str, String)>,
    difference: Option<u64>,
    criterion: Vec<Section>,
    native: Option<Native>,
}

/// The measurements on the host, in nanoseconds.
struct Native {
    questions: Vec<Section>,
    place: Vec<(&'static str, String)>,
}

impl Native {
    fn new(record::Native { run, .. }: &record::Native) -> Self {
        Self {
            questions: table::questions(run, Unit::Nanoseconds),
            place: legend::place(run),
        }
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
