//! The limit of open files.

use kvm_api::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Calls a function while this process may not open files.
pub fn without_files<T>(call: impl FnOnce() -> T) -> Result<T> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard)?;
    let result = call();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    Ok(result)
}
