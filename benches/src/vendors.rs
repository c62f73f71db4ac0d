//! The processors of other vendors: their summary, and where the answer is another one.

use std::collections::BTreeMap;

use crate::grid::{Grid, Section};
use crate::record::{CaseRow, Record, Run};
use crate::table::{self, ratio, value};

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
    Section::new(
        vendor.to_lowercase(),
        format!("The same calls on {vendor}"),
        format!("{}. {text}", other.measured_on.cpu),
        table::summary(other)?,
    )
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
    let rows = usual.rows.iter();
    let rows = rows.filter(|row| row.own_work.is_none() && !row.name.ends_with("_real_mode"));
    for both in rows.filter_map(|row| Some([row, other.row(&row.name)?])) {
        for form in table::forms() {
            if let [Some(one), Some(two)] = both.map(|row| row.share(form, "ioctl"))
                && (one - two).abs() >= DIFFERENCE
            {
                let numbers = both.iter().flat_map(|row| numbers(row, form));
                grid.push([&*both[0].name, form], numbers);
            }
        }
    }
    let [usual, other] = vendors;
    Section::new(
        format!("{}-differs", other.to_lowercase()),
        format!("Where the answer depends on the vendor: {usual} or {other}"),
        format!(
            "The rows whose share of ioctl differs by at least {DIFFERENCE} between the two. The \
             share depends on the instructions that the form saves, and on those of the ioctl."
        ),
        grid,
    )
}

/// The figure of ioctl, what a form saves of it, and the form's share.
fn numbers(row: &CaseRow, form: &str) -> [Option<String>; 3] {
    let saved = || Some(row.value("ioctl")? - row.value(form)?);
    [
        value(row, "ioctl"),
        saved().map(|it| format!("{it:.0}")),
        ratio(row, form, "ioctl"),
    ]
}

/// The cases that failed, on all processors.
#[must_use]
pub fn failures(record: &Record) -> Option<Section> {
    let mut grid = Grid::new(["case", "processor", "why"]);
    for run in record.all_runs() {
        for row in &run.rows {
            let mut whys: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (interface, why) in &row.failures {
                whys.entry(why).or_default().push(interface);
            }
            for (why, interfaces) in whys {
                let why = format!("{} ({})", why, interfaces.join(", "));
                let mut names = [&*row.name, run.vendor()];
                for line in textwrap::wrap(&why, WIDTH) {
                    grid.push([names[0], names[1], &*line], []);
                    names = [""; 2];
                }
            }
        }
    }
    Section::new(
        "failures",
        "Cases that failed",
        "The processor, or its emulator, does not do what these cases expect.",
        grid,
    )
}
