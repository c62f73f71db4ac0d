//! The kernels that can be built.

use std::path::PathBuf;

use clap::ValueEnum;

use super::error::Result;
use crate::kbuild::base::Base;
use crate::kbuild::series::Series;
use crate::kbuild::tree::{self, Tree};

/// A kernel to build from the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
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

    /// The tree of this variant of `base`.
    pub(crate) fn tree(self, base: Base) -> Result<Tree> {
        let name = match self {
            Self::Stock => "stock",
            Self::Debug => "debug",
            Self::Module | Self::BuiltIn | Self::Kcsan => "patched",
        };
        Tree::of(base, name)
    }

    pub(crate) fn build_dir(self, tree: &Tree) -> PathBuf {
        tree.root.join(match self {
            Self::BuiltIn | Self::Debug | Self::Kcsan => {
                format!("{}-{}", tree::BUILD, self.name())
            }
            Self::Module | Self::Stock => tree::BUILD.into(),
        })
    }

    /// The patches that make this variant of `base`.
    pub(crate) fn series(self, base: Base) -> Result<Series> {
        if self == Self::Stock {
            return Ok(Series::default());
        }
        let mut series = Series::read(&base.patches()?)?;
        if self == Self::Debug {
            series.push(&base.path("debug.patch")?)?;
        }
        Ok(series)
    }
}
