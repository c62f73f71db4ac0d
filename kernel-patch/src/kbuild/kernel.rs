//! A built kernel, and its build.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::error::Result;
use crate::host::{Lock, Progress, files, needs, packages, paths};
use crate::kbuild::base::Base;
use crate::kbuild::config::{self, Config};
use crate::kbuild::make::Make;
use crate::kbuild::mutation::Mutation;
use crate::kbuild::series::Series;
use crate::kbuild::source::Source;
use crate::kbuild::tree::{self, Tree, stamp};
use crate::kbuild::variant::Variant;

/// The trees of mutated kernels.
const MUTANTS: [&str; 2] = ["mutant", "mutant-2"];

/// The description of a kernel to build. The settings are also options of a command line.
#[derive(Args, Clone, Debug, Default)]
#[group(skip)]
pub struct KernelBuilder {
    /// The release of Linux
    #[arg(long, value_enum, default_value_t)]
    base: Base,

    /// The kernel's source, a tree or a tarball [default: the one last used;
    /// at first, Debian's package linux-source-BASE]
    #[arg(long, value_name = "PATH")]
    source: Option<PathBuf>,

    /// The variant of the kernel
    #[arg(long, value_enum, default_value_t)]
    variant: Variant,

    /// Wait while another kernel-patch builds
    #[arg(long)]
    wait: bool,

    #[arg(skip)]
    mutation: Option<Mutation>,
}

setters! { KernelBuilder:
    /// Chooses the release of Linux.
    base(builder, base: Base) => builder.base = base;

    /// Chooses the variant.
    variant(builder, variant: Variant) => builder.variant = variant;

    /// Chooses the source, a tree or a tarball. The default is the one that was last built
    /// from, and at first Debian's.
    source(builder, source: impl Into<PathBuf>) => builder.source = Some(source.into());

    /// Breaks the kernel in one place. Mutations are built in two trees of their own: the
    /// unbroken kernel stays as it is, and one mutation can be built while a machine runs
    /// another.
    mutation(builder, mutation: &Mutation) => builder.mutation = Some(mutation.clone());

    /// Chooses whether to wait for another build to end instead of failing.
    wait(builder, wait: bool) => builder.wait = wait;
}

impl KernelBuilder {
    /// Builds the kernel unless it is up to date. Installs missing tools if the user may.
    /// Shows the progress on standard error.
    ///
    /// # Errors
    ///
    /// See [`BuildError`].
    pub fn build(&self) -> Result<Kernel> {
        let root = paths::work_dir()?;
        let mut series = self.variant.series(self.base)?;
        let config = Config::read(self.base, self.variant)?;
        if let Some(mutation) = &self.mutation {
            series.push(&mutation.path)?;
            return self.build_mutation(&series, &config);
        }
        let tree = self.variant.tree(self.base)?;
        loop {
            let lock = Lock::shared(&root, self.wait)?;
            if let Some(kernel) = self.open(&tree, &series, &config, lock)? {
                return Ok(kernel);
            }
            let _lock = Lock::exclusive(&root, self.wait)?;
            paths::sweep(&root)?;
            self.make(&tree, &series, &config)?;
        }
    }

    /// Builds the mutation in an unused tree, unless a tree has it
    /// already. The lock of the kernel proper, on which the mutation is based,
    /// is shared; each of the trees has a lock of its own.
    fn build_mutation(&self, series: &Series, config: &Config) -> Result<Kernel> {
        let proper = Self {
            mutation: None,
            ..self.clone()
        }
        .build()?;
        let root = paths::work_dir()?;
        let mut places = Vec::new();
        for name in MUTANTS {
            let lock = root.join(format!("linux-{}-{name}-lock", self.base.version()));
            places.push((lock, Tree::of(self.base, name)?));
        }
        'built: loop {
            for (lock, tree) in &places {
                let Some(lock) = Lock::try_shared(&paths::create(lock.clone())?)? else {
                    continue;
                };
                if let Some(mut kernel) = self.open(tree, series, config, lock)? {
                    kernel._proper = Some(proper._lock);
                    return Ok(kernel);
                }
            }
            for (lock, tree) in &places {
                if let Some(_lock) = Lock::try_exclusive(lock)? {
                    self.make(tree, series, config)?;
                    continue 'built;
                }
            }
            // Both are in use.
            drop(Lock::exclusive(&places[0].0, self.wait)?);
        }
    }

    /// Returns the kernel in `tree` if it was built from the source as it is now.
    fn open(
        &self,
        tree: &Tree,
        series: &Series,
        config: &Config,
        lock: Lock,
    ) -> Result<Option<Kernel>> {
        let Some(source) = current(self.base, self.source.as_deref())? else {
            return Ok(None);
        };
        let build = self.variant.build_dir(tree);
        if !files::has(&stamp(&build), &wanted(&source, series, config))? {
            return Ok(None);
        }
        let root = tree.root.clone();
        Ok(Some(Kernel::built(root, build, series.id(), config, lock)))
    }

    fn make(&self, tree: &Tree, series: &Series, config: &Config) -> Result<()> {
        let build = &self.variant.build_dir(tree);
        packages::ensure(needs::BUILD)?;
        let source = find_source(self.base, self.source.as_deref())?;
        let first = Variant::Module.tree(self.base)?;
        if self.mutation.is_none() && first.source()?.as_ref() != Some(&source) {
            first.unpack(&source)?;
        }
        if tree.source()?.as_ref() != Some(&source) {
            tree.link(&first, &source)?;
        }
        tree.apply(series)?;

        let proper = self.variant.build_dir(&self.variant.tree(self.base)?);
        match (self.variant, &self.mutation) {
            // It could reuse nothing of the usual build.
            (Variant::Debug | Variant::Kcsan, None) => {
                paths::create(build.clone())?;
            }
            (_, None) => seed(build, &Variant::Module.build_dir(&first))?,
            (_, Some(_)) => seed(build, &proper)?,
        }
        let stamp = stamp(build);
        let _ = fs::remove_file(&stamp);
        let name = tree.root.file_name().unwrap_or_default();
        let log = format!("build-{}-{}.log", name.display(), self.variant.name());
        let log = paths::new_log(&log)?;
        let counted = config.counted.iter();
        let counted: Vec<_> = counted.map(|it| config::count_variable(it)).collect();
        let make = Make {
            tree: &tree.root,
            build,
            log,
            arch: "x86_64",
            args: &counted,
            progress: Progress::ours(format!(
                "building Linux {} ({}, series {})",
                self.base.version(),
                self.variant.name(),
                series.id()
            )),
        };
        if self.mutation.is_some() {
            // Mutations do not change the configuration. Leave an equal file alone, because
            // make would check everything again after a change.
            let wanted = files::text(&proper.join(".config"))?;
            let config = build.join(".config");
            if !files::has(&config, wanted.as_bytes())? {
                files::write(&config, wanted.as_bytes())?;
            }
            make.build("bzImage modules")?;
        } else {
            config.make(&make)?;
            // These are the headers that headers_install copies, but it needs rsync.
            make.build("bzImage modules headers")?;
        }
        Ok(files::write(&stamp, &wanted(&source, series, config))?)
    }
}

/// Copies another build, if it exists, into the directory of a new one, so that make
/// builds only what differs.
fn seed(build: &Path, other: &Path) -> Result<()> {
    if build.exists() || !stamp(other).exists() {
        paths::create(build.into())?;
        return Ok(());
    }
    let scratch = paths::scratch()?;
    tree::seed(other, build, scratch.path())
}

/// Returns the current state of the source, or `None` if it is not installed yet.
fn current(base: Base, named: Option<&Path>) -> Result<Option<Source>> {
    if let Some(path) = named {
        return Source::find(path, base).map(Some);
    }
    match Variant::Module.tree(base)?.source()? {
        // The unpacked source stays usable without its tarball.
        Some(last) if !last.path.exists() => Ok(Some(last)),
        Some(last) => Source::find(&last.path, base).map(Some),
        None => Ok(None),
    }
}

/// Returns the source that the user names, or the last one, or Debian's.
pub(crate) fn find_source(base: Base, named: Option<&Path>) -> Result<Source> {
    if let Some(source) = current(base, named)? {
        return Ok(source);
    }
    Source::find(&base.debians_source()?, base)
}

/// The content of the stamp of a build that is up to date.
fn wanted(source: &Source, series: &Series, config: &Config) -> Vec<u8> {
    format!("{source:?} {} {}", series.id(), config.id()).into_bytes()
}

/// A built kernel. No other process rebuilds it while the value exists.
#[derive(Debug)]
pub struct Kernel {
    /// The directory of the source, with the series applied.
    pub source_dir: PathBuf,
    /// The build directory.
    pub build_dir: PathBuf,
    /// The identifier of the series, `stock` without one; the commit of a checkout.
    pub series_id: String,
    /// The identifier of the configuration.
    pub config_id: String,
    counted: Vec<String>,
    /// The lock of the unbroken kernel, if this one is a mutation.
    _proper: Option<Lock>,
    _lock: Lock,
}

impl Kernel {
    /// Starts the description of a kernel to build.
    #[must_use]
    pub fn builder() -> KernelBuilder {
        KernelBuilder::default()
    }

    /// Opens the kernel that was built from `source` in `build`. `name` identifies the source.
    pub(crate) fn built(
        source_dir: PathBuf,
        build_dir: PathBuf,
        name: String,
        config: &Config,
        lock: Lock,
    ) -> Self {
        Self {
            source_dir,
            build_dir,
            series_id: name,
            config_id: config.id(),
            counted: config.counted.clone(),
            _proper: None,
            _lock: lock,
        }
    }

    /// The boot image.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.build_dir.join("arch/x86/boot/bzImage")
    }

    /// The objects that count how often their lines are reached, relative to the build
    /// directory. Only [`Variant::Debug`] has any. A machine leaves the counts in
    /// [`COUNTS`](crate::COUNTS), among its files.
    pub fn counted(&self) -> impl Iterator<Item = &Path> {
        self.counted.iter().map(Path::new)
    }

    /// The lines that the series adds or changes, by file.
    ///
    /// # Errors
    ///
    /// A file of the source cannot be read.
    pub fn added_lines(&self) -> Result<BTreeMap<PathBuf, BTreeSet<u32>>> {
        self.tree().added_lines()
    }

    /// The directory of the headers for user space.
    #[must_use]
    pub fn headers(&self) -> PathBuf {
        self.build_dir.join("usr/include")
    }

    /// The source, with the series applied.
    pub(super) fn tree(&self) -> Tree {
        let root = self.source_dir.clone();
        Tree { root }
    }
}

/// Returns the build directory of a variant of `base`, built or not. It is in the source
/// directory.
///
/// # Errors
///
/// The directory above cannot be made.
pub fn build_dir(base: Base, variant: Variant) -> Result<PathBuf> {
    Ok(variant.build_dir(&variant.tree(base)?))
}
