//! The kernel of each patch, built in one configuration with the compiler's extra
//! warnings, and with sparse. Each configuration has a directory of its own, in which
//! make builds only what the next patch changes.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::configurations::Configuration;
use super::dependencies;
use super::error::{CheckError, Result, finding};
use super::review::{CheckOutcome, EXTRA, SPARSE};
use super::warnings::{Known, Warnings, is_sparse};
use crate::host::{IoContext, Progress, files, needs, paths};
use crate::kbuild::Make;
use crate::kbuild::tree::{self, BUILD, stamp};

/// Runs sparse on what is compiled, has it mark its warnings, and go on after the hundredth
/// of a file. Linux 7.3 leaves out a sparse that does not know a keyword, as Debian 12's does
/// not. Its compiler does not know it either, so no source uses it.
const RUN_SPARSE: [&str; 3] = [
    "C=1",
    "CHECK=sparse -D__typeof_unqual__=__typeof__",
    "CF=-fdiagnostic-prefix -fmax-warnings=unlimited",
];

/// What Linux says if it leaves out sparse.
const LEFT_OUT: &str = "is not available or not up to date";

/// Leaves kernel-doc out of W=1: it takes a third of the time of a file, and the check of the
/// documentation runs it on the files that a patch changes.
const NO_KERNEL_DOC: &str = "cmd_checkdoc=";

/// Takes the place of the kernel's script that makes the headers of system call numbers.
/// Nearly every file includes one. A file that uses a new number changes with it, so it is
/// compiled nevertheless.
const KEEP_NUMBERS: &str = include_str!("syscallhdr.sh");

/// The builds of one configuration.
pub(super) struct ConfigurationBuild {
    pub(super) configuration: &'static Configuration,
    targets: &'static str,
    /// Whether the compiler's warnings are read.
    warns: bool,
    /// The build directory.
    pub(super) build: PathBuf,
    /// The warnings of the source itself.
    source_known: Known,
    /// The warnings of the source and of the patches so far.
    known: Known,
    passed: BTreeMap<String, Pass>,
    /// The identifier of the kernel configuration in the directory, unless the options
    /// have changed since.
    config: Option<String>,
    /// Whether the warnings of the source itself are not known yet.
    fresh: bool,
    /// An identifier of the source, the configuration and the tools of the directory.
    inputs: String,
    /// Whether the last build in this check succeeded. A build of an earlier check does
    /// not count.
    is_current: bool,
}

/// The result of one build.
pub(super) struct BuildFindings {
    /// The reason of a failure.
    pub(super) error: Option<String>,
    /// New warnings of the compiler, the linker and the kernel's own tools.
    pub(super) warnings: Vec<String>,
    /// New warnings of sparse.
    pub(super) sparse: Vec<String>,
}

impl BuildFindings {
    /// Whether nothing is wrong.
    pub(super) fn is_clean(&self) -> bool {
        self.error.is_none() && self.warnings.is_empty() && self.sparse.is_empty()
    }
}

/// A patch that has passed, in this check or in an earlier one.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pass {
    outcome: CheckOutcome,
    /// The warnings that are known after it.
    known: Known,
}

/// What a later check need not find out again, in a file in the build directory.
#[derive(Serialize, Deserialize)]
struct Baseline {
    inputs: String,
    /// The warnings of the source itself.
    known: Known,
    /// The patches that have passed, each by the trees before and after it.
    #[serde(default)]
    passed: BTreeMap<String, Pass>,
}

impl Baseline {
    /// Reads the file in `build`, if the directory was built from these inputs.
    fn read(build: &Path, inputs: &str) -> Result<Option<Self>> {
        let baseline = files::read(&stamp(build))?;
        let baseline = baseline.and_then(|json| serde_json::from_slice(&json).ok());
        Ok(baseline.filter(|it: &Self| it.inputs == inputs))
    }
}

impl ConfigurationBuild {
    /// Opens the build directory of `configuration` in `tree`, and empties it if it was
    /// built from other inputs. `source` identifies the source.
    pub(super) fn open(
        configuration: &'static Configuration,
        tree: &Path,
        source: &str,
        sample: bool,
        log: &Path,
    ) -> Result<Self> {
        let targets = configuration.targets(sample);
        let warns = configuration.is_by_patch(sample);
        let tools = configuration.tools(log)?;
        let config = configuration.config(false)?.id();
        let sparse = warns && configuration.runs_sparse;
        let inputs = format!(
            "{source} {config} {targets} {warns} {NO_KERNEL_DOC} {sparse} {RUN_SPARSE:?} {tools}"
        );
        let build = tree.join(format!("{BUILD}-{}", configuration.slug()));
        let baseline = Baseline::read(&build, &inputs)?;
        let fresh = baseline.is_none();
        if fresh {
            files::remove(&build)?;
        }
        let (known, passed) = baseline.map(|it| (it.known, it.passed)).unwrap_or_default();
        Ok(Self {
            configuration,
            targets,
            warns,
            build,
            source_known: known.clone(),
            known,
            passed,
            config: None,
            fresh,
            inputs,
            is_current: false,
        })
    }

    /// The columns of the table that a build has a result for, beside its own.
    pub(super) fn checks(&self) -> impl Iterator<Item = &'static str> {
        let sparse = self.warns && self.configuration.runs_sparse;
        let checks = [self.warns.then_some(EXTRA), sparse.then_some(SPARSE)];
        checks.into_iter().flatten()
    }

    /// Builds the source itself, unless its warnings are known or ignored. A
    /// failure is not the fault of a patch, and ends the check.
    ///
    /// The directory begins as a copy of `other`, a configuration with the same
    /// architecture and compiler.
    pub(super) fn begin(&mut self, tree: &Path, other: Option<&Self>, log: &Path) -> Result<()> {
        if !self.fresh {
            return Ok(());
        }
        match other.filter(|other| other.warns == self.warns) {
            Some(other) => {
                let dir = tree.parent().expect("the source lies in a directory");
                tree::seed(&other.build, &self.build, paths::scratch_in(dir)?.path())?;
                fs::remove_file(stamp(&self.build)).cannot("remove", &self.build)?;
                self.known = other.known.clone();
            }
            None => fs::create_dir(&self.build).cannot("make", &self.build)?,
        }
        if self.warns {
            self.make(tree, false, false, log, "the source itself")?;
            self.known.learn(&read(log)?);
        }
        self.fresh = false;
        self.source_known = self.known.clone();
        self.write()
    }

    /// Notes the results that a later check need not find out again.
    fn write(&self) -> Result<()> {
        let baseline = Baseline {
            inputs: self.inputs.clone(),
            known: self.source_known.clone(),
            passed: self.passed.clone(),
        };
        let json = serde_json::to_vec(&baseline).expect("texts and numbers become JSON");
        Ok(files::write(&stamp(&self.build), &json)?)
    }

    /// Forgets the patches that have passed.
    pub(super) fn forget(&mut self) {
        self.passed.clear();
    }

    /// The outcome of a patch that has passed before. `step` has the trees before and after
    /// it. The build directory then is no longer that of the tree.
    pub(super) fn has_passed(&mut self, step: &str) -> Option<CheckOutcome> {
        let pass = self.passed.get(step)?;
        self.known = pass.known.clone();
        self.is_current = false;
        Some(pass.outcome)
    }

    /// Notes that a patch has passed.
    pub(super) fn note(&mut self, step: &str, outcome: CheckOutcome) -> Result<()> {
        let known = self.known.clone();
        self.passed.insert(step.into(), Pass { outcome, known });
        self.write()
    }

    /// Whether the last build in this check succeeded.
    pub(super) fn is_current(&self) -> bool {
        self.is_current
    }

    /// Whether a build would find something: false if the last one succeeded and no file
    /// of `changed` has been part of it.
    pub(super) fn is_affected(&self, changed: &BTreeSet<String>, calls: bool) -> Result<bool> {
        let config = self.configuration.config(calls)?.id();
        if !self.is_current || self.config != Some(config) {
            return Ok(true);
        }
        dependencies::include(&self.build, changed)
    }

    /// Builds the tree, which has the patch `what`, a change of the files `changed`.
    /// `calls` tells whether the calls are there to be built, and `all` whether everything
    /// that includes the numbers of the calls is compiled.
    pub(super) fn build(
        &mut self,
        tree: &Path,
        changed: &BTreeSet<String>,
        calls: bool,
        all: bool,
        log: &Path,
        what: &str,
    ) -> Result<BuildFindings> {
        if !self.is_current || dependencies::have_options(changed) {
            self.config = None;
        }
        let error = finding(self.make(tree, calls, all, log, what))?;
        let warnings = if self.warns {
            read(log)?
        } else {
            Warnings::default()
        };
        let new = warnings.new_to(&self.known).map(String::from);
        let (sparse, compiler) = new.partition(|line| is_sparse(line));
        self.known.learn(&warnings);
        self.is_current = error.is_none();
        Ok(BuildFindings {
            error,
            warnings: compiler,
            sparse,
        })
    }

    fn make(&mut self, tree: &Path, calls: bool, all: bool, log: &Path, what: &str) -> Result<()> {
        let mut args = vec![
            self.configuration.toolchain(),
            // Show all errors, and do not mix the lines of two.
            "--keep-going".into(),
            "--output-sync=target".into(),
        ];
        if self.warns {
            args.extend(["W=1", NO_KERNEL_DOC].map(String::from));
            if self.configuration.runs_sparse {
                args.extend(RUN_SPARSE.map(String::from));
            }
        }
        args.extend(cache(tree));
        if !all {
            args.push(keep_numbers(tree));
        }
        let _ = fs::remove_file(log);
        let make = Make {
            tree,
            build: &self.build,
            arch: self.configuration.arch,
            args: &args,
            log: log.into(),
            progress: Progress::ours(format!("{what}: building ({})", self.configuration.name)),
        };
        let config = self.configuration.config(calls)?;
        if self.config != Some(config.id()) {
            self.config = None;
            config.make(&make)?;
            self.config = Some(config.id());
        }
        let made = make.run(self.targets);
        sparse_ran(&files::text_or_empty(log)?)?;
        Ok(made?)
    }
}

/// Fails if the build has left out sparse.
fn sparse_ran(output: &str) -> Result<()> {
    match output.lines().find(|line| line.contains(LEFT_OUT)) {
        Some(line) => Err(CheckError::NoSparse(line.into())),
        None => Ok(()),
    }
}

/// The variables of make that put a cache before the compilers. Most files of a patch are the
/// same in several configurations. The commands of make stay the same, so that it does not
/// compile for their sake.
fn cache(tree: &Path) -> [String; 3] {
    let dir = tree.with_file_name("ccache");
    let path = env::var("PATH").unwrap_or_default();
    let compilers = Path::new(needs::CCACHE.name).parent();
    let compilers = compilers.expect("a file has a directory").display();
    [
        format!("PATH={compilers}:{path}"),
        format!("CCACHE_DIR={}", dir.display()),
        // The build directories differ, and no object has the name of one.
        "CCACHE_NOHASHDIR=true".into(),
    ]
}

/// The variable of make that keeps the times of the headers of numbers.
pub(super) fn keep_numbers(tree: &Path) -> String {
    format!("syshdr={}", numbers_script(tree).display())
}

fn numbers_script(tree: &Path) -> PathBuf {
    tree.with_file_name("syscallhdr.sh")
}

/// Writes the script that all builds of `tree` use.
pub(super) fn write_numbers_script(tree: &Path) -> Result<()> {
    Ok(files::write(
        &numbers_script(tree),
        KEEP_NUMBERS.as_bytes(),
    )?)
}

fn read(log: &Path) -> Result<Warnings> {
    Ok(Warnings::read(&files::text_or_empty(log)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::configurations;

    #[test]
    fn a_build_without_sparse_is_no_check() {
        let built = "  CC      virt/kvm/bound.o\n";
        let left_out =
            "Makefile:1311: C=1 specified, but sparse is not available or not up to date\n";
        sparse_ran(built).unwrap();
        let error = sparse_ran(&(left_out.to_owned() + built)).unwrap_err();
        assert!(error.to_string().contains("Makefile:1311"), "{error}");
    }

    #[test]
    fn a_later_check_knows_which_patches_have_passed() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let baseline = Baseline::read(dir.path(), "the same inputs").unwrap();
            let (known, passed) = baseline.map(|it| (it.known, it.passed)).unwrap_or_default();
            ConfigurationBuild {
                configuration: &configurations::ALL[0],
                targets: "vmlinux",
                warns: true,
                build: dir.path().into(),
                source_known: known.clone(),
                known,
                passed,
                config: None,
                fresh: false,
                inputs: "the same inputs".into(),
                is_current: true,
            }
        };
        let mut first = open();
        assert_eq!(first.has_passed("a..b"), None);
        let warnings = Warnings::read("a.c:1:1: warning: odd");
        first.known.learn(&warnings);
        first.note("a..b", CheckOutcome::Passed).unwrap();
        first.note("b..c", CheckOutcome::Unchanged).unwrap();

        let mut later = open();
        // The warnings of a patch are not those of the source.
        assert_eq!(warnings.new_to(&later.known).count(), 1);
        assert_eq!(later.has_passed("a..c"), None);
        assert!(later.is_current);
        assert_eq!(later.has_passed("a..b"), Some(CheckOutcome::Passed));
        assert_eq!(warnings.new_to(&later.known).count(), 0);
        // The directory has another tree.
        assert!(!later.is_current);
        assert_eq!(later.has_passed("b..c"), Some(CheckOutcome::Unchanged));
        later.forget();
        assert_eq!(later.has_passed("a..b"), None);

        assert!(
            Baseline::read(dir.path(), "other inputs")
                .unwrap()
                .is_none()
        );
    }
}
