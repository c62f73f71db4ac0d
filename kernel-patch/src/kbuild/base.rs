//! The releases of Linux that have a series, and what differs between them.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::error::{BuildError, Result};
use crate::host::needs::{self, Need};
use crate::host::{self, backports, files, packages, paths};

/// A release of Linux that the series is kept for, in a directory of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Base {
    /// Linux 6.12, which Debian 12 has.
    #[value(name = "6.12")]
    V6_12,
    /// Linux 7.3, which Debian 13 has as a backport.
    #[default]
    #[value(name = "7.3")]
    V7_3,
}

/// Where Debian has a file.
enum Debian {
    /// In a package for this host, which installs it.
    Installed(Need),
    /// In a package for another Debian, which is unpacked and not installed.
    Backported {
        package: &'static str,
        file: &'static str,
    },
}

impl Debian {
    /// The file. Gets it if it is missing.
    fn get(self) -> host::error::Result<PathBuf> {
        match self {
            Self::Installed(file) => {
                packages::ensure(&[file])?;
                Ok(file.name.into())
            }
            Self::Backported { package, file } => backports::file(package, file),
        }
    }
}

impl Base {
    /// All bases, the oldest first.
    pub const ALL: [Self; 2] = [Self::V6_12, Self::V7_3];

    /// The version, as `--base` takes it.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::V6_12 => "6.12",
            Self::V7_3 => "7.3",
        }
    }

    /// The base of this version.
    pub(super) fn of_version(version: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.version() == version)
    }

    /// Debian's tarball of the source. Gets it if it is missing.
    pub(super) fn debians_source(self) -> Result<PathBuf> {
        let tarball = match self {
            Self::V6_12 => Debian::Installed(needs::LINUX_SOURCE),
            Self::V7_3 => Debian::Backported {
                package: "linux-source-7.3",
                file: "usr/src/linux-source-7.3.tar.xz",
            },
        };
        tarball.get().map_err(|source| BuildError::NoSource {
            version: self.version(),
            source,
        })
    }

    /// The compressed configuration of Debian's amd64 kernel. Gets it if it is missing.
    #[cfg(test)]
    pub(super) fn debians_config(self) -> host::error::Result<PathBuf> {
        let config = match self {
            Self::V6_12 => Debian::Installed(needs::LINUX_CONFIG),
            Self::V7_3 => Debian::Backported {
                package: "linux-config-7.3",
                file: "usr/src/linux-config-7.3/config.amd64_none_amd64.xz",
            },
        };
        config.get()
    }

    /// The file or directory `name` of this base.
    fn path(self, name: &str) -> Result<PathBuf> {
        let dir = format!("kernel-patch/linux-{}", self.version());
        Ok(paths::workspace_dir()?.join(dir).join(name))
    }

    /// The directory of the series.
    pub(crate) fn patches(self) -> Result<PathBuf> {
        self.path("patches")
    }

    /// The patch of the debug kernel.
    pub(super) fn debug_patch(self) -> Result<PathBuf> {
        self.path("debug.patch")
    }

    /// The directory of the mutations that apply to this base only.
    pub(super) fn mutations(self) -> Result<PathBuf> {
        self.path("mutations")
    }

    /// The options that a fragment of all bases needs in addition on this one.
    pub(super) fn options(self, fragment: &str) -> Result<String> {
        Ok(files::text_or_empty(&self.path(fragment)?)?)
    }
}
