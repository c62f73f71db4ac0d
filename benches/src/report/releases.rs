//! What has changed from one release of Linux to the next: two records of the same cases.

use std::collections::{BTreeMap, BTreeSet};

use profile::fold::Folded;

use super::answer;
use crate::grid::{Cell, Grid};
use crate::interface::INTERFACES;
use crate::legend;
use crate::parts::Part;
use crate::record::{CaseRow, Profile, Record, Run, percent};
use crate::table::{self, Section};

/// The figures whose functions the documents show: a row, and an interface.
const BY_FUNCTION: [(&str, &str); 3] = [
    (answer::EXIT, "ioctl"),
    (answer::EXIT, "bound"),
    (answer::REGS, "ioctl"),
];

/// The number of functions that a table names.
const FUNCTIONS: usize = 16;

/// Whether the documents show the functions of a figure, so that a kept record needs them.
#[must_use]
pub fn shows_functions(condition: &str, row: &str, interface: &str) -> bool {
    condition == CONDITION && BY_FUNCTION.contains(&(row, interface))
}

/// The condition under which the releases are compared. Each release of Linux chooses the
/// mitigations of a processor anew, and another choice would hide what the code has become.
const CONDITION: &str = "mitigations off, seccomp none";

/// The runs of two records.
pub struct Releases<'a> {
    old: &'a Run,
    new: &'a Run,
    /// The runs with the mitigations that each release chooses.
    usual: [&'a Run; 2],
    unit: String,
}

impl<'a> Releases<'a> {
    /// The two releases, if both were measured.
    #[must_use]
    pub fn new(old: &'a Record, new: &'a Record) -> Option<Self> {
        Some(Self {
            old: old.run(CONDITION)?,
            new: new.run(CONDITION)?,
            usual: [old.runs.first()?, new.runs.first()?],
            unit: new.unit.to_string(),
        })
    }

    /// The names of the two releases, such as 6.12 and 7.3.
    #[must_use]
    pub fn names(&self) -> [String; 2] {
        [self.old, self.new].map(|run| {
            let numbers = run.measured_on.kernel.split('.').take(2);
            numbers.collect::<Vec<_>>().join(".")
        })
    }

    /// The machines of both, with the mitigations that each release chooses.
    #[must_use]
    pub fn machines(&self) -> [String; 2] {
        self.usual.map(legend::machine)
    }

    /// The rows that stand for all, and where the instructions of some of them went.
    #[must_use]
    pub fn summary(&self) -> Vec<Section> {
        let mut sections = vec![self.without_mitigations(), self.with_mitigations()];
        sections.extend(self.parts());
        let functions = BY_FUNCTION.into_iter();
        sections.extend(functions.filter_map(|(row, interface)| self.functions(row, interface)));
        sections
    }

    /// Every row of every interface.
    #[must_use]
    pub fn every_row(&self) -> Vec<Section> {
        let interfaces = INTERFACES.into_iter();
        interfaces.filter_map(|it| self.rows_by(it)).collect()
    }

    fn title(&self, text: &str) -> String {
        let [old, new] = self.names();
        format!("From Linux {old} to {new}{text}")
    }

    /// What the code has become.
    fn without_mitigations(&self) -> Section {
        Section {
            id: "releases".into(),
            title: self.title(""),
            text:
                "Both releases have the series, and were measured in the same machine without CPU\n\
                   vulnerability mitigations, because each release chooses\n\
                   [its own](#releases-mitigations) for a processor. [releases.md](releases.md)\n\
                   has every row. The page of\n\
                   [the series](../kernel-patch/linux-7.3/README.md#the-exit-path) has the reasons."
                    .into(),
            grid: self.shares([self.old, self.new]),
        }
    }

    /// What a host with such a processor gets.
    fn with_mitigations(&self) -> Section {
        let [old, new] = self.usual.map(|run| &run.measured_on.mitigations);
        let differ = old.iter().filter_map(|(name, old)| {
            let new = new.get(name).filter(|new| *new != old)?;
            let [older, newer] = self.names();
            Some(format!(
                "\n- `{name}`: \"{old}\" on {older}, \"{new}\" on {newer}"
            ))
        });
        Section {
            id: "releases-mitigations".into(),
            title: self.title(", with the mitigations that each chooses"),
            text: format!(
                "The same rows with mitigations on. These are not the same in both releases:\n{}",
                differ.collect::<String>()
            ),
            grid: self.shares(self.usual),
        }
    }

    /// The cost of ioctl, and the share of each form, in two runs.
    fn shares(&self, [before, after]: [&Run; 2]) -> Grid {
        let [old, new] = self.names();
        let head = [format!("call, {}", self.unit), "interface".into(), old, new];
        let head = head.into_iter().chain([
            "change".into(),
            format!("/ioctl on {}", self.names()[0]),
            format!("/ioctl on {}", self.names()[1]),
        ]);
        let mut grid = Grid::new(head);
        let rows = rows(before, after);
        for (before, after) in rows.filter(|(_, row)| table::is_summary(&row.name)) {
            for interface in INTERFACES.into_iter().filter(|it| *it != table::KVM_IOCTLS) {
                let Some(cells) = cells(before, after, interface) else {
                    continue;
                };
                let name = [&*after.name, interface].map(Cell::words);
                grid.rows.push(name.into_iter().chain(cells).collect());
            }
        }
        grid
    }

    /// The parts of an exit on both.
    fn parts(&self) -> Option<Section> {
        let [old, new] = self.names();
        let interfaces = ["ioctl", "bound"];
        let columns = interfaces.iter().flat_map(|interface| {
            let columns = [&old, &new].map(|name| format!("{interface}, {name}"));
            columns.into_iter().chain(["change".into()])
        });
        let mut grid = Grid::new(["part".to_owned()].into_iter().chain(columns));
        let profiles = |interface: &str| {
            let profile = |run| profile(run, answer::EXIT, interface);
            Some((profile(self.old)?, profile(self.new)?))
        };
        let profiles: Vec<_> = interfaces
            .into_iter()
            .map(profiles)
            .collect::<Option<_>>()?;
        let mut push = |title: &str, count: &dyn Fn(&Profile) -> u64| {
            let counts = profiles.iter().map(|(old, new)| (count(old), count(new)));
            grid.push(
                title,
                counts.flat_map(|(old, new)| change(old, new)).map(Some),
            );
        };
        for part in Part::ALL {
            push(part.title(), &|it| {
                it.parts.get(&part).copied().unwrap_or_default()
            });
        }
        push("sum", &|it| it.instructions);
        Some(Section {
            id: "releases-parts".into(),
            title: self.title(": the parts of an exit"),
            text: format!(
                "The {} of {} by part. [profile.md](profile.md) says how they are recorded.",
                self.unit,
                answer::EXIT
            ),
            grid,
        })
    }

    /// The functions of a figure that have changed the most.
    fn functions(&self, row: &str, interface: &str) -> Option<Section> {
        let functions = |run| Some(by_function(&profile(run, row, interface)?.stacks));
        let (old, new) = (functions(self.old)?, functions(self.new)?);
        let names: BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
        let count = |side: &BTreeMap<_, _>, name| side.get(name).copied().unwrap_or_default();
        let mut counts: Vec<(&str, u64, u64)> = names
            .into_iter()
            .map(|name| (name, count(&old, name), count(&new, name)))
            .collect();
        let sum = counts
            .iter()
            .fold((0, 0), |sum, it| (sum.0 + it.1, sum.1 + it.2));
        counts.sort_by_key(|(_, old, new)| std::cmp::Reverse(old.abs_diff(*new)));
        let others = counts.split_off(counts.len().min(FUNCTIONS));
        let others = others
            .iter()
            .fold((0, 0), |sum, it| (sum.0 + it.1, sum.1 + it.2));

        let mut grid = Grid::new(["function".to_owned()].into_iter().chain(self.names()));
        grid.head.push("change".into());
        for (name, old, new) in counts {
            grid.push(name, change(old, new).map(Some));
        }
        grid.push("all others", change(others.0, others.1).map(Some));
        grid.push("sum", change(sum.0, sum.1).map(Some));
        Some(Section {
            id: format!("releases-{row}-{interface}"),
            title: self.title(&format!(": {row} by {interface}, by function")),
            text: format!(
                "The {FUNCTIONS} functions whose own {} have changed the most. A function\n\
                 that the compiler has inlined counts for its caller.",
                self.unit
            ),
            grid,
        })
    }

    /// Every row of an interface.
    fn rows_by(&self, interface: &str) -> Option<Section> {
        let [old, new] = self.names();
        let head = [format!("call, {}", self.unit), old, new, "change".into()];
        let mut grid = Grid::new(head);
        let shares = interface != "ioctl";
        if shares {
            let heads = self.names().map(|name| format!("/ioctl on {name}"));
            grid.head.extend(heads);
        }
        for (before, after) in rows(self.old, self.new) {
            let Some(cells) = cells(before, after, interface) else {
                continue;
            };
            let cells = cells.into_iter().take(if shares { 5 } else { 3 });
            let name = [Cell::words(&after.name)];
            grid.rows.push(name.into_iter().chain(cells).collect());
        }
        (!grid.rows.is_empty()).then(|| Section {
            id: interface.into(),
            title: format!("By {interface}"),
            text: String::new(),
            grid,
        })
    }
}

/// The rows that both runs have.
fn rows<'a>(old: &'a Run, new: &'a Run) -> impl Iterator<Item = (&'a CaseRow, &'a CaseRow)> {
    let rows = new.rows.iter();
    rows.filter_map(move |new| Some((old.row(&new.name)?, new)))
}

/// The figures of both by an interface, the change, and the shares of ioctl.
fn cells(before: &CaseRow, after: &CaseRow, interface: &str) -> Option<[Cell; 5]> {
    let old = before.figures.get(interface)?.value()?;
    let new = after.figures.get(interface)?.value()?;
    let share = |row: &CaseRow| {
        let share = row
            .share(interface, "ioctl")
            .filter(|_| interface != "ioctl");
        share.map(|it| format!("{it:.3}"))
    };
    let texts = [
        Some(format!("{old:.0}")),
        Some(format!("{new:.0}")),
        Some(format!("{:+.1} %", percent(new / old))),
        share(before),
        share(after),
    ];
    Some(texts.map(Cell::number))
}

fn change(old: u64, new: u64) -> [String; 3] {
    let change = new.cast_signed() - old.cast_signed();
    [old.to_string(), new.to_string(), format!("{change:+}")]
}

fn profile<'a>(run: &'a Run, row: &str, interface: &str) -> Option<&'a Profile> {
    run.row(row)?.figures.get(interface)?.profile.as_ref()
}

/// The instructions of each function itself.
fn by_function(stacks: &Folded) -> BTreeMap<&str, u64> {
    let mut counts = BTreeMap::new();
    for (stack, count) in stacks {
        let function = stack.rsplit(';').next().unwrap_or_default();
        *counts.entry(function).or_default() += count;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Record {
        serde_json::from_str(include_str!("../../../docs/results.json")).unwrap()
    }

    /// The rows that are compared.
    fn compared(record: &mut Record) -> impl Iterator<Item = &mut CaseRow> {
        let run = record.runs.iter_mut();
        let run = run.filter(|it| it.condition() == CONDITION);
        run.flat_map(|it| &mut it.rows)
    }

    fn text(sections: &[Section], id: &str) -> String {
        let section = sections.iter().find(|it| it.id == id);
        section.unwrap().grid.markdown()
    }

    #[test]
    fn each_change_is_shown_in_its_row() {
        let (old, mut new) = (kept(), kept());
        let row = compared(&mut new).find(|it| it.name == answer::REGS);
        let figure = row.unwrap().figures.get_mut("ioctl").unwrap();
        let count = figure.exact.as_mut().unwrap();
        let before = count.mode;
        count.mode *= 2;
        let releases = Releases::new(&old, &new).unwrap();
        let text = text(&releases.every_row(), "ioctl");
        let changed: Vec<_> = text
            .lines()
            .filter(|line| line.contains("+100.0 %"))
            .collect();
        let [line] = changed[..] else {
            panic!("{text}");
        };
        assert!(
            line.contains(answer::REGS) && line.contains(&before.to_string()),
            "{line}"
        );
    }

    #[test]
    fn functions_are_ordered_by_their_change_and_add_up() {
        let (mut old, mut new) = (kept(), kept());
        for (record, counts) in [(&mut old, [10, 20, 3]), (&mut new, [12, 5, 3])] {
            let row = compared(record).find(|it| it.name == answer::EXIT);
            let figure = row.unwrap().figures.get_mut("ioctl").unwrap();
            let stacks = ["a;b", "a;b;c", "a"]
                .map(String::from)
                .into_iter()
                .zip(counts);
            figure.profile.as_mut().unwrap().stacks = stacks.collect();
        }
        let releases = Releases::new(&old, &new).unwrap();
        let text = text(&releases.summary(), "releases-kvm_run_pio_out-ioctl");
        let cells = |line: &str| -> Vec<String> {
            let cells = line.split('|').map(str::trim);
            cells
                .filter(|it| !it.is_empty())
                .map(String::from)
                .collect()
        };
        let lines: Vec<_> = text.lines().skip(2).map(cells).collect();
        let expected = [
            ["c", "20", "5", "-15"],
            ["b", "10", "12", "+2"],
            ["a", "3", "3", "+0"],
            ["all others", "0", "0", "+0"],
            ["sum", "33", "20", "-13"],
        ];
        assert_eq!(lines, expected);
    }
}
