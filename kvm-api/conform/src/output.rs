//! The text that the command prints.

use comfy_table::{Cell, CellAlignment, Color};

use crate::cli::Options;
use crate::coverage::{Coverage, percent};
use crate::mutations::MutationResult;
use crate::outcome::PropertyResult;
use crate::property::{Kernels, Property};
use crate::table;

/// The table of the properties.
pub fn list(properties: &[Property]) -> String {
    let mut table = table::new(["property", "backends", "kernel", "statement"]);
    for property in properties {
        let kernels: &str = match property.kernels {
            Kernels::All => "all",
            Kernels::Both => "usual, --debug",
            Kernels::Usual => "usual",
            Kernels::UsualOf(base) => &format!("usual, Linux {}", base.version()),
            Kernels::Debug => "--debug",
        };
        table.add_row([property.name, property.backends, kernels, property.about]);
    }
    table.to_string()
}

/// The results, without the failures.
pub fn results(rows: &[PropertyResult]) -> String {
    let mut table = table::new([
        "property",
        "backends",
        "cases",
        "result",
        "seconds",
        "statement",
    ]);
    for row in rows {
        let result = match (row.holds(), row.outcome.failures.len()) {
            (true, _) => Cell::new("holds").fg(Color::Green),
            (false, 0) => Cell::new("no case ran").fg(Color::Red),
            (false, n) => Cell::new(format!("{n} failed")).fg(Color::Red),
        };
        table.add_row([
            Cell::new(row.property),
            Cell::new(row.backends),
            right(row.outcome.cases),
            result,
            right(row.seconds),
            Cell::new(row.about),
        ]);
    }
    let mut text = table.to_string();
    for row in rows {
        for note in &row.outcome.notes {
            text += &format!("\n\n{}: {note}", row.property);
        }
    }
    text
}

/// Each failure, and the command that repeats it.
pub fn failures(rows: &[PropertyResult], options: &Options) -> String {
    let mut text = String::new();
    for row in rows {
        for failure in &row.outcome.failures {
            let command = options.repeat_command(row.property, failure.replay.as_deref());
            text += &format!(
                "\nFAILED {}: {}\nto repeat: {command}\n",
                row.property, failure.what
            );
        }
    }
    text
}

fn right(content: impl ToString) -> Cell {
    Cell::new(content).set_alignment(CellAlignment::Right)
}

/// The numbers of lines of the new code that were reached, and each line that was not.
pub fn coverage(report: &Coverage) -> String {
    let mut table = table::new(["new code", "lines", "reached", "%"]);
    let mut add = |name: &str, lines: usize, reached: usize| {
        table.add_row([
            Cell::new(name),
            right(lines),
            right(reached),
            right(format!("{:.1}", percent(reached, lines))),
        ]);
    };
    for file in &report.files {
        add(&file.file.to_string_lossy(), file.lines, file.reached());
    }
    add("all", report.lines(), report.reached());
    let mut text = table.to_string();
    for file in &report.files {
        for missed in &file.missed {
            let place = format!("{}:{}", file.file.display(), missed.line);
            text += &format!("\nnot reached: {place}: {}", missed.text);
        }
    }
    text
}

/// The property that noticed each mutation, and its first failure.
pub fn mutations(results: &[MutationResult]) -> String {
    let mut table = table::new(["mutation", "kernel", "caught by", "build", "test", "fault"]);
    for result in results {
        let color = match &result.caught {
            Some(caught) if caught.property == result.expected => Color::Green,
            Some(_) => Color::Yellow,
            None => Color::Red,
        };
        table.add_row([
            Cell::new(&result.mutation),
            Cell::new(result.kernel),
            Cell::new(result.verdict()).fg(color),
            right(format!("{} s", result.build_seconds)),
            right(format!("{} s", result.seconds)),
            Cell::new(&result.breaks),
        ]);
    }
    let mut text = table.to_string();
    for result in results {
        let failure = result.caught.as_ref().map(|it| &it.failure);
        if let Some(failure) = failure.or(result.error.as_ref()) {
            let line = failure.lines().next().unwrap_or_default();
            text += &format!("\n{}: {line}", result.mutation);
        }
    }
    text
}
