//! What has changed from one release of Linux to the next: two records of the same cases.

use super::functions::{by_function, change};
use super::words::{EXIT, REGS};
use crate::grid::{Grid, Section};
use crate::interface::INTERFACES;
use crate::legend;
use crate::parts::Part;
use crate::record::{CaseRow, Profile, Record, Run, percent};
use crate::table::{self, ratio, value};

/// The figures whose functions the documents show: a row, and an interface.
const BY_FUNCTION: [(&str, &str); 3] = [(EXIT, "ioctl"), (EXIT, "bound"), (REGS, "ioctl")];

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
        let sections = [
            self.without_mitigations(),
            self.with_mitigations(),
            self.parts(),
        ];
        let functions = BY_FUNCTION.map(|(row, interface)| self.functions(row, interface));
        sections.into_iter().chain(functions).flatten().collect()
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
    fn without_mitigations(&self) -> Option<Section> {
        Section::new(
            "releases",
            self.title(""),
            "Both releases have the series, and were measured in the same machine without CPU\n\
             vulnerability mitigations, because each release chooses\n\
             [its own](#releases-mitigations) for a processor. [releases.md](releases.md)\n\
             has every row. The page of\n\
             [the series](../kernel-patch/linux-7.3/README.md#the-exit-path) has the reasons.",
            self.shares([self.old, self.new]),
        )
    }

    /// What a host with such a processor gets.
    fn with_mitigations(&self) -> Option<Section> {
        let [old, new] = self.usual.map(|run| &run.measured_on.mitigations);
        let differ = old.iter().filter_map(|(name, old)| {
            let new = new.get(name).filter(|new| *new != old)?;
            let [older, newer] = self.names();
            Some(format!(
                "\n- `{name}`: \"{old}\" on {older}, \"{new}\" on {newer}"
            ))
        });
        Section::new(
            "releases-mitigations",
            self.title(", with the mitigations that each chooses"),
            format!(
                "The same rows with mitigations on. These are not the same in both releases:\n{}",
                differ.collect::<String>()
            ),
            self.shares(self.usual),
        )
    }

    /// The heads of the columns of [`cells`].
    fn heads(&self) -> [String; 5] {
        let [old, new] = self.names();
        let [old_share, new_share] = [&old, &new].map(|name| format!("/ioctl on {name}"));
        [old, new, "change".into(), old_share, new_share]
    }

    /// The cost of ioctl, and the share of each form, in two runs.
    fn shares(&self, [before, after]: [&Run; 2]) -> Grid {
        let head = [format!("call, {}", self.unit), "interface".into()];
        let mut grid = Grid::new(head.into_iter().chain(self.heads()));
        let rows = rows(before, after);
        for (before, after) in rows.filter(|(_, row)| table::is_summary(&row.name)) {
            for interface in INTERFACES.into_iter().filter(|it| *it != table::KVM_IOCTLS) {
                if let Some(cells) = cells(before, after, interface) {
                    grid.push([&*after.name, interface], cells);
                }
            }
        }
        grid
    }

    /// The parts of an exit on both.
    fn parts(&self) -> Option<Section> {
        let [old, new] = self.names();
        let mut grid = Grid::new(["part"]);
        let mut profiles = Vec::new();
        for interface in ["ioctl", "bound"] {
            let columns = [&old, &new].map(|name| format!("{interface}, {name}"));
            grid.head.extend(columns);
            grid.head.push("change".into());
            profiles.push(self.profiles(EXIT, interface)?);
        }
        let mut push = |title: &str, count: &dyn Fn(&Profile) -> u64| {
            let counts = profiles.iter().map(|both| both.map(count));
            grid.push([title], counts.flat_map(change));
        };
        for part in Part::ALL {
            push(part.title(), &|it| {
                it.parts.get(&part).copied().unwrap_or_default()
            });
        }
        push("sum", &|it| it.instructions);
        Section::new(
            "releases-parts",
            self.title(": the parts of an exit"),
            format!(
                "The {} of {} by part. [profile.md](profile.md) says how they are recorded.",
                self.unit, EXIT
            ),
            grid,
        )
    }

    /// The profiles of a figure on both.
    fn profiles(&self, row: &str, interface: &str) -> Option<[&Profile; 2]> {
        let profile = |run: &'a Run| run.row(row)?.profile(interface);
        Some([profile(self.old)?, profile(self.new)?])
    }

    /// The functions of a figure that have changed the most.
    fn functions(&self, row: &str, interface: &str) -> Option<Section> {
        let [old, new] = self.profiles(row, interface)?;
        let mut counts = by_function(&old.stacks, &new.stacks);
        let sum = total(&counts);
        let others = total(&counts.split_off(counts.len().min(FUNCTIONS)));
        counts.extend([("all others", others), ("sum", sum)]);

        let [old, new] = self.names();
        let mut grid = Grid::new(["function", &old, &new, "change"]);
        for (name, counts) in counts {
            grid.push([name], change(counts));
        }
        Section::new(
            format!("releases-{row}-{interface}"),
            self.title(&format!(": {row} by {interface}, by function")),
            format!(
                "The {FUNCTIONS} functions whose own {} have changed the most. A function\n\
                 that the compiler has inlined counts for its caller.",
                self.unit
            ),
            grid,
        )
    }

    /// Every row of an interface.
    fn rows_by(&self, interface: &str) -> Option<Section> {
        // Ioctl has no share of itself.
        let columns = if interface == "ioctl" { 3 } else { 5 };
        let call = [format!("call, {}", self.unit)].into_iter();
        let mut grid = Grid::new(call.chain(self.heads().into_iter().take(columns)));
        for (before, after) in rows(self.old, self.new) {
            if let Some(cells) = cells(before, after, interface) {
                grid.push([&after.name], cells.into_iter().take(columns));
            }
        }
        Section::new(interface, format!("By {interface}"), "", grid)
    }
}

/// The rows that both runs have.
fn rows<'a>(old: &'a Run, new: &'a Run) -> impl Iterator<Item = (&'a CaseRow, &'a CaseRow)> {
    let rows = new.rows.iter();
    rows.filter_map(move |new| Some((old.row(&new.name)?, new)))
}

/// The figures of both by an interface, the change, and the shares of ioctl.
fn cells(before: &CaseRow, after: &CaseRow, interface: &str) -> Option<[Option<String>; 5]> {
    let change = after.value(interface)? / before.value(interface)?;
    let share = |row| ratio(row, interface, "ioctl").filter(|_| interface != "ioctl");
    Some([
        value(before, interface),
        value(after, interface),
        Some(format!("{:+.1} %", percent(change))),
        share(before),
        share(after),
    ])
}

/// The sums of counts.
fn total(counts: &[(&str, [u64; 2])]) -> [u64; 2] {
    [0, 1].map(|side| counts.iter().map(|(_, it)| it[side]).sum())
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
        let row = compared(&mut new).find(|it| it.name == REGS);
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
            line.contains(REGS) && line.contains(&before.to_string()),
            "{line}"
        );
    }

    #[test]
    fn functions_are_ordered_by_their_change_and_add_up() {
        let (mut old, mut new) = (kept(), kept());
        for (record, counts) in [(&mut old, [10, 20, 3]), (&mut new, [12, 5, 3])] {
            let row = compared(record).find(|it| it.name == EXIT);
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
