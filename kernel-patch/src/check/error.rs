//! The errors of a check.

use std::path::PathBuf;

use crate::host::HostError;
use crate::kbuild::BuildError;

/// The result of a check that was made.
pub type Result<T, E = CheckError> = std::result::Result<T, E>;

/// The series could not be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// An operation on the host failed.
    #[error(transparent)]
    Host(#[from] HostError),

    /// The source itself, or the series, is unusable.
    #[error(transparent)]
    Build(#[from] BuildError),

    /// The series has no patch of this number.
    #[error("the series has no patch {number}; it has {count}")]
    NoSuchPatch {
        /// The number.
        number: usize,
        /// The number of the last patch.
        count: usize,
    },

    /// No configuration has this name; there are others.
    #[error("no configuration is named {:?}; there are {}", .0, .1.join(", "))]
    NoSuchConfiguration(String, Vec<&'static str>),

    /// The build runs no sparse, so it checks less than the table would say.
    #[error("sparse does not run: {0}")]
    NoSparse(String),

    /// A line in the file of checkpatch's exceptions is incomplete.
    #[error("{}: not PATCH TYPE FILE REASON: {}", .0.display(), .1)]
    BadException(PathBuf, String),
}

/// Turns the failure of a tool into a finding. Other errors keep the series from being
/// checked.
pub(super) fn finding<E: Into<CheckError>>(result: Result<(), E>) -> Result<Option<String>> {
    use CheckError::{Build, Host};
    match result.map_err(Into::into) {
        Ok(()) => Ok(None),
        Err(
            Host(error @ HostError::ToolFailed { .. })
            | Build(BuildError::Host(error @ HostError::ToolFailed { .. })),
        ) => Ok(Some(error.to_string())),
        Err(Build(error @ BuildError::ConfigLost(_))) => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}
