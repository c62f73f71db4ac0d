//! The unit tests of kvm-ioctls, a crate by which VMMs make KVM's ioctls.

use std::path::PathBuf;

use serde::Deserialize;

use super::cargo::{self, TARGET, built_executable, make_dynamic};
use super::error::{HostError, Result};
use super::{Progress, paths, process};

/// The crate, which is a dependency of this workspace.
const NAME: &str = "kvm-ioctls";

/// Builds the tests as the crate is published, with the dependencies that its authors have
/// locked, and returns their executable. It is dynamic: see
/// [`libraries`](crate::libraries).
///
/// # Errors
///
/// Cargo fails, for example because it cannot fetch the crate.
pub fn kvm_ioctls_tests() -> Result<PathBuf> {
    let _progress = Progress::ours(format!("building the tests of {NAME}"));
    let target = paths::create(paths::target_dir()?.join(NAME))?;
    let log = target.join("build.log");
    let mut command = cargo::cargo();
    command
        .args(["test", "--quiet", "--locked", "--lib", "--no-run"])
        .arg("--message-format=json-render-diagnostics")
        // The executable goes into a machine's memory.
        .env("CARGO_PROFILE_TEST_STRIP", "debuginfo");
    make_dynamic(&mut command, &manifest()?, &target);
    let what = format!("cargo test of {NAME}");
    let output = process::run_for_stdout(&mut command, &what, &log)?;
    built_executable(&output).ok_or(HostError::NotNamed(NAME))
}

/// Fetches what the tests depend on.
pub(crate) fn fetch() -> Result<()> {
    cargo::fetch(&manifest()?)
}

/// The manifest of the locked version in cargo's registry. Cargo compares the package, its
/// Cargo.lock included, with the checksum in this workspace's Cargo.lock.
fn manifest() -> Result<PathBuf> {
    let mut command = cargo::cargo();
    command
        .args(["metadata", "--format-version=1", "--locked"])
        .args(["--filter-platform", TARGET, "--manifest-path"])
        .arg(paths::workspace_dir()?.join("Cargo.toml"));
    let log = paths::logs()?.join("metadata.log");
    let output = process::run_for_stdout(&mut command, "cargo metadata", &log)?;
    find(&output).ok_or(HostError::NotNamed(NAME))
}

/// The manifest of the crate in what cargo says about the workspace.
fn find(metadata: &str) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        manifest_path: PathBuf,
    }
    let metadata: Metadata = serde_json::from_str(metadata).ok()?;
    let mut packages = metadata.packages.into_iter();
    let package = packages.find(|package| package.name == NAME)?;
    Some(package.manifest_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_is_found_by_its_name() {
        let metadata = r#"{"packages":[
            {"name":"kvm-ioctls-2","manifest_path":"/2/Cargo.toml"},
            {"name":"kvm-ioctls","manifest_path":"/1/Cargo.toml"}]}"#;
        assert_eq!(find(metadata), Some("/1/Cargo.toml".into()));
        assert_eq!(find(r#"{"packages":[]}"#), None);
    }

    #[test]
    fn its_manifest_is_in_the_registry() {
        let manifest = manifest().unwrap();
        assert!(
            manifest.with_file_name("Cargo.lock").exists(),
            "{manifest:?}"
        );
    }
}
