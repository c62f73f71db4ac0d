//! The events of a call that cost more than an instruction, and what each form adds and
//! takes away.

use std::collections::BTreeSet;

use profile::{Event, Events};

use crate::grid::{Grid, Section};
use crate::record::{CaseRow, Record};
use crate::table;

/// A section for each row of the first run that `show` wants, and whose events were
/// recorded.
pub fn sections(record: &Record, show: impl Fn(&CaseRow) -> bool) -> Vec<Section> {
    let rows = record.runs.first().map(|run| &run.rows[..]);
    let rows = rows.unwrap_or_default().iter();
    rows.filter(|row| show(row)).filter_map(section).collect()
}

fn section(row: &CaseRow) -> Option<Section> {
    let of = |interface: &str| {
        let events = &row.profile(interface)?.events;
        (!events.is_empty()).then_some(events)
    };
    let ioctl = of("ioctl")?;
    let forms: Vec<_> = table::forms()
        .filter_map(|form| Some((form, of(form)?)))
        .collect();
    let mut grid = Grid::new(["event", "ioctl"]);
    grid.head
        .extend(forms.iter().map(|(form, _)| String::from(*form)));
    let all = forms.iter().flat_map(|(_, events)| events.keys());
    let all: BTreeSet<_> = all.chain(ioctl.keys()).collect();
    for event in all {
        let before = number(ioctl, event);
        let changes = forms.iter().map(|(_, events)| {
            let change = number(events, event) - before;
            (change != 0).then(|| format!("{change:+}"))
        });
        let before = [Some(before.to_string())].into_iter();
        grid.push([event.to_string()], before.chain(changes));
    }
    Section::new(
        format!("events-{}", row.name),
        format!("Events of {}", row.name),
        "The column ioctl has the number of events in the kernel during one call. The other \
         columns have the difference from it; a cell is empty where there is none.",
        grid,
    )
}

fn number(events: &Events, event: &Event) -> i64 {
    events.get(event).map_or(0, |it| *it as i64)
}
