//! What was checked, and what was found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, Color, ContentArrangement, Table};
use serde::Serialize;

use super::{AM, CHECKPATCH, DOCS, EXTRA, MAN, PAGES, SELFTESTS, SPARSE, configurations};
use crate::host::error::Result;
use crate::host::files;
use crate::kbuild::series::Series;

/// The most lines of one failure that are told outside of its log.
const LINES: usize = 10;

/// How one check of one patch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing is wrong.
    Passed,
    /// Something is.
    Failed,
    /// What it stands on failed, so that it says nothing.
    Void,
    /// A sample does without it, or each patch but the last.
    LeftOut,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The patch's number; 0 for the manual pages.
    pub number: usize,
    /// Its file name.
    pub patch: String,
    /// The check.
    pub check: &'static str,
    /// What was found, line by line.
    pub found: Vec<String>,
    /// All of the output.
    pub log: PathBuf,
}

/// One patch; or, above them, the manual pages.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its number in the series, from 1; the pages have 0.
    pub number: usize,
    /// Its file name.
    pub patch: String,
    /// The checks that it has, by the names of the columns.
    pub checks: BTreeMap<&'static str, Outcome>,
    /// Remarks of checkpatch that are listed with their reasons.
    pub excepted: usize,
}

/// All that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The name of what the series changes.
    pub series: String,
    /// Whether it was a sample.
    pub sample: bool,
    /// How long it took.
    pub seconds: u64,
    /// The columns, in their order.
    pub columns: Vec<&'static str>,
    /// The manual pages and the patches.
    pub rows: Vec<Row>,
    /// What is wrong.
    pub failures: Vec<Failure>,
}

impl Report {
    /// One in which nothing is checked yet.
    pub(super) fn new(series: &Series, sample: bool) -> Self {
        let configurations = configurations::ALL.iter().map(|it| it.name);
        let columns: Vec<_> = [AM, CHECKPATCH]
            .into_iter()
            .chain(configurations)
            .chain([EXTRA, SPARSE, DOCS, SELFTESTS])
            .collect();
        let row = |number, name: &str, checks: &[&'static str]| Row {
            number,
            patch: name.into(),
            checks: checks.iter().map(|it| (*it, Outcome::Void)).collect(),
            excepted: 0,
        };
        let patches = series.patches().iter().zip(1..);
        let patches = patches.map(|(patch, number)| row(number, patch.name(), &columns));
        let rows: Vec<_> = [row(PAGES, "docs/man", &[MAN])]
            .into_iter()
            .chain(patches)
            .collect();
        let columns = columns.into_iter().chain([MAN]).collect();
        Self {
            series: series.id(),
            sample,
            seconds: 0,
            rows,
            columns,
            failures: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, number: usize) -> &mut Row {
        &mut self.rows[number]
    }

    pub(super) fn set(&mut self, number: usize, check: &'static str, outcome: Outcome) {
        self.row(number).checks.insert(check, outcome);
    }

    /// A check that found something, or nothing.
    pub(super) fn judge(
        &mut self,
        number: usize,
        check: &'static str,
        found: Vec<String>,
        log: PathBuf,
    ) {
        if found.is_empty() {
            self.set(number, check, Outcome::Passed);
            return;
        }
        self.set(number, check, Outcome::Failed);
        let patch = self.row(number).patch.clone();
        self.failures.push(Failure {
            number,
            patch,
            check,
            found,
            log,
        });
    }

    /// Drops the patches that nobody asked for, unless one does not apply: the
    /// later ones stand on it.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(usize) -> bool) {
        let apply = |it: &Failure| is_wanted(it.number) || it.check == AM;
        self.failures.retain(apply);
        self.rows.retain(|row| is_wanted(row.number));
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    ///
    /// What kept the file from being written.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).expect("texts and numbers become JSON");
        files::write(path, &json)
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn holds(&self) -> bool {
        let mut outcomes = self.rows.iter().flat_map(|row| row.checks.values());
        self.failures.is_empty() && !outcomes.any(|it| *it == Outcome::Void)
    }

    /// What a person reads.
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
                Some(Outcome::Passed) => Cell::new("ok").fg(Color::Green),
                Some(Outcome::Failed) => Cell::new("FAILED").fg(Color::Red),
                Some(Outcome::Void) => Cell::new("void").fg(Color::Yellow),
                Some(Outcome::LeftOut) => Cell::new("-"),
            });
            let head = match row.number {
                PAGES => Cell::new(&row.patch),
                number => Cell::new(number),
            };
            table.add_row([head].into_iter().chain(cells));
        }
        let mut text = table.to_string();
        let all = |outcome| {
            let mut all = self.rows.iter().flat_map(|row| row.checks.values());
            all.any(|it| *it == outcome)
        };
        if all(Outcome::LeftOut) {
            text += "\n-: left out, of a sample or until the last patch";
        }
        if all(Outcome::Void) {
            text += "\nvoid: says nothing, since something before it failed";
        }
        let excepted: usize = self.rows.iter().map(|row| row.excepted).sum();
        if excepted > 0 {
            text +=
                &format!("\ncheckpatch: {excepted} remarks stay, for the reasons that are listed");
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

    fn report(outcome: Outcome, found: usize) -> Report {
        let failure = Failure {
            number: 3,
            patch: "0003-KVM.patch".into(),
            check: "sparse",
            found: (0..found).map(|n| format!("line {n}")).collect(),
            log: "03-module.log".into(),
        };
        Report {
            series: "stock".into(),
            sample: false,
            seconds: 1,
            columns: vec!["sparse"],
            rows: vec![Row {
                number: 3,
                patch: "0003-KVM.patch".into(),
                checks: [("sparse", outcome)].into(),
                excepted: 0,
            }],
            failures: if found > 0 { vec![failure] } else { vec![] },
        }
    }

    #[test]
    fn a_failure_is_told_with_its_log() {
        let report = report(Outcome::Failed, LINES + 2);
        assert!(!report.holds());
        let text = report.table();
        assert!(text.contains("FAILED 0003-KVM.patch, sparse: 03-module.log\n    line 0\n"));
        assert!(text.ends_with("line 9\n    and 2 more"), "{text}");
    }

    #[test]
    fn a_row_shows_the_checks_that_it_has() {
        let mut report = report(Outcome::Passed, 0);
        report.columns.push(MAN);
        report.rows.push(Row {
            number: PAGES,
            patch: "docs/man".into(),
            checks: [(MAN, Outcome::Void)].into(),
            excepted: 0,
        });
        assert!(!report.holds());
        let text = report.table();
        let line = |head: &str| {
            let mut lines = text.lines().map(|line| line.split_whitespace().collect());
            lines.find(|cells: &Vec<_>| cells.first() == Some(&head))
        };
        assert_eq!(line("3"), Some(vec!["3", "ok"]));
        assert_eq!(line("docs/man"), Some(vec!["docs/man", "void"]));
    }

    #[test]
    fn what_was_left_out_is_told() {
        let left_out = report(Outcome::LeftOut, 0);
        assert!(left_out.holds());
        assert!(
            left_out
                .table()
                .ends_with("\n-: left out, of a sample or until the last patch")
        );
        assert!(!report(Outcome::Passed, 0).table().contains("left out"));
    }
}
