//! The answer in words and small tables, made from the figures of the run.

use std::mem::take;

use super::cycles::Cycles;
use super::words::{
    EXIT, FETCHED, LOOP, MAPPED, REGISTERS, REGS, REPLACED, SAVED, SWITCHED, THREADS, listed, work,
};
use crate::grid::Grid;
use crate::interface::INTERFACES;
use crate::parts::Part;
use crate::record::{CaseRow, Profile, Record, Run, percent};
use crate::table::value;

/// A sentence on one form: `rows` by `after`, compared with `before`.
struct Claim {
    /// The form, and its verb.
    subject: &'static str,
    /// What the form is compared with.
    than: &'static str,
    before: &'static str,
    after: &'static str,
    rows: &'static [&'static str],
}

const CLAIMS: [Claim; 5] = [
    Claim {
        subject: "A system call takes",
        than: "the ioctl",
        before: "ioctl",
        after: "syscall",
        rows: &[EXIT, REGS, LOOP],
    },
    Claim {
        subject: "One merged call takes",
        than: "separate system calls",
        before: "syscall",
        after: "merged",
        rows: &[REGISTERS, LOOP, SAVED],
    },
    Claim {
        subject: "Ranges of guest memory take",
        than: "memory slots",
        before: "syscall",
        after: "ranges",
        rows: &[REPLACED, MAPPED],
    },
    Claim {
        subject: "Files take",
        than: "system calls",
        before: "syscall",
        after: "files",
        rows: &[REGS, REGISTERS, SAVED],
    },
    Claim {
        subject: "A bound vCPU takes",
        than: "the ioctls",
        before: "ioctl",
        after: "bound",
        rows: &[EXIT, REGS, LOOP],
    },
];

/// The comparisons of each form: the form, the form that it is compared with, and the rows.
const FORMS: [(&str, &str, &[&str]); 11] = [
    ("syscall", "ioctl", &[EXIT, REGS, REGISTERS, LOOP, SAVED]),
    ("merged", "syscall", &[REGISTERS, LOOP, SAVED]),
    ("ranges", "syscall", &[REPLACED, MAPPED, SWITCHED, FETCHED]),
    ("files", "syscall", &[REGS, REGISTERS, LOOP, SAVED]),
    ("bound", "syscall", &[EXIT, REGS]),
    ("bound", "merged", &[REGISTERS, LOOP, SAVED]),
    ("syscall", "ioctl", &["kick", "interrupt_by_another_thread"]),
    ("bound", "ioctl", &["kick", "interrupt_by_another_thread"]),
    ("process", "syscall", &VM),
    ("process", "bound", &[EXIT, REGS]),
    ("sync-regs", "ioctl", &[LOOP, REGISTERS]),
];

/// The calls on a VM that are short enough to show how the VM is named.
const VM: [&str; 6] = [
    "kvm_create_vm",
    "kvm_create_vcpu",
    "kvm_set_user_memory_region",
    "kvm_get_dirty_log",
    "kvm_get_memory_alias",
    MAPPED,
];

/// The answer in a few sentences, from the rows that were measured.
pub fn sentences(record: &Record, cycles: Option<&Cycles<'_>>) -> Vec<String> {
    let Some(run) = record.runs.first() else {
        return Vec::new();
    };
    let missing = run.no_syscalls.as_ref();
    let missing = missing.map(|why| format!("The system calls are missing here: {why}."));
    let claims = CLAIMS
        .iter()
        .filter_map(|claim| claim.sentence(record, run, cycles));
    missing.into_iter().chain(claims).collect()
}

impl Claim {
    fn sentence(&self, record: &Record, run: &Run, cycles: Option<&Cycles<'_>>) -> Option<String> {
        // Only the first figure has its unit, and the form that it is compared with.
        let mut than = format!(" {} than {}", record.unit, self.than);
        let mut parts = Vec::new();
        for row in self.rows.iter().filter_map(|name| run.row(name)) {
            if let Some(share) = row.share(self.after, self.before) {
                let (words, mut than) = (words(share), take(&mut than));
                if words == SAME {
                    than = than.replace(" than ", " as ");
                }
                parts.push(format!("{words}{than} for {}", work(&row.name)));
            }
        }
        let last = parts.pop()?;
        let list = match &parts[..] {
            [] => last,
            [first] => format!("{first} and {last}"),
            more => format!("{}, and {last}", more.join(", ")),
        };
        let others = record.others.iter();
        let mut notes: Vec<_> = others.filter_map(|other| self.elsewhere(other)).collect();
        if self.before == "ioctl" {
            notes.extend(cycles.and_then(|it| it.note(self.after)));
        }
        if self.after == "bound" {
            notes.extend(sync_regs(run));
        }
        let notes = match &notes[..] {
            [] => String::new(),
            notes => format!(" ({})", notes.join("; ")),
        };
        Some(format!("{} {list}{notes}.", self.subject))
    }

    /// The same figures on the processor of another vendor, if all were measured there.
    fn elsewhere(&self, other: &Run) -> Option<String> {
        let share = |name: &&str| other.row(name)?.share(self.after, self.before);
        let shares: Option<Vec<_>> = self.rows.iter().map(share).collect();
        let words: Vec<_> = shares?.into_iter().map(words).collect();
        Some(format!("on {}, {}", other.vendor(), listed(&words)))
    }
}

/// The claim for KVM_CAP_SYNC_REGS, at the end of the sentence on bound vCPUs.
fn sync_regs(run: &Run) -> Option<String> {
    let words = words(run.row(LOOP)?.share("sync-regs", "ioctl")?);
    Some(format!(
        "KVM_CAP_SYNC_REGS, which Linux has, takes {words} for {}",
        work(LOOP)
    ))
}

/// The figures of a form, each compared with the form that differs from it in the least.
pub fn form(record: &Record, form: &str) -> Option<Grid> {
    let run = record.runs.first()?;
    let title = format!("row, {}", record.unit);
    let mut grid = Grid::new([&*title, "compared with", "before", form, "change"]);
    for (_, before, rows) in FORMS.into_iter().filter(|(name, ..)| *name == form) {
        for row in rows.iter().filter_map(|name| run.row(name)) {
            if let Some(share) = row.share(form, before) {
                let change = Some(format!("{:+.1} %", percent(share)));
                let numbers = [value(row, before), value(row, form), change];
                grid.push([&*row.name, before], numbers);
            }
        }
    }
    (!grid.rows.is_empty()).then_some(grid)
}

/// An exit on the thread that has run the vCPU before, and on another thread; and after how
/// many exits it pays to bind the vCPU.
pub fn thread_change(record: &Record) -> Option<(Grid, String)> {
    let run = record.runs.first()?;
    let (same, other) = (run.row(EXIT)?, run.row(THREADS)?);
    let forms = INTERFACES.into_iter();
    let forms: Vec<_> = forms.filter(|form| other.value(form).is_some()).collect();
    let title = format!("row, {}", record.unit);
    let mut grid = Grid::new([&[&*title], &forms[..]].concat());
    for row in [same, other] {
        grid.push([&*row.name], forms.iter().map(|form| value(row, form)));
    }
    let difference = |form: &&str| {
        let difference = other.value(form)? - same.value(form)?;
        Some(format!("{difference:+.0}"))
    };
    grid.push(["difference"], forms.iter().map(difference));

    let sentence = runs_to_pay(same, other)
        .map(|runs| {
            format!(
                "A thread that binds a vCPU, runs it at least {runs} times and unbinds it takes \
                 fewer {} than by ioctl.",
                record.unit
            )
        })
        .unwrap_or_default();
    Some((grid, sentence))
}

/// The least number of runs on one thread for which it pays to bind a vCPU that comes from
/// another thread, and to unbind it. `None` if it never pays.
fn runs_to_pay(same: &CaseRow, other: &CaseRow) -> Option<u64> {
    let saved = same.value("ioctl")? - same.value("bound")?;
    let lost = other.value("bound")? - other.value("ioctl")?;
    // Only the first run loses.
    let runs = (lost / saved).floor() + 2.0;
    (saved > 0.0).then_some(runs.max(1.0) as u64)
}

/// The exit that stands for all: in 64-bit mode if it was measured there.
pub(super) fn exit(run: &Run) -> Option<&CaseRow> {
    let names = [EXIT, "kvm_run_pio_out_real_mode"];
    names.into_iter().find_map(|name| run.row(name))
}

/// The parts of an exit by ioctl and bound, and the instructions that no interface can
/// remove.
pub fn remains(record: &Record) -> Option<(Grid, String)> {
    let row = exit(record.runs.first()?)?;
    let (ioctl, bound) = (row.profile("ioctl")?, row.profile("bound")?);
    let count = |profile: &Profile, part| profile.parts.get(&part).copied();
    let mut grid = Grid::new([&*format!("part of {}", row.name), "ioctl", "bound"]);
    for part in Part::ALL {
        let of = |profile| Some(count(profile, part).unwrap_or_default().to_string());
        grid.push([part.title()], [of(ioctl), of(bound)]);
    }
    let sum = |profile: &Profile| Some(profile.instructions.to_string());
    grid.push(["sum"], [sum(ioctl), sum(bound)]);
    let kept = bound
        .instructions
        .checked_sub(count(bound, Part::Entry)?)?
        .checked_sub(count(bound, Part::Floor)?)?;
    let sentence = format!(
        "No interface can remove the parts beyond floor, entry and dispatch: {kept} instructions, \
         {:.0} % of the exit of a bound vCPU.",
        100.0 * kept as f64 / bound.instructions as f64,
    );
    Some((grid, sentence))
}

/// The words for a change that rounds to nothing.
const SAME: &str = "about as many";

/// The change of a figure in words, from its share of the figure before.
fn words(share: f64) -> String {
    let percent = percent(share);
    if percent.abs() < 0.5 {
        return SAME.into();
    }
    let direction = if percent > 0.0 { "more" } else { "fewer" };
    format!("{:.0} % {direction}", percent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Record {
        serde_json::from_str(include_str!("../../../docs/results.json")).unwrap()
    }

    #[test]
    fn the_answer_has_five_sentences() {
        let record = kept();
        let cycles = Cycles::new(&record).unwrap();
        let sentences = sentences(&record, cycles.as_ref());
        assert_eq!(sentences.len(), 5);
        for sentence in sentences {
            assert!(
                sentence.ends_with('.') && !sentence.contains(".."),
                "{sentence}"
            );
            assert!(
                sentence.contains("fewer") || sentence.contains("more"),
                "{sentence}"
            );
        }
    }

    #[test]
    fn a_sentence_follows_the_figures() {
        for (after, expected) in [
            (
                1250,
                "A system call takes 25 % more instructions than the ioctl for an exit",
            ),
            (
                1004,
                "A system call takes about as many instructions as the ioctl for an exit",
            ),
        ] {
            let mut record = kept();
            let row = record.runs[0].rows.iter_mut().find(|row| row.name == EXIT);
            let figures = &mut row.unwrap().figures;
            for (interface, mode) in [("ioctl", 1000), ("syscall", after)] {
                let figure = figures.get_mut(interface).unwrap();
                figure.exact.as_mut().unwrap().mode = mode;
            }
            let sentences = sentences(&record, None);
            assert!(sentences[0].starts_with(expected), "{}", sentences[0]);
        }
    }

    #[test]
    fn binding_pays_from_the_first_run_on_that_makes_it_cheaper() {
        let record = kept();
        let row = |ioctl, bound| {
            let mut row = record.runs[0].row(EXIT).unwrap().clone();
            for (interface, mode) in [("ioctl", ioctl), ("bound", bound)] {
                let figure = row.figures.get_mut(interface).unwrap();
                figure.exact.as_mut().unwrap().mode = mode;
            }
            row
        };
        for same in [(100, 60), (100, 99), (3, 1)] {
            for other in [(120, 200), (120, 160), (120, 121), (120, 120), (120, 90)] {
                let cost = |first, further, runs| first + further * (runs - 1);
                let cheaper =
                    |runs: &u64| cost(other.1, same.1, *runs) < cost(other.0, same.0, *runs);
                let runs = runs_to_pay(&row(same.0, same.1), &row(other.0, other.1));
                assert_eq!(runs, (1..1000).find(cheaper), "{same:?}, {other:?}");
            }
        }
        assert_eq!(runs_to_pay(&row(100, 100), &row(120, 130)), None);
    }
}
