//! The tables of a comparison, one for each question. Each fits on a screen.

use crate::counter::Unit;
use crate::grid::{Grid, Section};
use crate::interface::{Column, INTERFACES};
use crate::record::{CaseRow, Figure, Record, Run};

/// One interface compared with others.
struct Question {
    column: Column,
    title: &'static str,
    text: &'static str,
}

const QUESTIONS: [Question; 8] = [
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
        column: Column::Process,
        title: "A VM bound to its address space",
        text: "No call takes a descriptor: the VM is that of the process, and the vCPU is bound.",
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

/// The exits and the calls on a vCPU are those of the column bound, so the summary leaves it
/// out.
const PROCESS: &str = Column::Process.name();

/// The interfaces to compare with ioctl, without the crate, and without `process`.
pub(crate) fn forms() -> impl Iterator<Item = &'static str> {
    let others = INTERFACES.into_iter().skip(1);
    others.filter(|it| ![KVM_IOCTLS, PROCESS].contains(it))
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

/// A few rows that stand for all, if they were measured.
#[must_use]
pub fn summary(run: &Run) -> Option<Grid> {
    let rows: Vec<_> = SUMMARY.iter().filter_map(|name| run.row(name)).collect();
    let mut columns = columns(&rows);
    columns.retain(|name| ![KVM_IOCTLS, PROCESS].contains(name));
    if columns.len() < 2 {
        return None;
    }
    let mut grid = Grid::new([&["call"], &columns[..]].concat());
    for row in rows {
        let first = [value_and_spread(row, columns[0])].into_iter();
        let others = columns[1..].iter().map(|name| percent(row, name));
        grid.push([&row.name], first.chain(others));
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
    let sections = QUESTIONS.iter().filter_map(|question| {
        // The tables below have ioctl, syscall and kvm-ioctls for these rows.
        let also = question.beside().map_or(&[][..], |_| &own_work[..]);
        question.section(unit, &[&calls[..], also].concat())
    });
    sections.chain(own_work_sections(unit, &own_work)).collect()
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
        let rows = rows.iter();
        let rows = rows.filter(|row| self.column == Column::Syscall || has(row));
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
            grid.push([&row.name], figures.chain(ratios));
        }
        Section::new(form, self.title, self.text, grid)
    }
}

/// The calls whose own work outweighs the interface: their figures, and the work.
fn own_work_sections(unit: Unit, rows: &[&CaseRow]) -> Vec<Section> {
    let mut columns = columns(rows);
    columns.retain(|name| ["ioctl", "syscall", KVM_IOCTLS].contains(name));
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
        figures.push([&row.name], cells);
        let own = row.own_work.as_deref().unwrap_or_default();
        work.push([&*row.name, own], []);
    }
    let title = "Calls whose own work outweighs the interface";
    let says_little = "The ratio of such a row says little about the interface.";
    let sections = [
        Section::new("own-work", title, says_little, figures),
        Section::new(
            "the-work",
            format!("{title}: the work"),
            "This work dominates the cost of the call.",
            work,
        ),
    ];
    sections.into_iter().flatten().collect()
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
    let forms = columns.iter().skip(1);
    let forms = forms.filter_map(|form| under_all(record, &rows, form));
    let runs = record.runs.iter();
    let runs = runs.filter_map(|run| under_one(record.unit, run, &rows, &columns));
    forms.chain(runs).collect()
}

fn under_all(record: &Record, rows: &[&CaseRow], form: &str) -> Option<Section> {
    let conditions = record.runs.iter().map(Run::condition);
    let conditions = conditions.map(|it| it.replace("mitigations ", "").replace("seccomp ", ""));
    let mut grid = Grid::new([format!("{form} / ioctl")].into_iter().chain(conditions));
    for row in rows.iter().filter(|row| row.figures.contains_key(form)) {
        let runs = record.runs.iter();
        let ratios = runs.map(|run| ratio(run.row(&row.name)?, form, "ioctl"));
        grid.push([&row.name], ratios);
    }
    Section::new(
        format!("conditions-{form}"),
        format!("Mitigations and seccomp: {form}"),
        format!("The columns have {form} as a share of ioctl, by mitigations and seccomp filter."),
        grid,
    )
}

fn under_one(unit: Unit, run: &Run, rows: &[&CaseRow], columns: &[&str]) -> Option<Section> {
    let mut grid = Grid::new([format!("call, {unit}")]);
    grid.head.extend(columns.iter().map(|it| String::from(*it)));
    for row in rows.iter().filter_map(|row| run.row(&row.name)) {
        grid.push([&row.name], columns.iter().map(|it| value(row, it)));
    }
    Section::new(
        run.condition().replace(", ", "-").replace(' ', "-"),
        format!("Figures with {}", run.condition()),
        "Every interface, on the calls that a vCPU's thread makes.",
        grid,
    )
}

/// The interfaces that have a figure in any of these rows.
fn columns(rows: &[&CaseRow]) -> Vec<&'static str> {
    let present = |name: &&str| rows.iter().any(|row| row.figures.contains_key(*name));
    INTERFACES.into_iter().filter(present).collect()
}

/// The figure of an interface, without a unit.
pub fn value(row: &CaseRow, interface: &str) -> Option<String> {
    Some(format!("{:.0}", row.value(interface)?))
}

fn value_and_spread(row: &CaseRow, interface: &str) -> Option<String> {
    let spread = spread(row.figures.get(interface)?).unwrap_or_default();
    Some(value(row, interface)? + &spread)
}

/// The figure of an interface divided by the figure of another.
pub(crate) fn ratio(row: &CaseRow, interface: &str, base: &str) -> Option<String> {
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
