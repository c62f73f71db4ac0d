//! A crate of this workspace as a shared library, for what is not ours to load.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;
use crate::progress::Progress;
use crate::{Result, paths};

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Has cargo build the crate in `dir` with `features`, and says where the
/// library is.
///
/// Everything of this workspace is linked statically, and such a library would
/// be loaded into nothing: it is built with that turned off, in a directory of
/// its own, where it does not turn the workspace's own builds over.
///
/// # Errors
///
/// When the crate does not build.
pub fn cdylib(dir: &Path, features: &[&str]) -> Result<PathBuf> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let target = paths::target_dir()?.join(&*name);
    let log = paths::made(target.clone())?.join("build.log");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["rustc", "--quiet", "--locked", "--release"])
        .args(["--crate-type", "cdylib", "--target", TRIPLE])
        .args(["--features", &features.join(",")])
        .arg("--manifest-path")
        .arg(dir.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "-Ctarget-feature=-crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    let what = format!("building {name}");
    let _progress = Progress::ours(what.clone());
    run(command, &what, &log)?;
    Ok(target.join(TRIPLE).join("release"))
}
