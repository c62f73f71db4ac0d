//! The result of a check: a table of what was checked, and the findings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, Color, ContentArrangement, Table};
use serde::{Deserialize, Serialize};

use super::configurations;
use crate::kbuild::Series;

// The names of the checks, which are columns of the table beside the configurations.
pub(super) const AM: &str = "am";
pub(super) const CHECKPATCH: &str = "checkpatch";
pub(super) const EXTRA: &str = "W=1";
pub(super) const SPARSE: &str = "sparse";
pub(super) const DOCS: &str = "docs";
pub(super) const SELFTESTS: &str = "selftests";
pub(super) const MAN: &str = "man";

/// The number of the row of the manual pages, which is above the patches.
pub(super) const PAGES: usize = 0;

/// The most lines of one finding that the table quotes from its log.
const LINES: usize = 10;

/// How one check of one patch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckOutcome {
    /// Nothing is wrong.
    Passed,
    /// The patch changes nothing that the kernel of this configuration is built from.
    Unchanged,
    /// Something is wrong.
    Failed,
    /// A check that it depends on failed, so its result would mean nothing.
    Void,
    /// The check was not made: it is not part of a sample, was not asked for, or is made
    /// only after the last patch.
    LeftOut,
}

/// The findings of one check of one patch.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The patch's number; 0 for the manual pages.
    pub number: usize,
    /// Its file name.
    pub patch: String,
    /// The check.
    pub check: &'static str,
    /// The findings, line by line.
    pub found: Vec<String>,
    /// The file with all output.
    pub log: PathBuf,
}

/// The checks of one patch, or of the manual pages, which are above the patches.
#[derive(Clone, Debug)]
pub struct PatchReview {
    /// The patch's number in the series, from 1; 0 for the manual pages.
    pub number: usize,
    /// Its file name.
    pub patch: String,
    /// How each check ended, by the name of its column.
    pub checks: BTreeMap<&'static str, CheckOutcome>,
    /// The number of checkpatch's remarks that are listed with a reason.
    pub excepted: usize,
}

/// The result of a check.
#[derive(Clone, Debug)]
pub struct Review {
    /// The columns, in their order.
    pub columns: Vec<&'static str>,
    /// The manual pages and the patches.
    pub rows: Vec<PatchReview>,
    /// The findings.
    pub failures: Vec<Finding>,
}

impl Review {
    /// A review without any results.
    pub(super) fn new(series: &Series) -> Self {
        let configurations = configurations::ALL.iter().map(|it| it.name);
        let columns: Vec<_> = [AM, CHECKPATCH]
            .into_iter()
            .chain(configurations)
            .chain([EXTRA, SPARSE, DOCS, SELFTESTS])
            .collect();
        let row = |number, name: &str, checks: &[&'static str]| PatchReview {
            number,
            patch: name.into(),
            checks: checks.iter().map(|it| (*it, CheckOutcome::Void)).collect(),
            excepted: 0,
        };
        let patches = series.patches.iter().zip(1..);
        let patches = patches.map(|(patch, number)| row(number, &patch.name, &columns));
        let rows: Vec<_> = [row(PAGES, "docs/man", &[MAN])]
            .into_iter()
            .chain(patches)
            .collect();
        let columns = columns.into_iter().chain([MAN]).collect();
        Self {
            rows,
            columns,
            failures: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, number: usize) -> &mut PatchReview {
        &mut self.rows[number]
    }

    pub(super) fn set(&mut self, number: usize, check: &'static str, outcome: CheckOutcome) {
        self.row(number).checks.insert(check, outcome);
    }

    /// Records the result of a check: passed, unless it found something.
    pub(super) fn record(
        &mut self,
        number: usize,
        check: &'static str,
        found: Vec<String>,
        log: PathBuf,
    ) {
        if found.is_empty() {
            self.set(number, check, CheckOutcome::Passed);
            return;
        }
        self.set(number, check, CheckOutcome::Failed);
        let patch = self.row(number).patch.clone();
        self.failures.push(Finding {
            number,
            patch,
            check,
            found,
            log,
        });
    }

    /// Drops the patches that the user did not ask for. If one of them does not apply, its
    /// finding stays, because the later ones depend on it.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(usize) -> bool) {
        let apply = |it: &Finding| is_wanted(it.number) || it.check == AM;
        self.failures.retain(apply);
        self.rows.retain(|row| is_wanted(row.number));
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.failures.is_empty() && !self.has(CheckOutcome::Void)
    }

    fn has(&self, outcome: CheckOutcome) -> bool {
        let mut outcomes = self.rows.iter().flat_map(|row| row.checks.values());
        outcomes.any(|it| *it == outcome)
    }

    /// The table and the findings as text.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_style(UTF8_HORIZONTAL_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(["patch"].iter().chain(&self.columns));
        for row in &self.rows {
            let cells = self.columns.iter().map(|it| match row.checks.get(it) {
                None => Cell::new(""),
                Some(CheckOutcome::Passed) => Cell::new("ok").fg(Color::Green),
                Some(CheckOutcome::Unchanged) => Cell::new("=").fg(Color::Green),
                Some(CheckOutcome::Failed) => Cell::new("FAILED").fg(Color::Red),
                Some(CheckOutcome::Void) => Cell::new("void").fg(Color::Yellow),
                Some(CheckOutcome::LeftOut) => Cell::new("-"),
            });
            let head = match row.number {
                PAGES => Cell::new(&row.patch),
                number => Cell::new(number),
            };
            table.add_row([head].into_iter().chain(cells));
        }
        let mut text = table.to_string();
        if self.has(CheckOutcome::Unchanged) {
            text += "\n=: the patch changes no file that this kernel is built from";
        }
        if self.has(CheckOutcome::LeftOut) {
            text += "\n-: left out: not in a sample, not asked for, or not before the last patch";
        }
        if self.has(CheckOutcome::Void) {
            text += "\nvoid: not known, because an earlier check failed";
        }
        let excepted: usize = self.rows.iter().map(|row| row.excepted).sum();
        if excepted > 0 {
            text += &format!("\ncheckpatch: {excepted} remarks are listed with a reason");
        }
        for failure in &self.failures {
            text += &format!(
                "\n\nFAILED {}, {}: {}",
                failure.patch,
                failure.check,
                failure.log.display()
            );
            for line in failure.found.iter().take(LINES) {
                text += &format!("\n    {}", line.replace('\n', "\n    "));
            }
            if let Some(more @ 1..) = failure.found.len().checked_sub(LINES) {
                text += &format!("\n    and {more} more");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(outcome: CheckOutcome, found: usize) -> Review {
        let failure = Finding {
            number: 3,
            patch: "0003-KVM.patch".into(),
            check: "sparse",
            found: (0..found).map(|n| format!("line {n}")).collect(),
            log: "03-module.log".into(),
        };
        Review {
            columns: vec!["sparse"],
            rows: vec![PatchReview {
                number: 3,
                patch: "0003-KVM.patch".into(),
                checks: [("sparse", outcome)].into(),
                excepted: 0,
            }],
            failures: if found > 0 { vec![failure] } else { vec![] },
        }
    }

    #[test]
    fn a_failure_is_shown_with_its_log() {
        let review = review(CheckOutcome::Failed, LINES + 2);
        assert!(!review.holds());
        let text = review.table();
        assert!(text.contains("FAILED 0003-KVM.patch, sparse: 03-module.log\n    line 0\n"));
        assert!(text.ends_with("line 9\n    and 2 more"), "{text}");
    }

    #[test]
    fn a_row_shows_the_checks_that_it_has() {
        let mut review = review(CheckOutcome::Passed, 0);
        review.columns.push(MAN);
        review.rows.push(PatchReview {
            number: PAGES,
            patch: "docs/man".into(),
            checks: [(MAN, CheckOutcome::Void)].into(),
            excepted: 0,
        });
        assert!(!review.holds());
        let text = review.table();
        let line = |head: &str| {
            let mut lines = text.lines().map(|line| line.split_whitespace().collect());
            lines.find(|cells: &Vec<_>| cells.first() == Some(&head))
        };
        assert_eq!(line("3"), Some(vec!["3", "ok"]));
        assert_eq!(line("docs/man"), Some(vec!["docs/man", "void"]));
    }

    #[test]
    fn left_out_checks_are_explained() {
        let left_out = review(CheckOutcome::LeftOut, 0);
        assert!(left_out.holds());
        assert!(left_out.table().ends_with(
            "\n-: left out: not in a sample, not asked for, or not before the last patch"
        ));
        assert!(!review(CheckOutcome::Passed, 0).table().contains("left out"));
    }
}
