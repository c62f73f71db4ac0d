//! The errors of a move of the series.

use std::path::PathBuf;

use crate::host::HostError;
use crate::kbuild::BuildError;

/// The result of a step of a move.
pub type Result<T, E = PortError> = std::result::Result<T, E>;

/// The series could not be imported, tried on another source or exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// An operation on the host failed, for example git.
    #[error(transparent)]
    Host(#[from] HostError),

    /// The source or the series cannot be read.
    #[error(transparent)]
    Build(#[from] BuildError),

    /// The directory for the repository has something in it.
    #[error("{} exists already; name a new directory", .0.display())]
    Exists(PathBuf),

    /// The directory is not a repository of an import: it lacks this commit.
    #[error(
        "{} has no commit {:?}; make the repository with kernel-patch import",
        .0.display(), .1
    )]
    NotImported(PathBuf, &'static str),
}
