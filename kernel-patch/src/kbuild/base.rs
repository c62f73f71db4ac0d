//! The releases of Linux that have a series, and what differs between them.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::error::{BuildError, Result};
use crate::host::{backports, files, needs, packages, paths};

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

    /// Debian's tarball of the source. Gets it if it is missing.
    pub(super) fn debians_source(self) -> Result<PathBuf> {
        let tarball = match self {
            Self::V6_12 => packages::file(needs::LINUX_SOURCE).map(PathBuf::from),
            Self::V7_3 => backports::file("linux-source-7.3", "usr/src/linux-source-7.3.tar.xz"),
        };
        tarball.map_err(|error| BuildError::NoSource(self.version(), error))
    }

    /// The compressed configuration of Debian's amd64 kernel. Gets it if it is missing.
    #[cfg(test)]
    pub(super) fn debians_config(self) -> crate::host::error::Result<PathBuf> {
        match self {
            Self::V6_12 => packages::file(needs::LINUX_CONFIG).map(PathBuf::from),
            Self::V7_3 => backports::file(
                "linux-config-7.3",
                "usr/src/linux-config-7.3/config.amd64_none_amd64.xz",
            ),
        }
    }

    /// The file or directory `name` of this base.
    pub(super) fn path(self, name: &str) -> Result<PathBuf> {
        let dir = format!("kernel-patch/linux-{}", self.version());
        Ok(paths::workspace_dir()?.join(dir).join(name))
    }

    /// The directory of the series.
    pub(crate) fn patches(self) -> Result<PathBuf> {
        self.path("patches")
    }

    /// The options that a fragment of all bases needs in addition on this one.
    pub(super) fn options(self, fragment: &str) -> Result<String> {
        Ok(files::text_or_empty(&self.path(fragment)?)?)
    }
}
