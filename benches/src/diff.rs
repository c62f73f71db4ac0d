//! The changes between two comparisons, call by call.

use anyhow::{Result, ensure};

use crate::grid::Grid;
use crate::record::{Record, Run, percent};

/// The difference of two comparisons.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// The figures that changed, in the order of the new comparison.
    pub changed: Vec<Change>,
    /// The number of figures that did not change.
    pub unchanged: usize,
    /// The figures that only one of the two has, and which one it is.
    pub alone: Vec<(String, &'static str)>,
}

/// A figure that changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The condition under which it was measured.
    pub condition: String,
    /// The case.
    pub name: String,
    /// The interface.
    pub interface: String,
    /// Before.
    pub old: f64,
    /// After.
    pub new: f64,
}

impl Change {
    /// The growth of the figure in per cent.
    #[must_use]
    pub fn percent(&self) -> f64 {
        percent(self.new / self.old)
    }
}

impl Diff {
    /// Compares two comparisons.
    ///
    /// # Errors
    ///
    /// If their units differ.
    pub fn new(old: &Record, new: &Record) -> Result<Self> {
        ensure!(
            old.unit == new.unit,
            "one is in {}, the other in {}",
            old.unit,
            new.unit
        );
        let mut diff = Self::default();
        for (condition, run) in new.named() {
            let before = named(old, &condition);
            for (name, interface, value) in figures(run) {
                match find(before, name, interface) {
                    None => diff.lone(&condition, name, interface, "new"),
                    Some(old) if old == value => diff.unchanged += 1,
                    Some(old) => diff.changed.push(Change {
                        condition: condition.clone(),
                        name: name.into(),
                        interface: interface.into(),
                        old,
                        new: value,
                    }),
                }
            }
        }
        for (condition, run) in old.named() {
            let after = named(new, &condition);
            for (name, interface, _) in figures(run) {
                if find(after, name, interface).is_none() {
                    diff.lone(&condition, name, interface, "old");
                }
            }
        }
        Ok(diff)
    }

    fn lone(&mut self, condition: &str, name: &str, interface: &str, which: &'static str) {
        let what = format!("{name}/{interface} with {condition}");
        self.alone.push((what, which));
    }

    /// The figures that grew by more than `threshold` per cent.
    pub fn past(&self, threshold: f64) -> impl Iterator<Item = &Change> {
        let past = move |change: &&Change| change.percent() > threshold;
        self.changed.iter().filter(past)
    }

    /// The changes as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.changed.is_empty() {
            text.push_str(&self.grid().markdown());
            text.push('\n');
        }
        for (what, which) in &self.alone {
            text.push_str(&format!("Only in the {which} record: {what}\n"));
        }
        let (changed, unchanged) = (self.changed.len(), self.unchanged);
        text.push_str(&format!(
            "{changed} figures changed, {unchanged} did not.\n"
        ));
        text
    }

    fn grid(&self) -> Grid {
        let words = ["call", "interface", "condition"];
        let numbers = ["old", "new", "change", "in %"];
        let mut grid = Grid::new(words.into_iter().chain(numbers));
        for it in &self.changed {
            let numbers = [
                format!("{:.0}", it.old),
                format!("{:.0}", it.new),
                format!("{:+.0}", it.new - it.old),
                format!("{:+.2}", it.percent()),
            ];
            let words = [&it.name, &it.interface, &it.condition];
            grid.push(words, numbers.map(Some));
        }
        grid
    }
}

fn named<'a>(record: &'a Record, condition: &str) -> Option<&'a Run> {
    let mut runs = record.named();
    runs.find_map(|(name, run)| (name == condition).then_some(run))
}

fn figures(run: &Run) -> impl Iterator<Item = (&str, &str, f64)> {
    run.rows.iter().flat_map(|row| {
        let figures = row.figures.iter();
        figures.filter_map(|(interface, figure)| Some((&*row.name, &**interface, figure.value()?)))
    })
}

fn find(run: Option<&Run>, name: &str, interface: &str) -> Option<f64> {
    run?.row(name)?.value(interface)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Unit;

    /// The kept record.
    fn kept() -> Record {
        serde_json::from_str(include_str!("../../docs/results.json")).unwrap()
    }

    #[test]
    fn a_run_does_not_differ_from_itself() {
        let diff = Diff::new(&kept(), &kept()).unwrap();
        assert_eq!((diff.changed.len(), diff.alone.len()), (0, 0));
        assert!(diff.unchanged > 50);
    }

    #[test]
    fn only_growth_is_a_regression() {
        let (old, mut new) = (kept(), kept());
        for row in &mut new.runs[0].rows {
            for (interface, figure) in &mut row.figures {
                let count = figure.exact.as_mut().unwrap();
                match (&*row.name, &**interface) {
                    ("kvm_get_regs", "syscall") => count.mode += 100,
                    ("kvm_set_regs", "ioctl") => count.mode -= 100,
                    _ => {}
                }
            }
        }
        let diff = Diff::new(&old, &new).unwrap();
        assert_eq!(diff.changed.len(), 2);
        let past: Vec<_> = diff
            .past(1.0)
            .map(|it| (&*it.name, &*it.interface))
            .collect();
        assert_eq!(past, [("kvm_get_regs", "syscall")]);
        assert_eq!(diff.past(50.0).count(), 0);
    }

    #[test]
    fn a_figure_of_only_one_record_is_named() {
        let (old, mut new) = (kept(), kept());
        new.runs[0].rows[1].figures.remove("syscall");
        let diff = Diff::new(&old, &new).unwrap();
        let [(what, "old")] = &diff.alone[..] else {
            panic!("{:?}", diff.alone);
        };
        assert!(what.starts_with(&new.runs[0].rows[1].name), "{what}");
    }

    #[test]
    fn other_units_are_refused() {
        let mut new = kept();
        new.unit = Unit::Nanoseconds;
        assert!(Diff::new(&kept(), &new).is_err());
    }
}
