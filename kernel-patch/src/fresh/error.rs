//! The errors of a trial.

use std::path::PathBuf;

use crate::host::HostError;

/// The result of a trial that was made.
pub type Result<T, E = FreshError> = std::result::Result<T, E>;

/// A new machine could not be tried, or one of its steps failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FreshError {
    /// An operation on the host failed.
    #[error(transparent)]
    Host(#[from] HostError),

    /// The user is not root.
    #[error("this {0}, which only root may do: run it with sudo")]
    NotRoot(&'static str),

    /// Rust's toolchain cannot be mounted in another root file system.
    #[error("{} is not a Rust toolchain in a directory of its own, such as rustup's", .0.display())]
    NoToolchain(PathBuf),

    /// A step did not succeed.
    #[error("{0}")]
    StepFailed(String),
}
