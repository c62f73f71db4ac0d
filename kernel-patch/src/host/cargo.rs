//! Cargo, and its builds of this workspace.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::error::{IoContext, Result};
use super::paths;
use super::process::run;
use super::progress::Progress;

/// The target of everything that this workspace builds.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Returns the command of the cargo that runs this program, or of the default one.
#[must_use]
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Builds the crate in `dir` with `features` as a shared library, for a program that
/// is not part of this workspace. Returns the directory of the library.
///
/// # Errors
///
/// The crate does not build.
pub fn cdylib(dir: &Path, features: &[&str]) -> Result<PathBuf> {
    let features = features.join(",");
    build_dynamic(
        dir,
        &["rustc", "--crate-type", "cdylib", "--features", &features],
    )
}

/// Builds the executables of the crate in `dir` with a dynamic linker, which preloads
/// libraries. Returns their directory.
///
/// # Errors
///
/// The crate does not build.
pub fn dynamic_programs(dir: &Path) -> Result<PathBuf> {
    build_dynamic(dir, &["build"])
}

/// Runs a command of cargo for the crate in `dir`, and returns the directory of what it
/// builds.
///
/// The executables of this workspace are static, and a library that is built in the
/// same way cannot be loaded. What is dynamic is therefore built with other flags, and in a
/// directory of its own, so that the workspace's builds stay valid.
fn build_dynamic(dir: &Path, args: &[&str]) -> Result<PathBuf> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let target = paths::create(paths::target_dir()?.join(&*name))?;
    let log = target.join("build.log");
    let mut command = cargo();
    command
        .args(args)
        .args(["--quiet", "--locked", "--release"]);
    make_dynamic(&mut command, &dir.join("Cargo.toml"), &target);
    let what = format!("building {name}");
    let _progress = Progress::ours(what.clone());
    run(&mut command, &what, &log)?;
    Ok(target.join(TARGET).join("release"))
}

/// Lets a command of cargo build a package for programs with a dynamic linker, in a
/// directory of its own.
pub(crate) fn make_dynamic(command: &mut Command, manifest: &Path, target: &Path) {
    command
        .args(["--target", TARGET, "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .env("RUSTFLAGS", "-Ctarget-feature=-crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
}

/// Returns the last executable that a build of cargo names in its output, which is in
/// JSON.
#[must_use]
pub fn built_executable(output: &str) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
    }
    let executable = |line| serde_json::from_str::<Message>(line).ok()?.executable;
    output.lines().filter_map(executable).next_back()
}

/// Fetches what a package depends on, in the versions that are locked.
pub(crate) fn fetch(manifest: &Path) -> Result<()> {
    let mut fetch = cargo();
    fetch
        .args(["fetch", "--locked", "--target", TARGET, "--manifest-path"])
        .arg(manifest);
    run(&mut fetch, "cargo fetch", &paths::logs()?.join("fetch.log"))
}

/// Returns the path of an executable of this workspace, which cargo puts beside the
/// others. The executables of tests lie one directory below them.
///
/// # Errors
///
/// The path of the running program is not known.
pub fn beside(name: &str) -> Result<PathBuf> {
    let this = this_program()?;
    let dir = this.parent().unwrap_or(Path::new("/"));
    let dir = match dir.file_name() {
        Some(last) if last == "deps" => dir.with_file_name(""),
        _ => dir.to_path_buf(),
    };
    Ok(dir.join(name))
}

/// Returns the path of the running program.
///
/// # Errors
///
/// The path is not known.
pub fn this_program() -> Result<PathBuf> {
    env::current_exe().cannot_named("find", "this program")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_executable_is_found() {
        let library = r#"{"reason":"compiler-artifact","executable":null}"#;
        let other = r#"{"reason":"compiler-artifact","executable":"/a/other"}"#;
        let tests = r#"{"reason":"compiler-artifact","executable":"/a/tests"}"#;
        let end = r#"{"reason":"build-finished","success":true}"#;
        let output = [library, other, "not JSON", tests, library, end].join("\n");
        assert_eq!(built_executable(&output), Some("/a/tests".into()));
        assert_eq!(built_executable(end), None);
    }
}
