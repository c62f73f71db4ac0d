//! The report: one HTML file with all that a record says, which needs no other.

mod answer;
mod bars;
mod flames;
mod matrix;

use anyhow::{Context, Result};
use askama::Template;
use jiff::Timestamp;

use self::bars::Bars;
use self::flames::Flames;
use self::matrix::Filtering;
use crate::counter::Unit;
use crate::interface::INTERFACES;
use crate::parts::Part;
use crate::record::{Figure, Record, Run};
use crate::table::{self, Cell, Grid};

/// The answer in words, a paragraph a question.
#[must_use]
pub fn answer(record: &Record) -> Vec<String> {
    answer::paragraphs(record)
}

/// Renders a record. `native` is what was measured on the machine that the
/// emulator runs on, if anything was.
///
/// What the record lacks is left out, and said to be.
///
/// # Errors
///
/// When there is nothing to show, or its stacks are none.
pub fn render(record: &Record, native: Option<&Record>) -> Result<String> {
    let run = record.runs.first().context("the record has no run")?;
    let ended = Timestamp::from_second(i64::try_from(record.time)?)?;
    let report = Report {
        ended: ended.strftime("%-d %B %Y, %H:%M UTC").to_string(),
        answer: answer::paragraphs(record),
        meaning: table::meaning(record.unit),
        counted: record.unit == Unit::Instructions,
        calls: table::calls(record.unit, run),
        own_work: table::own_work(record),
        bars: run.rows.iter().filter_map(bars::bars).collect(),
        parts: Part::ALL,
        flames: flames::of(run)?,
        matrix: table::matrix(record),
        filtering: matrix::filtering(record),
        place: table::place(run),
        difference: difference(record),
        criterion: criterion(run),
        native: native.map(Native::new),
    };
    Ok(report.render()?)
}

#[derive(Template)]
#[template(path = "report.html")]
struct Report<'a> {
    ended: String,
    answer: Vec<String>,
    meaning: &'static str,
    counted: bool,
    calls: Grid,
    own_work: Option<Grid>,
    bars: Vec<Bars<'a>>,
    parts: [Part; 6],
    flames: Vec<Flames<'a>>,
    matrix: Option<Grid>,
    filtering: Option<Filtering>,
    place: Vec<(&'static str, String)>,
    difference: Option<u64>,
    criterion: Option<Grid>,
    native: Option<Native>,
}

/// What was measured in nanoseconds.
struct Native {
    grid: Grid,
    place: Vec<(&'static str, String)>,
}

impl Native {
    fn new(record: &Record) -> Self {
        let run = record.runs.first();
        Self {
            grid: run.map_or_else(Grid::default, |run| table::calls(record.unit, run)),
            place: run.map(table::place).unwrap_or_default(),
        }
    }
}

/// By how much the recorder and the clock disagree at most, if both were there.
fn difference(record: &Record) -> Option<u64> {
    let rows = record.runs.iter().flat_map(|run| &run.rows);
    let figures = rows.flat_map(|row| row.figures.values());
    let difference = |figure: &Figure| {
        let exact = figure.exact.as_ref()?.mode;
        Some(figure.profile.as_ref()?.instructions.abs_diff(exact))
    };
    figures.filter_map(difference).max()
}

/// The exact counts, and criterion's estimates beside them.
fn criterion(run: &Run) -> Option<Grid> {
    let present = |name: &&str| {
        let mut figures = run.rows.iter().filter_map(|row| row.figures.get(*name));
        figures.any(|it| it.criterion.is_some() && it.exact.is_some())
    };
    let columns: Vec<_> = INTERFACES.into_iter().filter(present).collect();
    if columns.is_empty() {
        return None;
    }
    let mut grid = Grid {
        groups: vec![(String::new(), 1)],
        head: vec!["call".into()],
        rows: Vec::new(),
    };
    for name in &columns {
        grid.groups.push(((*name).into(), 3));
        grid.head
            .extend(["exact", "mean", "95 %"].map(String::from));
    }
    for row in &run.rows {
        let mut cells = vec![Cell::words(&row.name)];
        for name in &columns {
            let figure = row.figures.get(*name);
            let exact = figure.and_then(|it| it.exact.as_ref());
            let estimate = figure.and_then(|it| it.criterion);
            cells.push(Cell::number(exact.map(|it| it.mode.to_string())));
            cells.push(Cell::number(estimate.map(|it| format!("{:.1}", it.mean))));
            cells.push(Cell::number(estimate.map(|it| {
                let (low, high) = it.interval;
                format!("{low:.1} to {high:.1}")
            })));
        }
        grid.rows.push(cells);
    }
    Some(grid)
}
