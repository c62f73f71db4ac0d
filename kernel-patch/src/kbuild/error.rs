//! The errors of a build.

use std::path::PathBuf;

use crate::host::HostError;

/// The result of a build.
pub type Result<T, E = BuildError> = std::result::Result<T, E>;

/// A kernel could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An operation on the host failed, for example a tool.
    #[error(transparent)]
    Host(#[from] HostError),

    /// The source has another version than the series is for.
    #[error("{} is {found}; the patch series is for Linux {wanted}", path.display())]
    WrongSource {
        /// The tree or the tarball.
        path: PathBuf,
        /// Its content.
        found: String,
        /// The version of the series.
        wanted: &'static str,
    },

    /// The source of this version cannot be downloaded from Debian.
    #[error(
        "cannot get the source of Linux {0} from Debian; pass a tree or a tarball of it with \
         --source"
    )]
    NoSource(&'static str, #[source] HostError),

    /// A directory contains no patches.
    #[error("no patches in {}", .0.display())]
    NoPatches(PathBuf),

    /// A patch does not apply.
    #[error("{patch} does not apply to {file}:\n{detail}")]
    PatchFailed {
        /// The patch's file name.
        patch: String,
        /// The kernel's file.
        file: String,
        /// The output of `patch`.
        detail: String,
    },

    /// A mutation's patch lacks a line of the header.
    #[error("{} has no valid line {:?}", .0.display(), .1)]
    BadMutation(PathBuf, &'static str),

    /// The tree to build is not a git work tree with a commit, according to git.
    #[error("{} is not a git work tree with a commit: {}", .0.display(), .1)]
    NoCommit(PathBuf, String),

    /// The kernel's configuration lacks options of the fragments.
    #[error("the kernel's configuration lost these options:\n{}", .0.join("\n"))]
    ConfigLost(Vec<String>),
}
