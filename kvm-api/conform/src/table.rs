//! What a person reads.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table};

use crate::cli::Options;
use crate::property::{ALL, Kernels, Row};

/// The properties that there are.
pub fn list() -> String {
    let mut table = new(["property", "backends", "kernel", "what holds"]);
    for property in ALL {
        let kernels = match property.kernels {
            Kernels::Both => "both",
            Kernels::Usual => "usual",
            Kernels::Debug => "--debug",
        };
        table.add_row([property.name, property.backends, kernels, property.about]);
    }
    table.to_string()
}

/// What was found, and how to find it again.
pub fn results(rows: &[Row], options: &Options) -> String {
    let mut table = new([
        "property",
        "backends",
        "cases",
        "result",
        "seconds",
        "what holds",
    ]);
    for row in rows {
        let result = match (row.holds(), row.outcome.failures.len()) {
            (true, _) => Cell::new("holds").fg(Color::Green),
            (false, 0) => Cell::new("nothing tried").fg(Color::Red),
            (false, n) => Cell::new(format!("{n} failed")).fg(Color::Red),
        };
        table.add_row([
            Cell::new(row.property),
            Cell::new(row.backends),
            Cell::new(row.outcome.cases).set_alignment(CellAlignment::Right),
            result,
            Cell::new(row.seconds).set_alignment(CellAlignment::Right),
            Cell::new(row.about),
        ]);
    }
    let mut text = table.to_string();
    for row in rows {
        for note in &row.outcome.notes {
            text += &format!("\n\n{}: {note}", row.property);
        }
    }
    for row in rows {
        for failure in &row.outcome.failures {
            let again = options.again(row.property, failure.replay.as_deref());
            text += &format!(
                "\n\nFAILED {}: {}\nagain: {again}",
                row.property, failure.what
            );
        }
    }
    text
}

fn new<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    table
}
