//! Sentences of the message, and what the figures say to them.

use super::words::{EXIT, FETCHED, LOOP, MAPPED, REGISTERS, REGS, REPLACED, SAVED, SWITCHED, work};
use crate::record::{Record, Run, percent};

const ARND: &str = "Arnd Bergmann";
const AVI: &str = "Avi Kivity";

/// A sentence about one form.
struct Sentence {
    by: &'static str,
    quote: &'static str,
    /// The form that the sentence is about, and the form that it is compared with.
    after: &'static str,
    before: &'static str,
    rows: &'static [&'static str],
}

const SENTENCES: [Sentence; 4] = [
    Sentence {
        by: AVI,
        quote: "Many can be merged (set_fpu, set_regs, set_sregs).",
        after: "merged",
        before: "syscall",
        rows: &[REGISTERS, LOOP, SAVED],
    },
    Sentence {
        by: ARND,
        quote: "Before moving to the final syscall interface, I'd wait for the memory model to \
            have moved to using a region of the host process address instead of a separate \
            address range.",
        after: "ranges",
        before: "syscall",
        rows: &[REPLACED, MAPPED, SWITCHED, FETCHED],
    },
    Sentence {
        by: ARND,
        quote: "Some more can be saved by changing the interface for the kvm_get/set_* calls.",
        after: "files",
        before: "syscall",
        rows: &[REGS, REGISTERS, LOOP, SAVED],
    },
    Sentence {
        by: AVI,
        quote: "Once we're back to using fds, we might as well use ioctls.",
        after: "files",
        before: "ioctl",
        rows: &[REGS, REGISTERS, LOOP, SAVED],
    },
];

/// The last sentence of the answer, which weighs two forms.
const LAST: &str = "For me, the difference between syscalls and ioctls is whether the vcpu is \
    bound to a task (and the vm bound to the mm) rather than whether the names are spelled in \
    lowercase or uppercase.";

/// The sentences with their figures. Empty if a row is missing.
pub fn answers(record: &Record) -> Vec<String> {
    let Some(run) = record.runs.first() else {
        return Vec::new();
    };
    let unit = record.unit.to_string();
    let answers = SENTENCES.iter().map(|it| it.answer(run, &unit));
    let all: Option<Vec<_>> = answers.chain([weighed(run)]).collect();
    all.unwrap_or_default()
}

impl Sentence {
    fn answer(&self, run: &Run, unit: &str) -> Option<String> {
        let shares = self.rows.iter().map(|name| {
            let share = run.row(name)?.share(self.after, self.before)?;
            Some((name, percent(share)))
        });
        let changes: Vec<_> = shares.collect::<Option<_>>()?;
        let saving = changes.iter().filter(|(_, change)| *change < 0.0).count();
        let verdict = match saving {
            0 => format!("no fewer {unit} in any row"),
            all if all == changes.len() => format!("fewer {unit} in each row"),
            _ => format!("fewer {unit} in some rows"),
        };
        let list = changes
            .iter()
            .map(|(name, change)| format!("{change:+.0} % for {}", work(name)));
        Some(format!(
            "{}: \"{}\" `{}` takes {verdict} than `{}`: {}.",
            self.by,
            self.quote,
            self.after,
            self.before,
            list.collect::<Vec<_>>().join(", "),
        ))
    }
}

/// How much of what binding saves the mere system calls save, too.
fn weighed(run: &Run) -> Option<String> {
    let part = |name: &'static str| {
        let row = run.row(name)?;
        let saved = |form| Some(row.value("ioctl")? - row.value(form)?);
        Some((name, 100.0 * saved("syscall")? / saved("bound")?))
    };
    let parts: Option<Vec<_>> = [EXIT, LOOP, REGS].into_iter().map(part).collect();
    let list = parts?
        .into_iter()
        .map(|(name, part)| format!("{part:.0} % for {}", work(name)));
    Some(format!(
        "{AVI}: \"{LAST}\" This is what the system calls alone save of what they save with a \
         bound vCPU: {}.",
        list.collect::<Vec<_>>().join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_follows_the_figures() {
        let kept = include_str!("../../../docs/results.json");
        let mut record: Record = serde_json::from_str(kept).unwrap();
        assert_eq!(answers(&record).len(), SENTENCES.len() + 1);
        let mut verdict = |shares: [u64; 3]| {
            for (name, merged) in [REGISTERS, LOOP, SAVED].into_iter().zip(shares) {
                let mut rows = record.runs[0].rows.iter_mut();
                let row = rows.find(|row| row.name == name).unwrap();
                for (form, count) in [("syscall", 100), ("merged", merged)] {
                    let figure = row.figures.get_mut(form).unwrap();
                    figure.exact.as_mut().unwrap().mode = count;
                }
            }
            answers(&record).remove(0)
        };
        assert!(verdict([50, 60, 99]).contains("`merged` takes fewer instructions in each row"));
        assert!(verdict([50, 60, 101]).contains("`merged` takes fewer instructions in some rows"));
        let none = verdict([150, 100, 101]);
        assert!(
            none.contains("`merged` takes no fewer instructions in any row"),
            "{none}"
        );
        assert!(none.contains("+50 % for reading"), "{none}");
    }
}
