//! The processors of other vendors: their summary, and where the answer is another one.

use std::collections::BTreeMap;

use crate::grid::{Cell, Grid};
use crate::record::{CaseRow, Record, Run};
use crate::table::{self, Section};

/// The width, in characters, of the reasons of failures.
const WIDTH: usize = 60;
/// The least difference of two shares of ioctl that is worth a row.
const DIFFERENCE: f64 = 0.05;

/// The sections on the other vendors of a record.
#[must_use]
pub fn sections(record: &Record) -> Vec<Section> {
    let Some(usual) = record.runs.first() else {
        return Vec::new();
    };
    let of = |other: &Run| [summary(record, other), differences(usual, other)];
    record.others.iter().flat_map(of).flatten().collect()
}

fn summary(record: &Record, other: &Run) -> Option<Section> {
    let vendor = other.vendor();
    let text = table::summary_text(record.unit);
    Some(Section {
        id: vendor.to_lowercase(),
        title: format!("The same calls on {vendor}"),
        text: format!("{}. {text}", other.measured_on.cpu),
        grid: table::summary(other)?,
    })
}

/// The rows and forms with another share of ioctl. A share differs because the form saves
/// another number of instructions, or because they are saved from another number.
fn differences(usual: &Run, other: &Run) -> Option<Section> {
    let vendors = [usual.vendor(), other.vendor()];
    let mut grid = Grid::new(["call", "form"]);
    for vendor in vendors {
        let ioctl = format!("ioctl, {vendor}");
        grid.head
            .extend([&*ioctl, "saved", "/ioctl"].map(String::from));
    }
    // The rows in real mode repeat the others.
    let rows = usual
        .rows
        .iter()
        .filter(|row| row.own_work.is_none() && !row.name.ends_with("_real_mode"));
    for row in rows {
        let Some(also) = other.row(&row.name) else {
            continue;
        };
        for form in table::forms() {
            let rows = [row, also];
            let shares = rows.map(|row| row.share(form, "ioctl"));
            let [Some(one), Some(two)] = shares else {
                continue;
            };
            if (one - two).abs() < DIFFERENCE {
                continue;
            }
            let numbers = rows
                .iter()
                .flat_map(|row| numbers(row, form))
                .map(Cell::number);
            let names = [Cell::words(&row.name), Cell::words(form)];
            grid.rows.push(names.into_iter().chain(numbers).collect());
        }
    }
    let [usual, other] = vendors;
    (!grid.rows.is_empty()).then(|| Section {
        id: format!("{}-differs", other.to_lowercase()),
        title: format!("Where the answer depends on the vendor: {usual} or {other}"),
        text: format!(
            "The rows whose share of ioctl differs by at least {DIFFERENCE} between the two. The \
             share depends on the instructions that the form saves, and on those of the ioctl."
        ),
        grid,
    })
}

/// The figure of ioctl, what a form saves of it, and the form's share.
fn numbers(row: &CaseRow, form: &str) -> [Option<String>; 3] {
    let value = |interface: &str| row.figures.get(interface)?.value();
    let saved = || Some(value("ioctl")? - value(form)?);
    [
        value("ioctl").map(|it| format!("{it:.0}")),
        saved().map(|it| format!("{it:.0}")),
        row.share(form, "ioctl").map(|it| format!("{it:.3}")),
    ]
}

/// The cases that failed, on all processors.
#[must_use]
pub fn failures(record: &Record) -> Option<Section> {
    let mut grid = Grid::new(["case", "processor", "why"]);
    for run in record
        .runs
        .iter()
        .chain(&record.others)
        .chain(&record.hosts)
    {
        for row in &run.rows {
            let mut whys: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (interface, why) in &row.failures {
                whys.entry(why).or_default().push(interface);
            }
            for (why, interfaces) in whys {
                let why = format!("{} ({})", why, interfaces.join(", "));
                let mut names = [&*row.name, run.vendor()];
                for line in textwrap::wrap(&why, WIDTH) {
                    let cells = [names[0], names[1], &*line];
                    grid.rows.push(cells.map(Cell::words).into());
                    names = [""; 2];
                }
            }
        }
    }
    (!grid.rows.is_empty()).then(|| Section {
        id: "failures".into(),
        title: "Cases that failed".into(),
        text: "The processor, or its emulator, does not do what these cases expect.".into(),
        grid,
    })
}
