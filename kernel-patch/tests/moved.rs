//! A checkout works after it was moved or copied together with its builds.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs `kernel-patch path` with the executable in `checkout`. Returns the directories
/// that it prints.
fn paths(checkout: &Path, package: Option<&Path>) -> Vec<String> {
    let mut command = Command::new(checkout.join("target/debug/kernel-patch"));
    command.arg("path").current_dir("/");
    command.env_remove("CARGO_TARGET_DIR");
    // Cargo sets this for the programs that it runs.
    match package {
        Some(package) => command.env("CARGO_MANIFEST_DIR", package),
        None => command.env_remove("CARGO_MANIFEST_DIR"),
    };
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines = stdout.lines().map(|line| line.split_once('\t').unwrap().1);
    lines.map(str::to_owned).collect()
}

/// Copies this build's executable with `cp`. If this process had the copy open for writing,
/// a child of another test could inherit the descriptor, and the copy could not be executed.
fn copy_program(to: &Path) {
    let program = kernel_patch::beside("kernel-patch").unwrap();
    let status = Command::new("cp").arg(program).arg(to).status().unwrap();
    assert!(status.success());
}

/// Makes a directory that the program takes for a checkout, with this build's executable.
fn checkout(dir: &Path) {
    fs::create_dir_all(dir.join("kernel-patch/mutations")).unwrap();
    fs::create_dir_all(dir.join("target/debug")).unwrap();
    copy_program(&dir.join("target/debug/kernel-patch"));
}

#[track_caller]
fn all_below(paths: &[String], dir: &Path) {
    assert_eq!(paths.len(), 3, "{paths:?}");
    for path in paths {
        assert!(Path::new(path).starts_with(dir), "{path}");
    }
}

#[test]
fn an_executable_works_where_its_checkout_is_now() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| dir.path().join(name));
    checkout(&old);
    all_below(&paths(&old, None), &old);
    fs::rename(&old, &new).unwrap();
    all_below(&paths(&new, None), &new);
    assert!(!old.exists());
}

#[test]
fn the_checkout_of_cargos_package_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let [ours, elsewhere] = ["ours", "elsewhere"].map(|name| dir.path().join(name));
    checkout(&ours);
    checkout(&elsewhere);
    let package = elsewhere.join("benches");
    all_below(&paths(&ours, Some(&package)), &elsewhere);
    // This package is in no checkout.
    all_below(&paths(&ours, Some(dir.path())), &ours);
}

#[test]
fn a_program_outside_of_any_checkout_explains_itself() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("kernel-patch");
    copy_program(&program);
    let output = Command::new(&program)
        .arg("path")
        .current_dir(dir.path())
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_MANIFEST_DIR")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.starts_with("kernel-patch: cannot find the checkout of this project"),
        "{stderr}"
    );
}
