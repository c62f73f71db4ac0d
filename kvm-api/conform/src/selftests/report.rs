//! The results of the tests: the failures, and the table of all tests.

use std::fmt::Write;

use comfy_table::{Cell, CellAlignment};
use kvm_preload::{Counts, Outcome};

use super::known;
use super::result::{RunResult, Verdict};
use crate::table;

/// The results of a test, over ioctl and with the library.
pub struct Both {
    /// Its name.
    pub name: String,
    /// The run over ioctl.
    pub ioctl: RunResult,
    /// The run with the preloaded library.
    pub flat: RunResult,
    /// How the library passed on the ioctls of the second run.
    pub counts: Counts,
}

impl Both {
    pub fn problem(&self) -> Option<String> {
        let (ioctl, flat) = (&self.ioctl, &self.flat);
        let (expected, why) = known::expected(&self.name);
        if self.counts.processes == 0 {
            return Some("the library was not loaded, or the kernel has no calls".into());
        }
        if ioctl.verdict != flat.verdict || ioctl.place != flat.place {
            return Some(format!("by ioctl {ioctl}\nby system call {flat}"));
        }
        if ioctl.verdict != expected {
            let known = if expected == Verdict::Pass {
                String::new()
            } else {
                format!(", expected: {expected} ({why})")
            };
            return Some(format!("either way {ioctl}{known}"));
        }
        None
    }
}

/// The table of all tests, and of all calls.
pub fn of_all(tests: &[Both]) -> String {
    let mut table = table::new([
        "test",
        "over ioctl",
        "preloaded",
        "KVM's ioctls",
        "with a call",
        "went flat",
        "share",
        "arguments, and why; why it does not pass",
    ]);
    for test in tests {
        let counts = &test.counts;
        let (_, why) = known::expected(&test.name);
        let (start, reason) = known::start(&test.name);
        let remark = [&start.args.join(" "), reason, why];
        let remark: Vec<_> = remark.into_iter().filter(|it| !it.is_empty()).collect();
        table.add_row([
            Cell::new(&test.name),
            Cell::new(verdict(&test.ioctl)),
            Cell::new(verdict(&test.flat)),
            number(counts.all()),
            number(counts.replaceable()),
            number(counts.flat()),
            Cell::new(share(counts.flat(), counts.all())).set_alignment(CellAlignment::Right),
            Cell::new(remark.join("; ")),
        ]);
    }
    format!("\n{table}\n\n{}", summary(tests))
}

/// The verdict and the duration, by the machine's clock.
fn verdict(ran: &RunResult) -> String {
    format!("{} {:.1} s", ran.verdict, ran.took.as_secs_f64())
}

fn summary(tests: &[Both]) -> String {
    let mut text = String::new();
    for verdict in Verdict::ALL {
        let count = tests.iter().filter(|it| it.flat.verdict == verdict).count();
        let _ = write!(text, "{count} {verdict}, ");
    }
    let of = |count: fn(&Counts) -> u64| tests.iter().map(|it| count(&it.counts)).sum::<u64>();
    let (flat, replaceable, all) = (of(Counts::flat), of(Counts::replaceable), of(Counts::all));
    let _ = writeln!(
        text,
        "{flat} of {all} ioctls ({}) became calls; of the {replaceable} with a call, {}",
        share(flat, all),
        share(flat, replaceable),
    );
    let mut table = table::new(["ioctl", "call", "as a call", "as an ioctl", "because"]);
    for row in by_ioctl(tests) {
        table.add_row([
            Cell::new(row.ioctl),
            Cell::new(row.call.unwrap_or_default()),
            number(row.flat),
            number(row.stayed.iter().map(|(_, count)| count).sum()),
            Cell::new(reasons(&row.stayed)),
        ]);
    }
    format!("{text}{table}")
}

/// How an ioctl was passed on.
struct Row {
    ioctl: &'static str,
    call: Option<&'static str>,
    flat: u64,
    stayed: Vec<(Outcome, u64)>,
}

impl Row {
    fn count(&self) -> u64 {
        self.flat + self.stayed.iter().map(|(_, count)| count).sum::<u64>()
    }
}

/// How the ioctls were passed on, over all tests, the most frequent first.
fn by_ioctl(tests: &[Both]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in tests.iter().flat_map(|it| &it.counts.lines) {
        let place = rows.iter().position(|row| row.ioctl == line.request);
        let place = place.unwrap_or_else(|| {
            rows.push(Row {
                ioctl: line.request,
                call: line.call,
                flat: 0,
                stayed: Vec::new(),
            });
            rows.len() - 1
        });
        let row = &mut rows[place];
        if line.outcome.is_call() {
            row.flat += line.count;
        } else {
            let known = row.stayed.iter_mut().find(|it| it.0 == line.outcome);
            match known {
                Some((_, count)) => *count += line.count,
                None => row.stayed.push((line.outcome, line.count)),
            }
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.count()));
    rows
}

/// Why requests stayed ioctls, with the number of each reason if there are several.
fn reasons(stayed: &[(Outcome, u64)]) -> String {
    let reason = |(outcome, count): &(Outcome, u64)| match stayed {
        [_] => outcome.reason().to_owned(),
        _ => format!("{} ({count})", outcome.reason()),
    };
    stayed.iter().map(reason).collect::<Vec<_>>().join("; ")
}

fn share(part: u64, whole: u64) -> String {
    let share = (part * 100).checked_div(whole);
    share.map_or(String::new(), |share| format!("{share} %"))
}

fn number(number: u64) -> Cell {
    Cell::new(number).set_alignment(CellAlignment::Right)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kvm_preload::{Bindings, Line};

    use super::*;

    fn ran(verdict: Verdict, place: &str) -> RunResult {
        RunResult {
            verdict,
            took: Duration::ZERO,
            place: place.into(),
            last: String::new(),
        }
    }

    fn both(name: &str, ioctl: RunResult, flat: RunResult, processes: u64) -> Both {
        Both {
            name: name.into(),
            ioctl,
            flat,
            counts: Counts {
                processes,
                bindings: Bindings::default(),
                lines: Vec::new(),
            },
        }
    }

    #[test]
    fn what_is_expected_and_the_same_holds() {
        let pass = ran(Verdict::Pass, "");
        let test = both("steal_time", pass.clone(), pass, 1);
        assert_eq!(test.problem(), None);
        let fail = ran(Verdict::Fail, "a.c:1: b");
        let test = both("x86/debug_regs", fail.clone(), fail, 1);
        assert_eq!(test.problem(), None);
    }

    #[test]
    fn what_differs_does_not_hold() {
        let (pass, fail) = (ran(Verdict::Pass, ""), ran(Verdict::Fail, "a.c:1: b"));
        let test = both("x86/debug_regs", fail.clone(), pass, 1);
        let problem = test.problem().unwrap();
        assert_eq!(problem, "by ioctl fail: a.c:1: b\nby system call pass");
        let other = ran(Verdict::Fail, "a.c:2: c");
        assert!(both("x86/debug_regs", fail, other, 1).problem().is_some());
    }

    #[test]
    fn what_is_not_expected_does_not_hold() {
        let (pass, fail) = (ran(Verdict::Pass, ""), ran(Verdict::Fail, "a.c:1: b"));
        let passes = both("x86/debug_regs", pass.clone(), pass.clone(), 1);
        assert!(passes.problem().unwrap().contains("expected: fail"));
        assert!(
            both("steal_time", fail.clone(), fail, 1)
                .problem()
                .is_some()
        );
        let skip = ran(Verdict::Skip, "");
        assert!(
            both("steal_time", skip.clone(), skip, 1)
                .problem()
                .is_some()
        );
        // As if the library had not been loaded.
        assert!(
            both("steal_time", pass.clone(), pass, 0)
                .problem()
                .is_some()
        );
    }

    #[test]
    fn counts_are_joined_by_ioctl() {
        let line = |request, outcome, count| Line {
            request,
            call: Some("a call"),
            outcome,
            count,
        };
        let mut tests =
            [1, 2].map(|_| both("a", ran(Verdict::Pass, ""), ran(Verdict::Pass, ""), 1));
        tests[0].counts.lines = vec![
            line("A", Outcome::HandedOver, 1),
            line("B", Outcome::HandedOver, 5),
            line("B", Outcome::OtherFile, 2),
        ];
        tests[1].counts.lines = vec![
            line("B", Outcome::OtherFile, 3),
            line("B", Outcome::Structure, 1),
            line("C", Outcome::Structure, 100),
        ];
        let rows = by_ioctl(&tests);
        let names: Vec<_> = rows.iter().map(|row| (row.ioctl, row.count())).collect();
        assert_eq!(names, [("C", 100), ("B", 11), ("A", 1)]);
        assert_eq!((rows[1].flat, rows[0].flat), (5, 0));
        let many = "the file is of another kind (5); the structure cannot be read (1)";
        assert_eq!(reasons(&rows[1].stayed), many);
        assert_eq!(reasons(&rows[0].stayed), "the structure cannot be read");
        assert_eq!(reasons(&rows[2].stayed), "");
    }
}
