//! Debian's packages: finds missing ones, and installs them or prints the command for it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::Uid;

use super::error::{HostError, Result};
use super::lock::Lock;
use super::needs::{CHROMIUM, COMMANDS, Need, OTHERS};
use super::paths;
use super::process::run;
use super::progress::Progress;

/// Returns the browser for a test that opens a report. Installs Debian's Chromium if
/// it is missing and the user may install packages.
///
/// # Errors
///
/// The browser is still missing.
pub fn browser() -> Result<&'static Path> {
    file(CHROMIUM)
}

/// Returns the file of a package. Installs the package if the file is missing and the user
/// may install packages.
pub(crate) fn file(need: Need) -> Result<&'static Path> {
    ensure(&[need])?;
    Ok(Path::new(need.name))
}

/// Installs the packages of missing `needs`, if the user may. Otherwise the error
/// contains a command line that installs the packages of all of the README's commands,
/// so that the user has to paste only one.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing = |needs: &[Need]| missing(needs, &search_path(), Path::new("/"));
    let mut lacking = missing(needs);
    if lacking.is_empty() {
        return Ok(());
    }
    if let Some(prefix) = privilege() {
        // Another process can need the same packages at the same time, and apt does not
        // wait for a process that reads the package lists.
        let _lock = Lock::exclusive(&paths::create(paths::work_dir()?.join("apt"))?, true)?;
        lacking = missing(needs);
        if !lacking.is_empty() {
            install(prefix, &packages(&lacking))?;
            lacking = missing(needs);
        }
    }
    if lacking.is_empty() {
        return Ok(());
    }
    let all = [&lacking[..], &missing(&COMMANDS.concat())].concat();
    Err(refusal(&lacking, &packages(&all)))
}

fn search_path() -> OsString {
    env::var_os("PATH").unwrap_or_default()
}

fn missing(needs: &[Need], path: &OsStr, root: &Path) -> Vec<Need> {
    let mut missing = needs.to_vec();
    missing.retain(|need| !need.is_met(path, root));
    missing
}

fn packages(missing: &[Need]) -> Vec<&'static str> {
    let mut packages: Vec<_> = missing.iter().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Whether a command that is not one of the README's needs `package`.
pub(crate) fn is_for_others(package: &str) -> bool {
    let needs = OTHERS.concat();
    needs.iter().any(|need| need.package == package)
}

/// The command that installs packages, up to their names.
const INSTALL: &str = "apt-get install -y --no-install-recommends ";

/// The packages in the command line to paste that `output` contains, if it does.
pub(crate) fn packages_to_paste(output: &str) -> Vec<String> {
    let line = output.lines().find_map(|line| line.split_once(INSTALL));
    let packages = line.map_or("", |(_, packages)| packages);
    packages.split_whitespace().map(str::to_owned).collect()
}

fn refusal(missing: &[Need], packages: &[&str]) -> HostError {
    let names: Vec<_> = missing.iter().map(|need| need.name).collect();
    let packages = packages.join(" ");
    let line = format!("sudo apt-get update && sudo {INSTALL}{packages}");
    HostError::PackagesMissing(names.join(", "), line)
}

/// The words to put before `apt-get`; `None` if the user may not install packages.
fn privilege() -> Option<&'static [&'static str]> {
    let quietly = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !quietly("apt-get", &["--version"]) {
        None
    } else if Uid::effective().is_root() {
        Some(&["env"])
    } else if quietly("sudo", &["-n", "true"]) {
        Some(&["sudo", "-n", "env"])
    } else {
        None
    }
}

fn install(prefix: &[&str], packages: &[&str]) -> Result<()> {
    let log = paths::new_log("apt.log")?;
    let _progress = Progress::ours(format!("installing from Debian: {}", packages.join(" ")));
    let apt = |args: &[&str], packages: &[&str]| {
        let mut command = Command::new(prefix[0]);
        command
            .args(&prefix[1..])
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .args(["-qq", "-o", "DPkg::Lock::Timeout=120"]);
        run(command.args(args).args(packages), "apt-get", &log)
    };
    let install = &["install", "-y", "--no-install-recommends"];
    // The package lists can be missing, or name versions that the archive no longer
    // has. Updating them takes time, so try without first.
    apt(install, packages).or_else(|error| match error {
        HostError::ToolFailed { .. } => apt(&["update"], &[]).and_then(|()| apt(install, packages)),
        other => Err(other),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::needs::{BOCHS, BOCHS_VGA_BIOS, BUILD, LINUX_SOURCE, need};
    use super::*;

    #[test]
    fn missing_tools_are_named_with_the_line_to_paste() {
        let bin = tempfile::tempdir().unwrap();
        for name in ["make", "gcc", "objcopy", "patch", "perl", "tar", "xz"] {
            fs::write(bin.path().join(name), "").unwrap();
        }
        let path = env::join_paths([Path::new("/nonexistent"), bin.path()]).unwrap();
        let missing = missing(BUILD, &path, bin.path());
        let error = refusal(&missing, &packages(&missing)).to_string();
        assert_eq!(
            error,
            "missing: qemu-system-x86_64, gcov, flex, bison, bc, /usr/include/stdlib.h, \
             /usr/include/gelf.h, /usr/include/uuid/uuid.h\n\
             this command installs everything that the README's commands need:\n    \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends \
             bc bison flex gcc libc6-dev libelf-dev qemu-system-x86 uuid-dev"
        );
        let line = packages_to_paste(&error);
        assert_eq!(line.join(" "), packages(&missing).join(" "));
        assert_eq!(packages_to_paste("no such line"), [""; 0]);
    }

    #[test]
    fn nothing_is_missing_if_every_file_exists() {
        let root = tempfile::tempdir().unwrap();
        let source = root.path().join(&LINUX_SOURCE.name[1..]);
        fs::create_dir_all(source.parent().unwrap()).unwrap();
        fs::write(&source, "").unwrap();
        assert!(missing(&[LINUX_SOURCE], OsStr::new(""), root.path()).is_empty());
    }

    #[test]
    fn a_link_that_points_nowhere_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join(&BOCHS_VGA_BIOS.name[1..]);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("../vgabios/vgabios.bin", &link).unwrap();
        let missing = || {
            let missing = missing(BOCHS, OsStr::new(""), root.path());
            packages(&missing).contains(&"vgabios")
        };
        assert!(missing());
        let target = root.path().join("usr/share/vgabios/vgabios.bin");
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(&target, "").unwrap();
        assert!(!missing());
    }

    #[test]
    fn a_package_is_named_once() {
        let needs = [need("a", "p"), need("b", "p"), need("c", "o")];
        assert_eq!(packages(&needs), ["o", "p"]);
    }
}
