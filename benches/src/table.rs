//! The tables of a comparison, one for each question. Each fits on a screen.

use crate::counter::Unit;
use crate::grid::{Cell, Grid};
use crate::hosts;
use crate::interface::{Column, INTERFACES};
use crate::record::{CaseRow, Figure, Record, Run};
use crate::vendors;

/// A question, and the table that answers it.
#[derive(Clone, Debug)]
pub struct Section {
    /// The name of the section in links.
    pub id: String,
    /// The question.
    pub title: String,
    /// The text above the table.
    pub text: String,
    /// The table.
    pub grid: Grid,
}

/// One interface compared with others.
struct Question {
    column: Column,
    title: &'static str,
    text: &'static str,
}

const QUESTIONS: [Question; 7] = [
    Question {
        column: Column::Syscall,
        title: "A system call instead of an ioctl",
        text: "One system call replaces one ioctl.",
    },
    Question {
        column: Column::Merged,
        title: "One call for several parts of a vCPU's state",
        text: "kvm_get_state and kvm_set_state replace one call for each part.",
    },
    Question {
        column: Column::Ranges,
        title: "Ranges of guest memory instead of memory slots",
        text: "Calls name guest memory by addresses instead of slot numbers.",
    },
    Question {
        column: Column::Files,
        title: "Files for a vCPU's state",
        text: "Reads and writes of files replace the calls on a vCPU.",
    },
    Question {
        column: Column::Bound,
        title: "A vCPU bound to its task",
        text: "Calls act on the vCPU of the calling task, which stays loaded.",
    },
    Question {
        column: Column::SyncRegs,
        title: "Registers that pass with each run",
        text: "KVM_CAP_SYNC_REGS, which Linux has, copies registers with each KVM_RUN.",
    },
    Question {
        column: Column::KvmIoctls,
        title: "The kvm-ioctls crate instead of bare ioctls",
        text: "VMMs make their ioctls through this crate.",
    },
];

/// The crate makes the same ioctls as the column ioctl, so the summary leaves it out.
pub(crate) const KVM_IOCTLS: &str = Column::KvmIoctls.name();

/// The interfaces to compare with ioctl, without the crate.
pub(crate) fn forms() -> impl Iterator<Item = &'static str> {
    let others = INTERFACES.into_iter().skip(1);
    others.filter(|it| *it != KVM_IOCTLS)
}

/// The rows of the summary.
const SUMMARY: [&str; 6] = [
    "kvm_run_pio_out",
    "kvm_get_regs",
    "emulation_loop",
    "registers_read_written",
    "vcpu_saved_restored",
    "page_replaced",
];

/// Whether a row stands for all others.
pub(crate) fn is_summary(row: &str) -> bool {
    SUMMARY.contains(&row)
}

/// All tables in Markdown, with the summary last.
#[must_use]
pub fn tables(record: &Record) -> String {
    let Some(first) = record.runs.first() else {
        return "Nothing was measured.\n".into();
    };
    let mut all = [questions(first, record.unit), conditions(record)].concat();
    all.extend(vendors::sections(record));
    all.extend(hosts::sections(record));
    all.extend(vendors::failures(record));
    let mut text = String::new();
    for Section {
        title,
        text: what,
        grid,
        ..
    } in all
    {
        text.push_str(&format!("{title}. {what}\n\n{}\n", grid.markdown()));
    }
    if let Some(grid) = record.runs.first().and_then(summary) {
        text.push_str(&format!(
            "Summary. {}\n\n{}",
            summary_text(record.unit),
            grid.markdown()
        ));
    }
    text
}

/// A few rows that stand for all, if they were measured.
#[must_use]
pub fn summary(run: &Run) -> Option<Grid> {
    let rows: Vec<_> = SUMMARY.iter().filter_map(|name| run.row(name)).collect();
    let columns: Vec<_> = columns(&rows)
        .into_iter()
        .filter(|name| *name != KVM_IOCTLS)
        .collect();
    if columns.len() < 2 {
        return None;
    }
    let mut grid = Grid::new([&["call"], &columns[..]].concat());
    for row in rows {
        let first = [value_and_spread(row, columns[0])].into_iter();
        let others = columns[1..].iter().map(|name| percent(row, name));
        grid.push(&row.name, first.chain(others));
    }
    Some(grid)
}

/// The text above the summary.
#[must_use]
pub fn summary_text(unit: Unit) -> String {
    format!("The column ioctl has {unit}. The other columns are shares of ioctl.")
}

/// A section for each question that a run answers.
#[must_use]
pub fn questions(run: &Run, unit: Unit) -> Vec<Section> {
    let (own_work, calls): (Vec<_>, Vec<_>) =
        run.rows.iter().partition(|row| row.own_work.is_some());
    let mut sections: Vec<_> = QUESTIONS
        .iter()
        .filter_map(|question| {
            // The tables below have ioctl, syscall and kvm-ioctls for these rows.
            let rows = if question.beside().is_some() {
                [&calls[..], &own_work[..]].concat()
            } else {
                calls.clone()
            };
            question.section(unit, &rows)
        })
        .collect();
    sections.extend(own_work_sections(unit, &own_work));
    sections
}

impl Question {
    /// The interface, besides ioctl, that differs from the column in the least.
    fn beside(&self) -> Option<&'static str> {
        let by_calls = !self.column.is_stock() && self.column != Column::Syscall;
        by_calls.then_some(Column::Syscall.name())
    }

    fn section(&self, unit: Unit, rows: &[&CaseRow]) -> Option<Section> {
        let (form, beside) = (self.column.name(), self.beside());
        let has = |row: &&&CaseRow| row.figures.contains_key(form);
        if !rows.iter().any(|row| has(&row)) {
            return None;
        }
        // The first question has the calls that no form replaces, too.
        let rows: Vec<_> = rows
            .iter()
            .filter(|row| self.column == Column::Syscall || has(row))
            .collect();
        let mut grid = Grid::new([format!("call, {unit}"), "ioctl".into()]);
        grid.head.extend(beside.map(String::from));
        grid.head.push(form.into());
        grid.head.push("/ioctl".into());
        grid.head.extend(beside.map(|it| format!("/{it}")));
        for row in rows {
            let bases = ["ioctl"].into_iter().chain(beside);
            let figures = bases.clone().chain([form]);
            let figures = figures.map(|name| value_and_spread(row, name));
            let ratios = bases.map(|base| ratio(row, form, base));
            grid.push(&row.name, figures.chain(ratios));
        }
        Some(Section {
            id: form.into(),
            title: self.title.into(),
            text: self.text.into(),
            grid,
        })
    }
}

/// The calls whose own work outweighs the interface: their figures, and the work.
fn own_work_sections(unit: Unit, rows: &[&CaseRow]) -> Vec<Section> {
    let columns: Vec<_> = columns(rows)
        .into_iter()
        .filter(|name| ["ioctl", "syscall", KVM_IOCTLS].contains(name))
        .collect();
    if columns.is_empty() {
        return Vec::new();
    }
    let mut figures = Grid::new([format!("call, {unit}")]);
    let mut work = Grid::new(["call", "its own work"]);
    for name in &columns {
        figures.head.push((*name).into());
        if *name != "ioctl" {
            figures.head.push("/ioctl".into());
        }
    }
    for row in rows {
        let mut cells = Vec::new();
        for name in &columns {
            cells.push(value_and_spread(row, name));
            if *name != "ioctl" {
                cells.push(ratio(row, name, "ioctl"));
            }
        }
        figures.push(&row.name, cells);
        let own = row.own_work.as_deref().unwrap_or_default();
        work.rows
            .push(vec![Cell::words(&row.name), Cell::words(own)]);
    }
    let title = "Calls whose own work outweighs the interface";
    vec![
        Section {
            id: "own-work".into(),
            title: title.into(),
            text: "The ratio of such a row says little about the interface.".into(),
            grid: figures,
        },
        Section {
            id: "the-work".into(),
            title: format!("{title}: the work"),
            text: "This work dominates the cost of the call.".into(),
            grid: work,
        },
    ]
}

/// If there is more than one condition: the figures under each, and the ratios of each
/// interface under all.
#[must_use]
pub fn conditions(record: &Record) -> Vec<Section> {
    let [first, _, ..] = &record.runs[..] else {
        return Vec::new();
    };
    let everywhere = |row: &&CaseRow| record.runs.iter().all(|run| run.row(&row.name).is_some());
    let rows: Vec<_> = first.rows.iter().filter(everywhere).collect();
    let columns = columns(&rows);
    let mut sections = Vec::new();
    for form in columns.iter().skip(1) {
        sections.push(under_all(record, &rows, form));
    }
    for run in &record.runs {
        sections.push(under_one(record.unit, run, &rows, &columns));
    }
    sections
}

fn under_all(record: &Record, rows: &[&CaseRow], form: &str) -> Section {
    let conditions = record.runs.iter().map(Run::condition);
    let conditions = conditions.map(|it| it.replace("mitigations ", "").replace("seccomp ", ""));
    let mut grid = Grid::new([format!("{form} / ioctl")].into_iter().chain(conditions));
    for row in rows.iter().filter(|row| row.figures.contains_key(form)) {
        let ratios = record.runs.iter().map(|run| {
            let row = run.row(&row.name)?;
            ratio(row, form, "ioctl")
        });
        grid.push(&row.name, ratios);
    }
    Section {
        id: format!("conditions-{form}"),
        title: format!("Mitigations and seccomp: {form}"),
        text: format!(
            "The columns have {form} as a share of ioctl, by mitigations and seccomp filter."
        ),
        grid,
    }
}

fn under_one(unit: Unit, run: &Run, rows: &[&CaseRow], columns: &[&str]) -> Section {
    let mut grid = Grid::new([format!("call, {unit}")]);
    grid.head.extend(columns.iter().map(|it| String::from(*it)));
    for row in rows.iter().filter_map(|row| run.row(&row.name)) {
        grid.push(&row.name, columns.iter().map(|it| value(row, it)));
    }
    Section {
        id: run.condition().replace(", ", "-").replace(' ', "-"),
        title: format!("Figures with {}", run.condition()),
        text: "Every interface, on the calls that a vCPU's thread makes.".into(),
        grid,
    }
}

/// The interfaces that have a figure in any of these rows.
fn columns(rows: &[&CaseRow]) -> Vec<&'static str> {
    let present = |name: &&str| rows.iter().any(|row| row.figures.contains_key(*name));
    INTERFACES.into_iter().filter(present).collect()
}

/// The figure of an interface, without a unit.
pub fn value(row: &CaseRow, interface: &str) -> Option<String> {
    let value = row.figures.get(interface)?.value()?;
    Some(format!("{value:.0}"))
}

fn value_and_spread(row: &CaseRow, interface: &str) -> Option<String> {
    let spread = spread(row.figures.get(interface)?).unwrap_or_default();
    Some(value(row, interface)? + &spread)
}

fn ratio(row: &CaseRow, interface: &str, base: &str) -> Option<String> {
    Some(format!("{:.3}", row.share(interface, base)?))
}

fn percent(row: &CaseRow, interface: &str) -> Option<String> {
    Some(format!("{:.0} %", 100.0 * row.share(interface, "ioctl")?))
}

/// For an exact count, the share of calls that had it, unless all had it. For an
/// estimate, half the width of its interval.
fn spread(figure: &Figure) -> Option<String> {
    if let Some(count) = &figure.exact {
        let share = 100 * count.at_mode / count.calls;
        return (share < 100).then(|| format!(" ({share} %)"));
    }
    Some(format!(" ± {:.0}", figure.criterion?.spread()))
}
