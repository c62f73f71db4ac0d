//! The kernels that can be built.

use std::path::PathBuf;

use clap::ValueEnum;

use super::error::Result;
use crate::host::paths;
use crate::kbuild::series::{self, Series};
use crate::kbuild::tree::{self, Tree};

/// A kernel to build from the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    /// Patched, with KVM as modules, as distributions build it
    #[default]
    Module,
    /// Patched, with KVM built in
    #[value(name = "builtin")]
    BuiltIn,
    /// Patched, with KVM as modules, and with the kernel's checks of itself: KASAN, lockdep
    /// and more. It supports fault injection, and counts which lines of KVM's code were
    /// reached
    Debug,
    /// Patched, with KVM as modules, and with KCSAN, which reports data races
    Kcsan,
    /// Unpatched, with KVM as modules
    Stock,
}

impl Variant {
    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Module => "module",
            Self::BuiltIn => "builtin",
            Self::Debug => "debug",
            Self::Kcsan => "kcsan",
            Self::Stock => "stock",
        }
    }

    pub(crate) fn tree(self) -> Result<Tree> {
        let name = match self {
            Self::Stock => "linux-stock",
            Self::Debug => "linux-debug",
            Self::Module | Self::BuiltIn | Self::Kcsan => "linux-patched",
        };
        Ok(Tree::new(paths::work_dir()?.join(name)))
    }

    pub(crate) fn build_dir(self, tree: &Tree) -> PathBuf {
        tree.root().join(match self {
            Self::BuiltIn | Self::Debug | Self::Kcsan => {
                format!("{}-{}", tree::BUILD, self.name())
            }
            Self::Module | Self::Stock => tree::BUILD.into(),
        })
    }

    pub(crate) fn series(self) -> Result<Series> {
        if self == Self::Stock {
            return Ok(Series::default());
        }
        let mut series = Series::read(&series::directory()?)?;
        if self == Self::Debug {
            series.push(&series::delays()?)?;
        }
        Ok(series)
    }
}
