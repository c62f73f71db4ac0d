//! The documents that are made from a record: the printed tables, the report for a browser,
//! and parts of README.md and docs/vmm.md.

use anyhow::Result;
use askama::Template;
use jiff::Timestamp;

use super::record::{Figure, Record, WorkRecord};
use super::way::Way;
use super::work;
use crate::counter::Unit;
use crate::grid::{Grid, Section};
use crate::legend;
use crate::report::documents::{item, wrap};

/// The number of requests without a call that the table names for each work.
const LEFT: usize = 4;

/// The work of which the README speaks.
const FIRST: &str = "qemu_boot";

/// A share, in per cent.
fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A table of all work: a row for each way.
#[must_use]
pub fn summary(record: &Record) -> Option<Section> {
    let unit = record.works.first()?.unit;
    let mut grid = Grid::new([
        "work",
        "way",
        "exits",
        "requests",
        "handed over",
        &unit.to_string(),
        "saved",
        "/ioctl",
        "interface",
    ]);
    for work in &record.works {
        for (&way, figure) in &work.figures {
            let base = way == Way::Ioctl;
            let saved = || {
                let ioctl = work.figures.get(&Way::Ioctl)?;
                Some(ioctl.value() as i64 - figure.value() as i64)
            };
            let other = |text: Option<String>| text.filter(|_| !base);
            grid.push(
                [&work.name, way.name()],
                [
                    Some(figure.exits().to_string()),
                    Some(figure.all().to_string()),
                    other(Some(percent(figure.handed_over()))),
                    Some(figure.value().to_string()),
                    other(saved().map(|it| it.to_string())),
                    other(work.share(way).map(|it| format!("{it:.3}"))),
                    work.interface().map(percent).filter(|_| base),
                ],
            );
        }
    }
    let figures = record.works.iter().flat_map(|work| work.figures.values());
    let spread = figures.map(Figure::spread).fold(0.0, f64::max);
    let runs = format!(
        " The runs of one way differ by at most {}.",
        percent(spread)
    );
    Section::new("work", "The work", meaning(unit) + &runs, grid)
}

/// The meaning of the columns.
fn meaning(unit: Unit) -> String {
    let what = match unit {
        Unit::Instructions => {
            "Instructions are those of the VMM's threads, of the kernel for them and of the guest, \
             counted under emulation. They are not cycles."
        }
        Unit::Nanoseconds => "Nanoseconds are the processor time of the VMM with its guest.",
    };
    format!(
        "{what} Exits are those to the VMM, requests are KVM's ioctls, both from a run of their \
         own. The interface is the number of requests times the cost of one that KVM does not \
         know, on a vCPU for a run and on a VM for another: an interface that cost nothing \
         would save about that."
    )
}

/// A table of the guest's loops: a row for each loop.
#[must_use]
pub fn loops(record: &Record) -> Option<Section> {
    let work = record.works.iter().find(|work| {
        let mut figures = work.figures.values();
        figures.any(|figure| !figure.loops.is_empty())
    })?;
    let names = work.figures.get(&Way::Ioctl)?.loops.iter();
    let mut grid = Grid::new([format!("loop, {} a round", work.unit), "ioctl".into()]);
    let others = || Way::ALL.into_iter().filter(|way| *way != Way::Ioctl);
    for way in others() {
        grid.head.extend([way.name().into(), "/ioctl".into()]);
    }
    for name in names.map(|it| &it.name) {
        let by = |way| work.of_loop(name, way);
        let ioctl = by(Way::Ioctl);
        let figure = |value: Option<f64>| value.map(|it| format!("{it:.0}"));
        let mut cells = vec![figure(ioctl)];
        for value in others().map(by) {
            let share = value.zip(ioctl).map(|(value, ioctl)| value / ioctl);
            cells.extend([figure(value), share.map(|it| format!("{it:.3}"))]);
        }
        grid.push([name], cells);
    }
    Section::new(
        "loops",
        "An exit, as the guest sees it",
        "The guest reads its time stamp counter before and after each loop. KVM itself answers \
         cpuid and in_from_kernel, so that they cost the same in each way.",
        grid,
    )
}

/// A table of the requests that stayed ioctls.
#[must_use]
pub fn left(record: &Record) -> Option<Section> {
    let mut grid = Grid::new(["work", "request without a call", "count", "of all"]);
    for work in &record.works {
        let Some(figure) = work.figures.get(&Way::Calls) else {
            continue;
        };
        let left = figure.requests.iter().take_while(|it| it.count > 1);
        for request in left.filter(|it| it.call.is_none()).take(LEFT) {
            let share = request.count as f64 / figure.all() as f64;
            let numbers = [request.count.to_string(), percent(share)];
            grid.push([&work.name, &request.ioctl], numbers.map(Some));
        }
    }
    let text = format!(
        "The {LEFT} most frequent requests of each work that stayed ioctls, without those that \
         were made only once."
    );
    Section::new("left", "What is not handed over", text, grid)
}

/// What each work is.
#[must_use]
pub fn descriptions(record: &Record) -> Vec<String> {
    let line = |it: &WorkRecord| match work::find(&it.name) {
        Some(work) => format!("{}: {} ({})", work.name, work.text, it.vmm),
        None => format!("{}: {}", it.name, it.vmm),
    };
    record.works.iter().map(line).collect()
}

/// All sections.
#[must_use]
pub fn sections(record: &Record) -> Vec<Section> {
    [summary(record), loops(record), left(record)]
        .into_iter()
        .flatten()
        .collect()
}

/// What to print after a measurement.
#[must_use]
pub fn tables(record: &Record) -> String {
    let mut text = String::new();
    for section in sections(record) {
        let (title, meaning) = (section.title, wrap(&section.text));
        text += &format!("{title}\n\n{meaning}\n\n{}\n", section.grid.markdown());
    }
    for line in descriptions(record) {
        text += &format!("{}\n", wrap(&line));
    }
    if let Some(work) = record.works.first() {
        text += &legend::in_lines(legend::of_place(&work.measured_on));
        text += "\n";
    }
    for work in &record.works {
        for (way, why) in &work.failures {
            text += &format!("{} by {} failed: {why}\n", work.name, way.name());
        }
    }
    for sentence in sentences(record) {
        text += &format!("\n{}\n", wrap(&sentence));
    }
    text
}

/// The generated part of docs/vmm.md.
#[must_use]
pub fn part(record: &Record) -> String {
    let list = |lines: Vec<String>| -> String {
        let lines = lines.iter();
        lines.map(|it| item(it) + "\n").collect()
    };
    let mut text = list(sentences(record));
    for section in sections(record) {
        let (title, meaning) = (section.title, wrap(&section.text));
        text += &format!("\n## {title}\n\n{meaning}\n\n{}", section.grid.markdown());
    }
    text += "\n## Measured on\n\n";
    text += &list(descriptions(record));
    if let Some(work) = record.works.first() {
        let place = legend::of_place(&work.measured_on).into_iter();
        let place = place.map(|(name, value)| format!("{name}: {value}"));
        text += &list(place.collect());
    }
    text
}

/// What a VMM would gain, work by work, the one of the README first.
#[must_use]
pub fn sentences(record: &Record) -> Vec<String> {
    let mut works: Vec<_> = record.works.iter().collect();
    works.sort_by_key(|work| work.name != FIRST);
    works.into_iter().filter_map(sentence).collect()
}

fn sentence(work: &WorkRecord) -> Option<String> {
    let what = work::find(&work.name).map_or(&*work.name, |it| it.gist);
    let change = |way| {
        let change = 100.0 * (1.0 - work.share(way)?);
        let word = if change < 0.0 { "more" } else { "fewer" };
        Some(format!("{:.1} % {word}", change.abs()))
    };
    Some(format!(
        "{} takes {} {} over the calls, and {} with bound vCPUs: {} of its work is interface.",
        what,
        change(Way::Calls)?,
        work.unit,
        change(Way::Bound)?,
        percent(work.interface()?),
    ))
}

/// Renders the report, one HTML file that needs no other.
///
/// # Errors
///
/// If the time of the record is none.
pub fn render(record: &Record) -> Result<String> {
    let ended = Timestamp::from_second(i64::try_from(record.time)?)?;
    let ended = ended.strftime("%-d %B %Y, %H:%M UTC").to_string();
    Ok(Report { record, ended }.render()?)
}

#[derive(Template)]
#[template(path = "vmm.html")]
struct Report<'a> {
    record: &'a Record,
    ended: String,
}
