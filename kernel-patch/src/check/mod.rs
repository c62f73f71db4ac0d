//! The review of the series: checks each patch by itself, as its reviewers would.

mod builds;
mod checkpatch;
mod configurations;
mod dependencies;
mod docs;
mod error;
mod man;
mod review;
mod selftests;
mod warnings;
mod worktree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::thread;

use clap::Args;

use self::builds::ConfigurationBuild;
use self::checkpatch::Exceptions;
use self::configurations::Configuration;
use self::docs::Docs;
pub use self::error::{CheckError, Result};
use self::review::{AM, CHECKPATCH, DOCS, EXTRA, MAN, PAGES, SELFTESTS, SPARSE};
pub use self::review::{CheckOutcome, Finding, PatchReview, Review};
use self::worktree::Worktree;
use crate::host::{IoContext, Lock, files, needs, packages, paths, process};
use crate::kbuild::{Base, BuildError, Patch, Series, Source, kernel};

/// The part of the series to check. The default is the whole series of this crate, on the
/// source that was last built from. The settings are also options of a command line.
#[derive(Args, Clone, Debug, Default)]
#[group(skip)]
pub struct Check {
    /// The release of Linux
    #[arg(long, value_enum, default_value_t)]
    base: Base,

    /// The directory of the patches [default: this crate's]
    #[arg(long, value_name = "DIR")]
    patches: Option<PathBuf>,

    /// The kernel's source, a tree or a tarball [default: the one last built
    /// from; at first, Debian's package linux-source-BASE]
    #[arg(long, value_name = "PATH")]
    source: Option<PathBuf>,

    /// Check only this patch, by its number from 1
    #[arg(long = "patch", value_name = "N")]
    only: Option<usize>,

    /// Build only in this configuration, by the name of its column (repeatable)
    #[arg(long = "configuration", value_name = "NAME")]
    configurations: Vec<String>,

    /// Make only some of the checks, which takes minutes
    #[arg(long)]
    sample: bool,

    /// Build again what an earlier check has built without a finding
    #[arg(long)]
    again: bool,

    /// Wait while another kernel-patch checks
    #[arg(long)]
    wait: bool,
}

impl Check {
    /// Checks the series, and shows its progress on standard error.
    ///
    /// # Errors
    ///
    /// The series could not be checked. The review has the faults of the series.
    pub fn run(&self) -> Result<Review> {
        let dir = match &self.patches {
            Some(dir) => dir.clone(),
            None => self.base.patches()?,
        };
        // The tools start in the source.
        let dir = std::path::absolute(&dir).cannot("find", &dir)?;
        let series = Series::read(&dir)?;
        let exceptions = Exceptions::read(&dir)?;
        self.validate(series.patches.len())?;
        for needs in [needs::BUILD, needs::CHECK, needs::MAN] {
            packages::ensure(needs)?;
        }
        let work = paths::create(paths::work_dir()?.join("check"))?;
        let _lock = Lock::exclusive(&work, self.wait)?;
        paths::sweep(&work)?;
        let source = kernel::find_source(self.base, self.source.as_deref())?;
        let logs = work.join("logs");
        files::remove(&logs)?;
        paths::create(logs.clone())?;
        let tree = Worktree::prepare(work.join("linux"), &source, logs.join("git.log"))?;

        let written = tree.written(series.files())?;
        let mut run = CheckRun {
            check: self,
            dir: &dir,
            series: &series,
            tree: &tree,
            logs: &logs,
            review: Review::new(&series),
        };
        run.man()?;
        let commits = run.apply(&work)?;
        run.checkpatch(&exceptions)?;
        tree.rewind(written)?;
        run.build(&commits, &source)?;
        let mut review = run.review;
        review.retain(|number| number == PAGES || self.includes(number));
        Ok(review)
    }

    /// Fails if the options name a patch or a configuration that does not exist.
    fn validate(&self, count: usize) -> Result<()> {
        if let Some(number) = self.only.filter(|it| !(1..=count).contains(it)) {
            return Err(CheckError::NoSuchPatch { number, count });
        }
        let known = configurations::ALL.each_ref().map(|it| it.name);
        let mut names = self.configurations.iter();
        match names.find(|it| !known.contains(&it.as_str())) {
            None => Ok(()),
            Some(name) => {
                let known = known.into();
                Err(CheckError::NoSuchConfiguration(name.clone(), known))
            }
        }
    }

    fn includes(&self, number: usize) -> bool {
        self.only.is_none_or(|it| it == number)
    }

    fn builds(&self, configuration: &Configuration) -> bool {
        let named = |it: &String| it == configuration.name;
        (!self.sample || configuration.in_sample)
            && (self.configurations.is_empty() || self.configurations.iter().any(named))
    }
}

/// A check in progress.
struct CheckRun<'a> {
    check: &'a Check,
    dir: &'a Path,
    series: &'a Series,
    tree: &'a Worktree,
    logs: &'a Path,
    review: Review,
}

impl CheckRun<'_> {
    fn patch(&self, number: usize) -> &Patch {
        &self.series.patches[number - 1]
    }

    fn log(&self, number: usize, what: &str) -> PathBuf {
        log(self.logs, number, what)
    }

    fn numbers(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.series.patches.len()
    }

    /// Commits the patches as far as they apply, and compares the result with the files
    /// that kernels are built from. Returns the commits, the source's first.
    fn apply(&mut self, work: &Path) -> Result<Vec<String>> {
        let scratch = paths::scratch_in(work)?;
        self.series.copy_files(self.tree.root(), scratch.path())?;
        let patches = self.series.patches.iter();
        let patches: Vec<_> = patches.map(|patch| self.dir.join(&patch.name)).collect();
        let commits = self.tree.apply(&patches, |number| self.log(number, AM))?;
        let applied = commits.len() - 1;
        for number in 1..=applied {
            self.review.set(number, AM, CheckOutcome::Passed);
        }
        if applied < patches.len() {
            let number = applied + 1;
            let log = self.log(number, AM);
            let found = vec![process::tail(&log, 10)];
            self.review.record(number, AM, found, log);
            return Ok(commits);
        }
        let differ = match self.tree.differences(self.series, scratch.path()) {
            Err(CheckError::Build(error @ BuildError::PatchFailed { .. })) => {
                vec![error.to_string()]
            }
            other => other?,
        };
        let found = differ.into_iter();
        let found = found.map(|it| format!("git am and patch do not agree: {it}"));
        let log = self.log(applied, AM);
        self.review.record(applied, AM, found.collect(), log);
        Ok(commits)
    }

    fn man(&mut self) -> Result<()> {
        let log = self.logs.join("man.log");
        let found = man::lint(&man::directory()?, &log)?;
        self.review.record(PAGES, MAN, found, log);
        Ok(())
    }

    fn checkpatch(&mut self, exceptions: &Exceptions) -> Result<()> {
        let all: Vec<_> = self.series.patches.iter().map(|it| &*it.name).collect();
        let missing = exceptions.of_missing_patches(&all);
        for number in self.numbers().filter(|it| self.check.includes(*it)) {
            let log = self.log(number, CHECKPATCH);
            let path = self.dir.join(&self.patch(number).name);
            let mut remarks = checkpatch::check(self.tree.root(), &path, exceptions, &log)?;
            if number == all.len() {
                remarks.unexpected.extend(missing.clone());
            }
            self.review.row(number).excepted = remarks.excepted;
            self.review
                .record(number, CHECKPATCH, remarks.unexpected, log);
        }
        Ok(())
    }

    /// Builds the source, and then patch by patch.
    fn build(&mut self, commits: &[String], source: &Source) -> Result<()> {
        let tree = self.tree.root();
        builds::write_numbers_script(tree)?;
        let mut all = self.open_builds(source)?;
        for n in 0..all.len() {
            let (done, rest) = all.split_at_mut(n);
            let toolchain =
                |it: &ConfigurationBuild| (it.configuration.arch, it.configuration.compiler);
            let same = |it: &&ConfigurationBuild| toolchain(it) == toolchain(&rest[0]);
            let other = done.iter().find(same);
            let log = self.log(0, &rest[0].configuration.slug());
            rest[0].begin(tree, other, &log)?;
        }
        let mut docs = Docs::new(tree, &self.series.patches);
        let trees = self.tree.trees(commits)?;
        for (number, commit) in self.numbers().zip(&commits[1..]) {
            let wanted = self.check.includes(number);
            // The patch before a wanted one is built too, for the warnings that are its.
            if !wanted && !self.check.includes(number + 1) {
                continue;
            }
            let what = format!("patch {number} of {}", self.series.patches.len());
            if wanted {
                // The patch did not cause these remarks.
                let log = self.log(number, "docs-before");
                docs.read(tree, self.patch(number), &log, &what)?;
            }
            self.checkout(number, commit, &all)?;
            if wanted {
                let log = self.log(number, DOCS);
                let found = docs.read(tree, self.patch(number), &log, &what)?;
                self.review.record(number, DOCS, found, log);
            }
            let calls = self.tree.offer()?;
            let step = format!("{}..{}", trees[number - 1], trees[number]);
            self.build_all(&mut all, number, &step, calls, &what)?;
            let is_x86 = |it: &&ConfigurationBuild| it.configuration.arch == selftests::ARCH;
            let x86 = all.iter().find(is_x86);
            if wanted && let Some(x86) = x86 {
                let log = self.log(number, SELFTESTS);
                let found = selftests::check(tree, &x86.build, self.patch(number), &log, &what)?;
                self.review.record(number, SELFTESTS, found, log);
            } else {
                self.review.set(number, SELFTESTS, CheckOutcome::LeftOut);
            }
        }
        Ok(())
    }

    /// Checks a patch out. A header that many files include is compiled with KVM and the
    /// files that the series changes, and with all others only after the last patch: most
    /// headers only gain lines, and to compile the kernel for each takes hours.
    fn checkout(&self, number: usize, commit: &str, all: &[ConfigurationBuild]) -> Result<()> {
        let ours = self.series.files();
        let is_header = |it: &String| it.ends_with(".h");
        if number == self.series.patches.len() {
            self.tree.checkout(commit)?;
            return self
                .tree
                .touch(ours.into_iter().filter(is_header).collect());
        }
        let sample = self.check.sample;
        let mut by_patch = all.iter().filter(|it| it.configuration.is_by_patch(sample));
        // A directory that is not current compiles everything.
        if !by_patch.clone().all(ConfigurationBuild::is_current) {
            return self.tree.checkout(commit);
        }
        let headers = self.patch(number).files().map(String::from);
        let headers: BTreeSet<_> = headers.filter(is_header).collect();
        let near = |file: &String| {
            let kvm = ["virt/kvm/", "arch/x86/kvm/", "arch/arm64/kvm/"];
            kvm.iter().any(|it| file.starts_with(it)) || ours.contains(file)
        };
        let code = by_patch.try_fold(BTreeSet::new(), |mut code, builds| {
            let including = dependencies::including(&builds.build, &headers)?;
            code.extend(including.into_iter().filter(near));
            Ok::<_, CheckError>(code)
        })?;
        self.tree.checkout_quietly(commit, headers, code)
    }

    /// The builds of the configurations that the options ask for.
    fn open_builds(&mut self, source: &Source) -> Result<Vec<ConfigurationBuild>> {
        let tree = self.tree.root();
        let log = self.logs.join("tools.log");
        let source = format!("{source:?}");
        let mut all = Vec::new();
        for configuration in &configurations::ALL {
            if self.check.builds(configuration) {
                let sample = self.check.sample;
                let mut builds =
                    ConfigurationBuild::open(configuration, tree, &source, sample, &log)?;
                if self.check.again {
                    builds.forget();
                }
                all.push(builds);
                continue;
            }
            for number in self.numbers() {
                self.review
                    .set(number, configuration.name, CheckOutcome::LeftOut);
            }
        }
        Ok(all)
    }

    fn build_all(
        &mut self,
        all: &mut [ConfigurationBuild],
        number: usize,
        step: &str,
        calls: bool,
        what: &str,
    ) -> Result<()> {
        let last = self.check.only.unwrap_or(self.series.patches.len());
        let is_last = number == self.series.patches.len();
        let compiles_all = is_last && !self.check.sample;
        let changed = self.patch(number).files().map(String::from).collect();
        let mut looked = Vec::new();
        let mut due = Vec::new();
        for builds in all {
            let configuration = builds.configuration;
            let name = configuration.name;
            if number < last && !configuration.is_by_patch(self.check.sample) {
                self.review.set(number, name, CheckOutcome::LeftOut);
                continue;
            }
            looked.extend(builds.checks());
            // The list of objects needs a build.
            let lists_objects = configuration.has_all_code && is_last;
            if !lists_objects && let Some(outcome) = builds.has_passed(step) {
                self.review.set(number, name, outcome);
                continue;
            }
            if !builds.is_affected(&changed, calls)? {
                self.review.set(number, name, CheckOutcome::Unchanged);
                builds.note(step, CheckOutcome::Unchanged)?;
                continue;
            }
            due.push(builds);
        }
        let (tree, logs) = (self.tree.root(), self.logs);
        let log = |it: &ConfigurationBuild| log(logs, number, &it.configuration.slug());
        // What one configuration has compiled, the next of the same compiler finds.
        let is_native = |it: &&mut ConfigurationBuild| it.configuration.arch == selftests::ARCH;
        let built = in_lanes(due, is_native, |builds| -> Result<_> {
            let log = log(builds);
            let built = builds.build(tree, &changed, calls, compiles_all, &log, what)?;
            if built.is_clean() {
                builds.note(step, CheckOutcome::Passed)?;
            }
            Ok(built)
        });
        let mut sound = true;
        let mut warned = Vec::new();
        for (builds, built) in built {
            let built = built?;
            let configuration = builds.configuration;
            sound &= built.error.is_none();
            let mut error = Vec::from_iter(built.error);
            if configuration.has_all_code && is_last && error.is_empty() {
                let missing = dependencies::without_object(&builds.build, self.series.files())?;
                error.extend(missing.iter().map(|it| format!("{it} is not compiled")));
            }
            let log = log(builds);
            self.review
                .record(number, configuration.name, error, log.clone());
            for (check, found) in [(EXTRA, built.warnings), (SPARSE, built.sparse)] {
                if !found.is_empty() {
                    warned.push(check);
                    self.review.record(number, check, found, log.clone());
                }
            }
        }
        let quiet = [EXTRA, SPARSE]
            .into_iter()
            .filter(|it| !warned.contains(it));
        for check in quiet {
            if !looked.contains(&check) {
                self.review.set(number, check, CheckOutcome::LeftOut);
            } else if sound {
                // Code that was not compiled has had no warnings.
                self.review.set(number, check, CheckOutcome::Passed);
            }
        }
        Ok(())
    }
}

fn log(logs: &Path, number: usize, what: &str) -> PathBuf {
    logs.join(format!("{number:02}-{what}.log"))
}

/// Runs `job` on each item, in two lanes side by side: while one make links, which takes one
/// processor, the other compiles. Returns the items in their order.
fn in_lanes<T: Send, R: Send>(
    items: Vec<T>,
    is_in_first: impl Fn(&T) -> bool,
    job: impl Fn(&mut T) -> R + Sync,
) -> impl Iterator<Item = (T, R)> {
    let numbered = items.into_iter().enumerate();
    let (first, second): (Vec<_>, Vec<_>) = numbered.partition(|(_, item)| is_in_first(item));
    let work = |lane: Vec<(usize, T)>| {
        let done = lane.into_iter().map(|(n, mut item)| {
            let result = job(&mut item);
            (n, (item, result))
        });
        done.collect::<Vec<_>>()
    };
    let done: BTreeMap<_, _> = thread::scope(|scope| {
        let second = scope.spawn(|| work(second));
        let first = work(first);
        let second = second.join().expect("no job panics");
        first.into_iter().chain(second).collect()
    });
    done.into_values()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lanes_work_at_the_same_time() {
        let at_once = std::sync::Barrier::new(2);
        let done = in_lanes(
            vec![1, 2, 3, 4],
            |item| item % 2 > 0,
            |item| {
                // It takes two to pass.
                at_once.wait();
                *item *= 10;
                *item + 1
            },
        );
        let done: Vec<_> = done.collect();
        assert_eq!(done, [(10, 11), (20, 21), (30, 31), (40, 41)]);
    }

    #[test]
    fn unknown_patches_and_configurations_are_refused() {
        let check = |only, name: &str| Check {
            only,
            configurations: vec![name.into()],
            ..Check::default()
        };
        check(Some(30), "arm64 off").validate(30).unwrap();
        for number in [0, 31] {
            let error = check(Some(number), "module").validate(30).unwrap_err();
            assert!(matches!(error, CheckError::NoSuchPatch { .. }), "{error}");
        }
        let error = check(None, "sparc").validate(30).unwrap_err().to_string();
        assert!(
            error.starts_with("no configuration is named \"sparc\"; there are module, builtin"),
            "{error}"
        );
    }

    #[test]
    fn named_configurations_are_built() {
        let check = Check {
            configurations: vec!["i386".into(), "module".into()],
            ..Check::default()
        };
        let names = |check: &Check| -> Vec<_> {
            let all = configurations::ALL.iter();
            all.filter(|it| check.builds(it))
                .map(|it| it.name)
                .collect()
        };
        assert_eq!(names(&check), ["module", "i386"]);
        let sample = Check {
            sample: true,
            ..check
        };
        assert_eq!(names(&sample), ["module"]);
    }
}
