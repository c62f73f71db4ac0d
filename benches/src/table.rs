//! The comparison as tables, for a terminal and for the report.

use askama::Template;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use crate::counter::Unit;
use crate::interface::INTERFACES;
use crate::record::{Figure, Record, Row, Run};

/// A table, however it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Template)]
#[template(path = "grid.html")]
pub struct Grid {
    /// What columns have in common, and how many they are; none has for most.
    pub groups: Vec<(String, usize)>,
    /// The columns' names. The first column is the rows' names.
    pub head: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
}

/// What stands in one place of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Its text.
    pub text: String,
    /// Whether that is a number.
    pub number: bool,
}

impl Cell {
    /// Words.
    #[must_use]
    pub fn words(text: impl Into<String>) -> Self {
        let (text, number) = (text.into(), false);
        Self { text, number }
    }

    /// A number, if there is one.
    #[must_use]
    pub fn number(text: Option<String>) -> Self {
        let (text, number) = (text.unwrap_or_default(), true);
        Self { text, number }
    }
}

impl Grid {
    /// Whether a column has numbers in it.
    fn is_number(&self, column: &usize) -> bool {
        let mut cells = self.rows.iter().filter_map(|row| row.get(*column));
        cells.any(|cell| cell.number)
    }

    /// As Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut table = Table::new();
        table
            .load_style(ASCII_MARKDOWN)
            .set_content_arrangement(ContentArrangement::Disabled);
        let mut head = self.head.clone();
        let mut column = 0;
        for (group, width) in &self.groups {
            for (nth, name) in head.iter_mut().skip(column).take(*width).enumerate() {
                *name = format!("{}\n{name}", if nth == 0 { group } else { "" });
            }
            column += width;
        }
        table.set_header(head);
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| {
                let alignment = if cell.number {
                    CellAlignment::Right
                } else {
                    CellAlignment::Left
                };
                comfy_table::Cell::new(&cell.text).set_alignment(alignment)
            }));
        }
        format!("{table}\n")
    }
}

/// What stands above the calls that [`own_work`] is about.
pub const OWN_WORK: &str = "Calls whose own work outweighs how they are called";
/// What stands above the [`matrix`].
pub const MATRIX: &str = "Mitigations on and off, without and with a filter of system calls";

/// The tables, in Markdown.
#[must_use]
pub fn tables(record: &Record) -> String {
    let mut text = record
        .runs
        .first()
        .map_or("Nothing was measured.\n".into(), |run| {
            calls(record.unit, run).markdown()
        });
    for (title, grid) in [(OWN_WORK, own_work(record)), (MATRIX, matrix(record))] {
        if let Some(grid) = grid {
            text.push_str(&format!("\n{title}:\n\n{}", grid.markdown()));
        }
    }
    text
}

/// The calls whose cost is mostly how they are called.
#[must_use]
pub fn calls(unit: Unit, run: &Run) -> Grid {
    let rows = run.rows.iter().filter(|row| row.own_work.is_none());
    comparison(unit, &rows.collect::<Vec<_>>())
}

/// The others, if any were measured.
#[must_use]
pub fn own_work(record: &Record) -> Option<Grid> {
    let run = record.runs.first()?;
    let rows: Vec<_> = run
        .rows
        .iter()
        .filter(|row| row.own_work.is_some())
        .collect();
    if rows.is_empty() {
        return None;
    }
    let mut grid = comparison(record.unit, &rows);
    grid.head.push("its own work".into());
    for (cells, row) in grid.rows.iter_mut().zip(rows) {
        cells.push(Cell::words(row.own_work.as_deref().unwrap_or_default()));
    }
    Some(grid)
}

/// What a vcpu's thread does, under each condition, if there is more than one: by
/// ioctl in figures, by the others as a share of that.
#[must_use]
pub fn matrix(record: &Record) -> Option<Grid> {
    let [first, _, ..] = &record.runs[..] else {
        return None;
    };
    let everywhere = |row: &&Row| record.runs.iter().all(|run| run.row(&row.name).is_some());
    let rows: Vec<_> = first.rows.iter().filter(everywhere).collect();
    let columns = columns(&rows);
    let mut grid = Grid {
        groups: vec![(String::new(), 1)],
        head: vec![format!("call, {}", record.unit)],
        rows: Vec::new(),
    };
    for run in &record.runs {
        grid.groups.push((run.condition(), columns.len()));
        grid.head.extend(columns.iter().map(|it| (*it).to_owned()));
    }
    for row in rows {
        let mut cells = vec![Cell::words(&row.name)];
        for row in record.runs.iter().filter_map(|run| run.row(&row.name)) {
            for (nth, name) in columns.iter().enumerate() {
                let show = if nth == 0 { value } else { ratio };
                cells.push(Cell::number(show(row, name)));
            }
        }
        grid.rows.push(cells);
    }
    Some(grid)
}

/// The interfaces that have a figure in any of these rows.
fn columns(rows: &[&Row]) -> Vec<&'static str> {
    let present = |name: &&str| rows.iter().any(|row| row.figures.contains_key(*name));
    INTERFACES.into_iter().filter(present).collect()
}

fn comparison(unit: Unit, rows: &[&Row]) -> Grid {
    let mut grid = Grid {
        head: vec![format!("call, {unit}")],
        ..Grid::default()
    };
    let columns = columns(rows);
    for (nth, name) in columns.iter().enumerate() {
        grid.head.push((*name).into());
        if nth > 0 {
            grid.head.push("/ioctl".into());
        }
    }
    for row in rows {
        let mut cells = vec![Cell::words(&row.name)];
        for (nth, name) in columns.iter().enumerate() {
            cells.push(Cell::number(value_and_spread(row, name)));
            if nth > 0 {
                cells.push(Cell::number(ratio(row, name)));
            }
        }
        grid.rows.push(cells);
    }
    grid
}

fn value(row: &Row, interface: &str) -> Option<String> {
    let value = row.figures.get(interface)?.value()?;
    Some(format!("{value:.0}"))
}

fn value_and_spread(row: &Row, interface: &str) -> Option<String> {
    let spread = spread(row.figures.get(interface)?).unwrap_or_default();
    Some(value(row, interface)? + &spread)
}

fn ratio(row: &Row, interface: &str) -> Option<String> {
    Some(format!("{:.3}", row.ratio(interface)?))
}

/// Of an exact count, how many of the calls had it, where it was not all; of an
/// estimate, how far the mean may be off.
fn spread(figure: &Figure) -> Option<String> {
    if let Some(count) = &figure.exact {
        let share = 100 * count.at_mode / count.calls;
        return (share < 100).then(|| format!(" ({share} %)"));
    }
    let (low, high) = figure.criterion?.interval;
    Some(format!(" ± {:.0}", (high - low) / 2.0))
}

/// What the figures are.
#[must_use]
pub fn meaning(unit: Unit) -> &'static str {
    match unit {
        Unit::Instructions => {
            "Figures are instructions from user space to user space and back, not cycles: the\n\
             outcome of every one of some 300 calls, or the most common one and, in parentheses,\n\
             the share of calls that had it. The guest's own instructions are among them, and\n\
             vmrun is one.\n\
             null_syscall is getppid(), the floor under all of them."
        }
        Unit::Nanoseconds => {
            "Figures are criterion's means in nanoseconds, and half the interval that holds the\n\
             mean with a probability of 95 %.\n\
             null_syscall is getppid(), the floor under all of them."
        }
    }
}

/// What a run was measured on, by name.
#[must_use]
pub fn place(run: &Run) -> Vec<(&'static str, String)> {
    let place = &run.measured_on;
    let mut lines = vec![("kernel", format!("{} {}", place.kernel, place.version))];
    if let Some(build) = &place.build {
        let from = format!("series {}, configuration {}", build.series, build.config);
        lines.push(("built from", from));
        lines.push(("accelerator", build.accelerator.clone()));
    }
    lines.push(("processor", place.cpu.clone()));
    lines.push(("KVM", place.kvm.clone()));
    lines.push(("mitigations", mitigations(run)));
    if let Some(why) = &run.no_syscalls {
        lines.push(("no syscalls", why.clone()));
    }
    lines
}

/// What the figures are, and what they were measured on.
#[must_use]
pub fn legend(record: &Record) -> String {
    let mut text = format!("{}\n", meaning(record.unit));
    for (name, what) in record.runs.first().map(place).unwrap_or_default() {
        text.push_str(&format!("\n{name:<12} {what}"));
    }
    text
}

/// Those that are in force, or against which the kernel does nothing.
fn mitigations(run: &Run) -> String {
    let place = &run.measured_on;
    let asked = match &place.build {
        Some(build) => format!("{}: ", build.mitigations),
        None => String::new(),
    };
    let flaws: Vec<_> = place
        .mitigations
        .iter()
        .filter(|(_, state)| *state != "Not affected")
        .map(|(flaw, state)| format!("{flaw} ({state})"))
        .collect();
    format!("{asked}{}", flaws.join(", "))
}
