//! A kernel that is built: where it lies, what it was made of, and its making.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::lock::Lock;
use crate::make::Make;
use crate::progress::Progress;
use crate::series::Series;
use crate::source::Source;
use crate::tree::{self, Tree};
use crate::{Error, Result, files, host, paths};

/// Which kernel to make of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// Patched, with KVM as modules, as distributions build it.
    #[default]
    Module,
    /// Patched, with KVM built in.
    BuiltIn,
    /// Patched, with KVM as modules, and with all that the kernel can check of
    /// itself: KASAN, lockdep and more; faults can be injected into it, and it
    /// knows which lines of KVM's code were reached.
    Debug,
    /// The source as it is, with KVM as modules.
    Stock,
}

impl Variant {
    /// All of them, by the names that the command line uses.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("module", Self::Module),
        ("builtin", Self::BuiltIn),
        ("debug", Self::Debug),
        ("stock", Self::Stock),
    ];

    fn name(self) -> &'static str {
        let named = Self::NAMES
            .into_iter()
            .find(|(_, variant)| *variant == self);
        named.expect("each variant has a name").0
    }

    fn tree(self) -> Result<Tree> {
        let patched = if self == Self::Stock {
            "stock"
        } else {
            "patched"
        };
        Ok(Tree::new(paths::root()?.join(format!("linux-{patched}"))))
    }

    fn build_dir(self) -> Result<PathBuf> {
        let name = match self {
            Self::BuiltIn | Self::Debug => format!("{}-{}", tree::BUILD, self.name()),
            Self::Module | Self::Stock => tree::BUILD.into(),
        };
        Ok(self.tree()?.root().join(name))
    }

    fn series(self) -> Result<Series> {
        match self {
            Self::Stock => Ok(Series::default()),
            Self::Module | Self::BuiltIn | Self::Debug => Series::read(&paths::patches()),
        }
    }
}

/// The objects that count how often their lines are reached: those that the
/// series adds to or makes. Each is named as its own directory's make calls it.
const GCOV: [&str; 5] = [
    "syscalls.o",
    "x86.o",
    "../../../virt/kvm/kvm_main.o",
    "../../../virt/kvm/kernel_memory.o",
    "../../../virt/kvm/syscall_ops.o",
];

/// What is said of the kernel to be built.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    variant: Variant,
    source: Option<PathBuf>,
    wait: bool,
}

impl Builder {
    /// Which kernel.
    #[must_use]
    pub fn variant(mut self, variant: Variant) -> Self {
        self.variant = variant;
        self
    }

    /// A tree or a tarball to build from. Otherwise it is the one that was
    /// last built from, and at first Debian's.
    #[must_use]
    pub fn source(mut self, source: impl Into<PathBuf>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether to wait for another build to end, rather than to fail.
    #[must_use]
    pub fn wait(mut self, wait: bool) -> Self {
        self.wait = wait;
        self
    }

    /// Builds what is not built yet, and installs the tools for it if that is
    /// allowed. Says on stderr what it does.
    ///
    /// # Errors
    ///
    /// Whatever can go wrong with that: see [`Error`].
    pub fn build(&self) -> Result<Kernel> {
        let root = paths::root()?;
        let build = self.variant.build_dir()?;
        let series = self.variant.series()?;
        let config = Config::read(self.variant)?;
        loop {
            let lock = Lock::shared(&root, self.wait)?;
            if let Some(source) = current(self.source.as_deref())?
                && files::read(&stamp(&build))? == Some(wanted(&source, &series, &config))
            {
                let release = build.join("include/config/kernel.release");
                let release = fs::read_to_string(&release).map_err(Error::io("read", &release))?;
                return Ok(Kernel {
                    build,
                    release: release.trim().into(),
                    series: series.id(),
                    config: config.id(),
                    _lock: lock,
                });
            }
            drop(lock);
            let _lock = Lock::exclusive(&root, self.wait)?;
            self.make(&build, &series, &config)?;
        }
    }

    fn make(&self, build: &Path, series: &Series, config: &Config) -> Result<()> {
        paths::sweep(&paths::root()?)?;
        host::ensure(host::BUILD)?;
        let source = source(self.source.as_deref())?;
        let first = Variant::Module.tree()?;
        if first.source()?.as_ref() != Some(&source) {
            first.unpack(&source)?;
        }
        let tree = self.variant.tree()?;
        if tree.source()?.as_ref() != Some(&source) {
            tree.link(&first, &source)?;
        }
        tree.apply(series)?;

        if self.variant == Variant::Debug {
            // Of the usual build it could keep nothing.
            fs::create_dir_all(build).map_err(Error::io("make", build))?;
        } else {
            self.seed(build)?;
        }
        let stamp = stamp(build);
        let _ = fs::remove_file(&stamp);
        let log = paths::logs()?.join(format!("build-{}.log", self.variant.name()));
        let _ = fs::remove_file(&log);
        let gcov = if self.variant == Variant::Debug {
            GCOV.map(|object| format!("GCOV_PROFILE_{object}=y")).into()
        } else {
            Vec::new()
        };
        let make = Make {
            tree: tree.root(),
            build,
            log,
            arch: "x86_64",
            args: &gcov,
            progress: Progress::start(format!(
                "building Linux {} ({}, series {})",
                crate::source::VERSION,
                self.variant.name(),
                series.id()
            )),
        };
        config.make(&make)?;
        // Headers as headers_install copies them, without the rsync it needs.
        make.run("bzImage modules headers")?;
        files::write(&stamp, &wanted(&source, series, config))
    }

    /// Lets a variant begin with what the usual one has built, if it has: only
    /// what differs is made again.
    fn seed(&self, build: &Path) -> Result<()> {
        let usual = Variant::Module.build_dir()?;
        if build.exists() || !stamp(&usual).exists() {
            return fs::create_dir_all(build).map_err(Error::io("make", build));
        }
        let scratch = paths::scratch()?;
        tree::seed(&usual, build, scratch.path())
    }
}

/// What to build from, as it is now; `None` when it must be got first.
fn current(named: Option<&Path>) -> Result<Option<Source>> {
    if let Some(path) = named {
        return Source::find(path).map(Some);
    }
    match Variant::Module.tree()?.source()? {
        // What was unpacked serves on when its tarball is gone.
        Some(last) if !last.path.exists() => Ok(Some(last)),
        Some(last) => Source::find(&last.path).map(Some),
        None => Ok(None),
    }
}

/// The source that is named, or the one last built from, or Debian's.
pub(crate) fn source(named: Option<&Path>) -> Result<Source> {
    if let Some(source) = current(named)? {
        return Ok(source);
    }
    host::ensure(host::SOURCE)?;
    Source::find(Path::new(crate::source::DEBIAN))
}

fn stamp(build: &Path) -> PathBuf {
    build.join(".kernel-patch")
}

/// What the stamp says of a build that is up to date.
fn wanted(source: &Source, series: &Series, config: &Config) -> Vec<u8> {
    format!("{source:?} {} {}", series.id(), config.id()).into_bytes()
}

/// A built kernel. Nobody builds it anew while this is held.
#[derive(Debug)]
pub struct Kernel {
    build: PathBuf,
    release: String,
    series: String,
    config: String,
    _lock: Lock,
}

impl Kernel {
    /// Describes a kernel to build.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The directory that it was built in, below that of its source.
    #[must_use]
    pub fn build_dir(&self) -> &Path {
        &self.build
    }

    /// The source with the series applied.
    #[must_use]
    pub fn source_dir(&self) -> &Path {
        self.build.parent().expect("it lies in the source")
    }

    /// The image that boots.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.build.join("arch/x86/boot/bzImage")
    }

    /// What it calls itself (`uname -r`).
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The name of what the series changes, `stock` for nothing.
    #[must_use]
    pub fn series_id(&self) -> &str {
        &self.series
    }

    /// The name of what is asked for of the configuration.
    #[must_use]
    pub fn config_id(&self) -> &str {
        &self.config
    }

    /// Its headers for user space, to include from.
    #[must_use]
    pub fn headers(&self) -> PathBuf {
        self.build.join("usr/include")
    }
}

/// Where a variant's source and build lie, whether it is built or not.
///
/// # Errors
///
/// When the directory above cannot be made.
pub fn build_dir(variant: Variant) -> Result<PathBuf> {
    variant.build_dir()
}
