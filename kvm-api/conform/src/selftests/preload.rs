//! The library that hands the tests' ioctls to the system calls.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Has cargo build the library, and says where it is.
///
/// Everything of this workspace is linked statically, and such a library would
/// be loaded into nothing: it is built with that turned off, in a directory of
/// its own, where it does not turn the workspace's own builds over.
pub fn build() -> Result<PathBuf> {
    const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../preload/Cargo.toml");
    let target = kernel_patch::target_dir()?.join("preload");
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["rustc", "--quiet", "--locked", "--release"])
        .args(["--features", "interpose", "--crate-type", "cdylib"])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .args(["--manifest-path", MANIFEST, "--target-dir"])
        .arg(&target)
        .env("RUSTFLAGS", "-Ctarget-feature=-crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "cargo did not build kvm-preload");
    Ok(target.join("x86_64-unknown-linux-gnu/release/libkvm_preload.so"))
}
