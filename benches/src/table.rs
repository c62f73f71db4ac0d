//! The comparison as a person reads it.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

use crate::counter::Unit;
use crate::record::{Figure, Record, Row};

/// The interfaces in the order of the columns; the first is what the others
/// are compared with.
const COLUMNS: [&str; 3] = ["ioctl", "syscall", "kvm-ioctls"];

/// The tables, in Markdown: first the calls whose cost is mostly how they are
/// called, then the others.
#[must_use]
pub fn tables(record: &Record) -> String {
    let (own, plain): (Vec<_>, Vec<_>) = record.rows.iter().partition(|row| row.own_work.is_some());
    let mut text = format!("{}\n", table(record, &plain));
    if !own.is_empty() {
        text.push_str("\nCalls whose own work outweighs how they are called:\n\n");
        text.push_str(&format!("{}\n", table(record, &own)));
    }
    text
}

fn table(record: &Record, rows: &[&Row]) -> Table {
    let present = |name: &&&str| rows.iter().any(|row| row.figures.contains_key(**name));
    let columns: Vec<_> = COLUMNS.iter().filter(present).copied().collect();
    let own_work = rows.iter().any(|row| row.own_work.is_some());

    let mut table = Table::new();
    table
        .load_style(ASCII_MARKDOWN)
        .set_content_arrangement(ContentArrangement::Disabled);
    let mut header = vec![format!("call, {}", record.unit)];
    for (nth, name) in columns.iter().enumerate() {
        header.push((*name).into());
        header.push("spread".into());
        if nth > 0 {
            header.push("/ioctl".into());
        }
    }
    if own_work {
        header.push("its own work".into());
    }
    let width = header.len();
    table.set_header(header);
    for row in rows {
        let mut cells = vec![row.name.clone()];
        for (nth, name) in columns.iter().enumerate() {
            let figure = row.figures.get(*name);
            cells.push(figure.map_or_else(String::new, value));
            cells.push(figure.map_or_else(String::new, spread));
            if nth > 0 {
                let ratio = row.ratio(name);
                cells.push(ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}")));
            }
        }
        if own_work {
            cells.push(row.own_work.clone().unwrap_or_default());
        }
        table.add_row(cells.into_iter().enumerate().map(|(nth, text)| {
            let number = nth > 0 && !(own_work && nth + 1 == width);
            let alignment = if number {
                CellAlignment::Right
            } else {
                CellAlignment::Left
            };
            Cell::new(text).set_alignment(alignment)
        }));
    }
    table
}

fn value(figure: &Figure) -> String {
    figure
        .value()
        .map_or_else(String::new, |value| format!("{value:.0}"))
}

/// Of an exact count, how many of the calls had it; of an estimate, how far the
/// mean may be off.
fn spread(figure: &Figure) -> String {
    match (&figure.exact, &figure.criterion) {
        (Some(count), _) => format!("{:.0} %", 100.0 * count.at_mode as f64 / count.calls as f64),
        (None, Some(estimate)) => {
            let (low, high) = estimate.interval;
            format!("± {:.0}", (high - low) / 2.0)
        }
        (None, None) => String::new(),
    }
}

/// What the figures are, and what they were measured on.
#[must_use]
pub fn legend(record: &Record) -> String {
    let place = &record.measured_on;
    let mut lines = Vec::new();
    lines.push(match record.unit {
        Unit::Instructions => {
            "Figures are instructions from user space to user space and back, not cycles: the most\n\
             common outcome of many calls; the spread is the share of calls with that outcome. The\n\
             guest's own instructions are among them, and vmrun is one."
                .into()
        }
        Unit::Nanoseconds => {
            "Figures are criterion's means in nanoseconds; the spread is half the interval that\n\
             holds the mean with a probability of 95 %."
                .into()
        }
    });
    lines.push("null_syscall is getppid(), the floor under all of them.".into());
    lines.push(String::new());
    lines.push(format!("kernel       {} {}", place.kernel, place.version));
    if let Some(build) = &place.build {
        lines.push(format!(
            "built from   series {}, configuration {}",
            build.series, build.config
        ));
        lines.push(format!("accelerator  {}", build.accelerator));
    }
    lines.push(format!("processor    {}", place.cpu));
    lines.push(format!("KVM          {}", place.kvm));
    lines.push(format!("mitigations  {}", mitigations(record)));
    if let Some(why) = &record.no_syscalls {
        lines.push(format!("no syscalls  {why}"));
    }
    lines.join("\n")
}

/// Those that are in force, or against which the kernel does nothing.
fn mitigations(record: &Record) -> String {
    let place = &record.measured_on;
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
