//! The documents that are made from a record: the printed tables, and parts of README.md
//! and docs/.

use anyhow::{Context, Result};
use askama::Template;
use textwrap::Options;

use super::cycles::Cycles;
use super::intervals::Intervals;
use super::releases::Releases;
pub use super::releases::shows_functions;
use super::{answer, events, message};
use crate::case::ONE_CALL;
use crate::cases;
use crate::chart::{self, Chart};
use crate::grid::{Grid, Section};
use crate::record::Record;
use crate::{hosts, legend, table, vendors, vmm};

/// The width of the documents.
const WIDTH: usize = 88;

/// All tables of a record in Markdown, with the summary last.
#[must_use]
pub fn tables(record: &Record) -> String {
    let Some(first) = record.runs.first() else {
        return "Nothing was measured.\n".into();
    };
    let questions = table::questions(first, record.unit);
    let all = [questions, table::conditions(record), vendors(record)].concat();
    let mut text: String = all
        .iter()
        .map(|it| format!("{}. {}\n\n{}\n", it.title, it.text, it.grid.markdown()))
        .collect();
    if let Some(grid) = table::summary(first) {
        let summary = table::summary_text(record.unit);
        text += &format!("Summary. {summary}\n\n{}", grid.markdown());
    }
    text
}

/// docs/results.md. `before` is the record of the release of Linux before.
///
/// # Errors
///
/// If the template cannot be filled in.
pub fn results(record: &Record, before: &Record) -> Result<String> {
    let releases = Releases::new(before, record);
    let first = record.runs.first().context("the record has no run")?;
    let cycles = Cycles::new(record)?;
    let results = Results {
        legend: legend::legend(record),
        rows: rows(),
        sections: [
            table::questions(first, record.unit),
            events::sections(record, |row| shows_events(&row.name)),
            table::conditions(record),
            vendors(record),
            cycles.as_ref().map(Cycles::sections).unwrap_or_default(),
            releases.map(|it| it.summary()).unwrap_or_default(),
        ]
        .concat(),
    };
    Ok(results.render()?)
}

/// Whether a document shows the events of a row of the first run.
#[must_use]
pub fn shows_events(row: &str) -> bool {
    table::is_summary(row)
}

/// Whether a document shows the cycles of an interface, in the run of a host or in another.
#[must_use]
pub fn shows_cycles(is_host: bool, interface: &str) -> bool {
    // On a processor, the unpatched kernel has only the ioctls.
    is_host || interface == "ioctl"
}

#[derive(Template)]
#[template(path = "results.md")]
struct Results {
    legend: String,
    rows: Grid,
    sections: Vec<Section>,
}

/// docs/releases.md.
///
/// # Errors
///
/// If a record is empty, or the template cannot be filled in.
pub fn releases(record: &Record, before: &Record) -> Result<String> {
    let releases = Releases::new(before, record).context("a record is empty")?;
    let [old, new] = releases.names();
    let document = Document {
        old,
        new,
        meaning: legend::meaning(record.unit),
        machines: releases.machines(),
        interfaces: releases.every_row(),
    };
    Ok(document.render()?)
}

#[derive(Template)]
#[template(path = "releases.md")]
struct Document {
    old: String,
    new: String,
    meaning: &'static str,
    machines: [String; 2],
    interfaces: Vec<Section>,
}

/// The other vendors, the hosts, and the cases that failed.
pub(super) fn vendors(record: &Record) -> Vec<Section> {
    let mut sections = vendors::sections(record);
    sections.extend(hosts::sections(record));
    sections.extend(vendors::failures(record));
    sections
}

/// The rows that are not one call, and their work.
fn rows() -> Grid {
    let mut grid = Grid::new(["row", "work"]);
    for case in cases::all() {
        if case.work != ONE_CALL && !case.name.ends_with("_real_mode") {
            grid.push([case.name, &*case.describe()], []);
        }
    }
    grid
}

/// The answer in the README: chart, sentences, summary, and the machine.
///
/// # Errors
///
/// If the record has nothing to show.
pub fn readme(record: &Record, vmms: &vmm::record::Record) -> Result<String> {
    let run = record.runs.first().context("the record has no run")?;
    let place = legend::place(run);
    let cycles = Cycles::new(record)?;
    let readme = Readme {
        label: first_chart(record)?.label(),
        sentences: answer::sentences(record, cycles.as_ref())
            .iter()
            .chain(vmm::documents::sentences(vmms).first())
            .map(|sentence| item(sentence))
            .collect(),
        text: wrap(&table::summary_text(record.unit)),
        summary: table::summary(run).context("there is no row for the summary")?,
        place: place
            .iter()
            .map(|(name, value)| item(&format!("{name}: {value}")))
            .collect(),
    };
    Ok(readme.render()?)
}

#[derive(Template)]
#[template(path = "readme.md")]
struct Readme {
    label: String,
    sentences: Vec<String>,
    text: String,
    summary: Grid,
    place: Vec<String>,
}

/// docs/chart.svg.
///
/// # Errors
///
/// If the record has nothing to show.
pub fn chart(record: &Record) -> Result<String> {
    let mut chart = first_chart(record)?;
    chart.alone = true;
    Ok(chart.render()?)
}

fn first_chart(record: &Record) -> Result<Chart<'_>> {
    Chart::new(record, &chart::FIRST).context("there is no row for the chart")
}

/// docs/cycles.svg.
///
/// # Errors
///
/// If the record has no estimates of cycles.
pub fn intervals(record: &Record) -> Result<String> {
    let cycles = Cycles::new(record)?.context("no cycles are estimated")?;
    let mut chart = Intervals::new(&cycles);
    chart.alone = true;
    Ok(chart.render()?)
}

/// The answer of the model in docs/hardware.md.
///
/// # Errors
///
/// If the record has no estimates of cycles.
pub fn cycles(record: &Record) -> Result<String> {
    let cycles = Cycles::new(record)?.context("no cycles are estimated")?;
    let sentences: Vec<_> = cycles.answer().iter().map(|it| item(it)).collect();
    let label = Intervals::new(&cycles).label();
    let picture = format!("<img src=\"cycles.svg\" width=\"100%\" alt=\"{label}\">");
    Ok(format!("{picture}\n\n{}", sentences.join("\n")))
}

/// The figures of a form in docs/forms.md.
#[must_use]
pub fn form(record: &Record, form: &str) -> Option<String> {
    Some(answer::form(record, form)?.markdown())
}

/// The cost of a change of threads, in docs/forms.md.
#[must_use]
pub fn thread_change(record: &Record) -> Option<String> {
    let (grid, sentence) = answer::thread_change(record)?;
    Some(format!("{}\n{}", grid.markdown(), wrap(&sentence)))
}

/// Sentences of the message and the figures, in docs/forms.md.
#[must_use]
pub fn message(record: &Record) -> String {
    let answers = message::answers(record);
    let items: Vec<_> = answers.iter().map(|it| item(it)).collect();
    items.join("\n")
}

/// The instructions that no form removes, in docs/forms.md.
#[must_use]
pub fn remains(record: &Record) -> Option<String> {
    let (grid, sentence) = answer::remains(record)?;
    Some(format!("{}\n\n{}", wrap(&sentence), grid.markdown()))
}

/// One item of a list.
pub(crate) fn item(text: &str) -> String {
    let options = Options::new(WIDTH).initial_indent("- ");
    textwrap::fill(text, options.subsequent_indent("  "))
}

/// Breaks a text into lines, as the documents have them.
pub(crate) fn wrap(text: &str) -> String {
    textwrap::fill(text, WIDTH)
}
