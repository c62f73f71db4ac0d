//! Checks each patch of the series by itself, as its reviewers would.

mod builds;
mod checkpatch;
mod configurations;
mod docs;
mod man;
mod report;
mod selftests;
mod warnings;
mod worktree;

use std::path::{Path, PathBuf};
use std::time::Instant;

use self::builds::Builds;
use self::checkpatch::Exceptions;
use self::docs::Docs;
use self::worktree::Worktree;
use crate::host::error::{Error, Result};
use crate::host::lock::Lock;
use crate::host::{files, needs, packages, paths, process};
use crate::kbuild::kernel;
use crate::kbuild::series::{self, Patch, Series};
use crate::kbuild::source::Source;

pub use self::report::{Failure, Outcome, Report, Row};

const AM: &str = "am";
const CHECKPATCH: &str = "checkpatch";
const EXTRA: &str = "W=1";
const SPARSE: &str = "sparse";
const DOCS: &str = "docs";
const SELFTESTS: &str = "selftests";
const MAN: &str = "man";

/// The number of the row of the manual pages, which stands above the patches.
const PAGES: usize = 0;

/// What is to be checked.
#[derive(Clone, Debug, Default)]
pub struct Check {
    patches: Option<PathBuf>,
    source: Option<PathBuf>,
    only: Option<usize>,
    sample: bool,
    wait: bool,
}

impl Check {
    /// The whole series of this crate, on the source that was last built from.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The directory of another series.
    #[must_use]
    pub fn patches(mut self, dir: impl Into<PathBuf>) -> Self {
        self.patches = Some(dir.into());
        self
    }

    /// A tree or a tarball of the source.
    #[must_use]
    pub fn source(mut self, source: impl Into<PathBuf>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// One patch only, by its number from 1.
    #[must_use]
    pub fn only(mut self, number: usize) -> Self {
        self.only = Some(number);
        self
    }

    /// Whether to do no more than fits into some minutes.
    #[must_use]
    pub fn sample(mut self, sample: bool) -> Self {
        self.sample = sample;
        self
    }

    /// Whether to wait for another check to end, rather than to fail.
    #[must_use]
    pub fn wait(mut self, wait: bool) -> Self {
        self.wait = wait;
        self
    }

    /// Checks, and says on stderr how far it has come.
    ///
    /// # Errors
    ///
    /// What kept it from checking. What it finds wrong is in the report.
    pub fn run(&self) -> Result<Report> {
        let started = Instant::now();
        let dir = self.patches.clone().map_or_else(series::directory, Ok)?;
        // The tools start in the source.
        let dir = std::path::absolute(&dir).map_err(Error::io("find", &dir))?;
        let series = Series::read(&dir)?;
        let exceptions = Exceptions::read(&dir)?;
        let count = series.patches().len();
        if let Some(number) = self.only.filter(|it| !(1..=count).contains(it)) {
            return Err(Error::NoSuchPatch { number, count });
        }
        packages::ensure(needs::BUILD)?;
        packages::ensure(needs::CHECK)?;
        packages::ensure(needs::MAN)?;
        let work = paths::create(paths::work_dir()?.join("check"))?;
        let _lock = Lock::exclusive(&work, self.wait)?;
        paths::sweep(&work)?;
        let source = kernel::find_source(self.source.as_deref())?;
        let logs = work.join("logs");
        files::remove(&logs)?;
        paths::create(logs.clone())?;
        let tree = Worktree::prepare(work.join("linux"), &source, logs.join("git.log"))?;

        let mut run = Run {
            check: self,
            dir: &dir,
            series: &series,
            tree: &tree,
            logs: &logs,
            report: Report::new(&series, self.sample),
        };
        run.man()?;
        let commits = run.apply(&work)?;
        run.checkpatch(&exceptions)?;
        run.build(&commits, &source)?;
        let mut report = run.report;
        report.retain(|number| number == PAGES || self.is_wanted(number));
        report.seconds = started.elapsed().as_secs();
        Ok(report)
    }

    fn is_wanted(&self, number: usize) -> bool {
        self.only.is_none_or(|it| it == number)
    }
}

/// A check that is under way.
struct Run<'a> {
    check: &'a Check,
    dir: &'a Path,
    series: &'a Series,
    tree: &'a Worktree,
    logs: &'a Path,
    report: Report,
}

impl Run<'_> {
    fn patch(&self, number: usize) -> &Patch {
        &self.series.patches()[number - 1]
    }

    fn log(&self, number: usize, what: &str) -> PathBuf {
        self.logs.join(format!("{number:02}-{what}.log"))
    }

    fn numbers(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.series.patches().len()
    }

    /// Makes commits of the patches, the source's before them, as far as they
    /// apply; and holds them to what kernels are otherwise built from.
    fn apply(&mut self, work: &Path) -> Result<Vec<String>> {
        let scratch = paths::scratch_in(work)?;
        self.tree.copy(self.series, scratch.path())?;
        let patches = self.series.patches().iter();
        let patches: Vec<_> = patches.map(|patch| self.dir.join(patch.name())).collect();
        let commits = self.tree.apply(&patches, |number| self.log(number, AM))?;
        let applied = commits.len() - 1;
        for number in 1..=applied {
            self.report.set(number, AM, Outcome::Passed);
        }
        if applied < patches.len() {
            let number = applied + 1;
            let log = self.log(number, AM);
            let found = vec![process::tail(&log, 10)];
            self.report.judge(number, AM, found, log);
            return Ok(commits);
        }
        let differ = match self.tree.differences(self.series, scratch.path()) {
            Err(error @ Error::PatchFailed { .. }) => vec![error.to_string()],
            other => other?,
        };
        if !differ.is_empty() {
            let found = differ.into_iter();
            let found = found.map(|it| format!("git am and patch do not agree: {it}"));
            let last = patches.len();
            let log = self.log(last, AM);
            self.report.judge(last, AM, found.collect(), log);
        }
        Ok(commits)
    }

    fn man(&mut self) -> Result<()> {
        let log = self.logs.join("man.log");
        let found = man::lint(&man::directory()?, &log)?;
        self.report.judge(PAGES, MAN, found, log);
        Ok(())
    }

    fn checkpatch(&mut self, exceptions: &Exceptions) -> Result<()> {
        let all: Vec<_> = self.series.patches().iter().map(Patch::name).collect();
        let homeless = exceptions.homeless(&all);
        for number in self.numbers().filter(|it| self.check.is_wanted(*it)) {
            let log = self.log(number, CHECKPATCH);
            let path = self.dir.join(self.patch(number).name());
            let mut verdict = checkpatch::check(self.tree.root(), &path, exceptions, &log)?;
            if number == all.len() {
                verdict.wrong.extend(homeless.clone());
            }
            self.report.row(number).excepted = verdict.excepted;
            self.report.judge(number, CHECKPATCH, verdict.wrong, log);
        }
        Ok(())
    }

    /// Builds the source, and then patch by patch.
    fn build(&mut self, commits: &[String], source: &Source) -> Result<()> {
        let tree = self.tree.root();
        let sample = self.check.sample;
        let mut all = Vec::new();
        for configuration in &configurations::ALL {
            if sample && !configuration.in_sample {
                for number in self.numbers() {
                    self.report
                        .set(number, configuration.name, Outcome::LeftOut);
                }
                continue;
            }
            let log = self.logs.join("tools.log");
            let source = format!("{source:?}");
            all.push(Builds::open(configuration, tree, &source, sample, &log)?);
        }
        // Even where nothing is built of it: what a patch changes is newer than
        // what an earlier check has left only if it is written anew.
        self.tree.checkout(&commits[0])?;
        for n in 0..all.len() {
            let (done, rest) = all.split_at_mut(n);
            let kind = |it: &Builds| (it.configuration().arch, it.configuration().compiler);
            let other = done.iter().find(|it| kind(it) == kind(&rest[0]));
            let log = self.log(0, &rest[0].configuration().slug());
            rest[0].begin(tree, other, &log)?;
        }
        let mut docs = Docs::new(tree, self.series.patches());
        for (number, commit) in self.numbers().zip(&commits[1..]) {
            let wanted = self.check.is_wanted(number);
            // What the patch before it warns of is not this one's fault.
            if !wanted && !self.check.is_wanted(number + 1) {
                continue;
            }
            let what = format!("patch {number} of {}", self.series.patches().len());
            if wanted {
                let patch = self.patch(number);
                docs.before(tree, patch, &self.log(number, "docs-before"), &what)?;
            }
            self.tree.checkout(commit)?;
            if wanted {
                let log = self.log(number, DOCS);
                let found = docs.after(tree, self.patch(number), &log, &what)?;
                self.report.judge(number, DOCS, found, log);
            }
            let calls = self.tree.offer()?;
            self.build_all(&mut all, number, calls, &what)?;
            if wanted {
                let log = self.log(number, SELFTESTS);
                let build = all[0].dir();
                let found = selftests::check(tree, build, self.patch(number), &log, &what)?;
                self.report.judge(number, SELFTESTS, found, log);
            }
        }
        Ok(())
    }

    fn build_all(
        &mut self,
        all: &mut [Builds],
        number: usize,
        calls: bool,
        what: &str,
    ) -> Result<()> {
        let last = self.check.only.unwrap_or(self.series.patches().len());
        let mut sound = true;
        let mut silent = vec![EXTRA, SPARSE];
        for builds in all {
            let configuration = builds.configuration();
            let name = configuration.name;
            if number < last && !configuration.is_by_patch(self.check.sample) {
                self.report.set(number, name, Outcome::LeftOut);
                continue;
            }
            let log = self.log(number, &configuration.slug());
            let built = builds.build(self.tree.root(), calls, &log, what)?;
            sound &= built.error.is_none();
            let error = Vec::from_iter(built.error);
            self.report.judge(number, name, error, log.clone());
            for (check, found) in [(EXTRA, built.warnings), (SPARSE, built.sparse)] {
                if !found.is_empty() {
                    silent.retain(|it| *it != check);
                    self.report.judge(number, check, found, log.clone());
                }
            }
        }
        // What was not compiled has not been warned of.
        for check in silent.into_iter().filter(|_| sound) {
            self.report.set(number, check, Outcome::Passed);
        }
        Ok(())
    }
}
