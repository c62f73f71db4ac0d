//! The kernel of each patch, built with the compiler's extra warnings and with
//! sparse. One directory a configuration: of the next patch, make builds only
//! what changed.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::configurations::Configuration;
use super::warnings::{Known, Warnings, is_sparse};
use crate::host::error::{Error, Result};
use crate::host::progress::Progress;
use crate::host::{files, paths};
use crate::kbuild::make::Make;
use crate::kbuild::tree::{self, BUILD};

/// What is made of a kernel that is built whole.
const WHOLE: &str = "vmlinux modules";

/// Lets sparse sign its warnings, and not end with the hundredth of a file.
const SPARSE: &str = "CF=-fdiagnostic-prefix -fmax-warnings=unlimited";

/// One configuration's builds.
pub(super) struct Builds {
    configuration: &'static Configuration,
    targets: &'static str,
    /// Whether warnings are asked for.
    warns: bool,
    build: PathBuf,
    known: Known,
    /// The configuration that was made last in the directory.
    config: Option<String>,
    /// Whether nothing is known of the source itself.
    fresh: bool,
    /// What the builds are of.
    of: String,
}

/// What came of one build.
pub(super) struct Built {
    /// Why it failed, if it did.
    pub(super) error: Option<String>,
    /// New warnings of the compiler, the linker and the kernel's own tools.
    pub(super) warnings: Vec<String>,
    /// New warnings of sparse.
    pub(super) sparse: Vec<String>,
}

/// The warnings of the source itself, kept beside what was built of it.
#[derive(Serialize, Deserialize)]
struct Baseline {
    of: String,
    known: Known,
}

impl Builds {
    /// Takes the builds of `configuration` in `tree`, or begins them anew when
    /// they are of something else; `source` names the source.
    pub(super) fn open(
        configuration: &'static Configuration,
        tree: &Path,
        source: &str,
        sample: bool,
        log: &Path,
    ) -> Result<Self> {
        let targets = if sample {
            configuration.sampled_targets()
        } else {
            WHOLE
        };
        let warns = configuration.is_by_patch(sample);
        let tools = configuration.tools(log)?;
        let config = configuration.config(false)?.id();
        let of = format!("{source} {config} {targets} {warns} {SPARSE} {tools}");
        let build = tree.join(format!("{BUILD}-{}", configuration.slug()));
        let baseline: Option<Baseline> = files::read(&stamp(&build))?
            .and_then(|json| serde_json::from_slice(&json).ok())
            .filter(|it: &Baseline| it.of == of);
        let fresh = baseline.is_none();
        if fresh {
            files::remove(&build)?;
        }
        Ok(Self {
            configuration,
            targets,
            warns,
            build,
            known: baseline.map(|it| it.known).unwrap_or_default(),
            config: None,
            fresh,
            of,
        })
    }

    pub(super) fn configuration(&self) -> &'static Configuration {
        self.configuration
    }

    /// The directory that is built in.
    pub(super) fn dir(&self) -> &Path {
        &self.build
    }

    /// Builds the source itself, unless what it warns of is known or of no
    /// interest.
    ///
    /// Its own failure is no patch's fault and ends everything.
    ///
    /// One of the same architecture and compiler, `other`, has built most of it
    /// already.
    pub(super) fn begin(&mut self, tree: &Path, other: Option<&Self>, log: &Path) -> Result<()> {
        if !self.fresh {
            return Ok(());
        }
        match other.filter(|other| other.warns == self.warns) {
            Some(other) => {
                let dir = tree.parent().expect("the source lies in a directory");
                tree::seed(&other.build, &self.build, paths::scratch_in(dir)?.path())?;
                fs::remove_file(stamp(&self.build)).map_err(Error::io("remove", &self.build))?;
                self.known = other.known.clone();
            }
            None => fs::create_dir(&self.build).map_err(Error::io("make", &self.build))?,
        }
        if self.warns {
            self.make(tree, false, log, "the source itself")?;
            self.known.learn(&read(log)?);
        }
        let baseline = Baseline {
            of: self.of.clone(),
            known: self.known.clone(),
        };
        let json = serde_json::to_vec(&baseline).expect("texts and numbers become JSON");
        self.fresh = false;
        files::write(&stamp(&self.build), &json)
    }

    /// Builds what the tree is now, `what`; `calls` tells whether the calls are
    /// there to be built.
    pub(super) fn build(
        &mut self,
        tree: &Path,
        calls: bool,
        log: &Path,
        what: &str,
    ) -> Result<Built> {
        let error = match self.make(tree, calls, log, what) {
            Ok(()) => None,
            Err(error @ (Error::ToolFailed { .. } | Error::ConfigLost(_))) => {
                Some(error.to_string())
            }
            Err(error) => return Err(error),
        };
        let warnings = if self.warns {
            read(log)?
        } else {
            Warnings::default()
        };
        let new = warnings.new_to(&self.known).map(String::from);
        let (sparse, compiler) = new.partition(|line| is_sparse(line));
        self.known.learn(&warnings);
        Ok(Built {
            error,
            warnings: compiler,
            sparse,
        })
    }

    fn make(&mut self, tree: &Path, calls: bool, log: &Path, what: &str) -> Result<()> {
        let mut args = vec![
            self.configuration.toolchain(),
            // All that is wrong, with no line inside of another.
            "--keep-going".into(),
            "--output-sync=target".into(),
        ];
        if self.warns {
            args.extend(["W=1", "C=1", SPARSE].map(String::from));
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
        if self.config == Some(config.id()) {
            // The patch may have changed what there is to choose.
            make.run("olddefconfig")?;
        } else {
            self.config = None;
            config.make(&make)?;
            self.config = Some(config.id());
        }
        make.run(self.targets)
    }
}

fn stamp(build: &Path) -> PathBuf {
    build.join(".kernel-patch")
}

fn read(log: &Path) -> Result<Warnings> {
    let output = files::read(log)?.unwrap_or_default();
    Ok(Warnings::read(&String::from_utf8_lossy(&output)))
}
