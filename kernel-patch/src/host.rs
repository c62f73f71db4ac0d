//! What the host must have, and how it gets it.
//!
//! A need is a program or a file that something here opens, not a package: a
//! package may be there and its link point nowhere.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

use nix::unistd::Uid;

use crate::lock::Lock;
use crate::process::run;
use crate::progress::Progress;
use crate::{Error, Result, bochs, paths, qemu, source};

/// A thing that must be there, and Debian's package of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    what: What,
    package: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Program(&'static str),
    File(&'static str),
}

const fn program(name: &'static str, package: &'static str) -> Need {
    let what = What::Program(name);
    Need { what, package }
}

const fn file(path: &'static str, package: &'static str) -> Need {
    let what = What::File(path);
    Need { what, package }
}

/// To run a machine.
pub(crate) const RUN: &[Need] = &[
    program(qemu::PROGRAM, "qemu-system-x86"),
    program("objcopy", "binutils"),
];

/// To run one by Bochs.
pub(crate) const BOCHS: &[Need] = &[
    program(bochs::PROGRAM, "bochs"),
    program("objcopy", "binutils"),
    program(bochs::MKISOFS, "genisoimage"),
    file(bochs::PLUGINS[0].1, "bochs"),
    file(bochs::PLUGINS[1].1, "bochs"),
    file(bochs::PLUGINS[2].1, "bochs"),
    file(bochs::PLUGINS[3].1, "bochs"),
    file(bochs::TERMINAL, "bochs-term"),
    file(bochs::BIOS, "bochsbios"),
    file(bochs::VGA_BIOS, "vgabios"),
    file(bochs::ISOLINUX, "isolinux"),
    file(bochs::LDLINUX, "syslinux-common"),
];

/// To build a kernel.
pub(crate) const BUILD: &[Need] = &[
    program(qemu::PROGRAM, "qemu-system-x86"),
    program("gcc", "gcc"),
    program("gcov", "gcc"),
    program("objcopy", "binutils"),
    program("make", "make"),
    program("patch", "patch"),
    program("flex", "flex"),
    program("bison", "bison"),
    program("bc", "bc"),
    program("perl", "perl"),
    program("tar", "tar"),
    program("xz", "xz-utils"),
    file("/usr/include/stdlib.h", "libc6-dev"),
    file("/usr/include/gelf.h", "libelf-dev"),
];

/// The source, when none is named.
pub(crate) const SOURCE: &[Need] = &[file(source::DEBIAN, "linux-source-6.12")];

/// To have the series as commits.
pub(crate) const GIT: &[Need] = &[program("git", "git")];

/// To check the series, beside what it takes to build. The kernel's scripts
/// run Debian's Python, for which the modules are.
pub(crate) const CHECK: &[Need] = &[
    program("sparse", "sparse"),
    program("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    program("clang", "clang"),
    program("ld.lld", "lld"),
    program("llvm-ar", "llvm"),
    file("/usr/bin/sphinx-build", "python3-sphinx"),
    file("/usr/lib/python3/dist-packages/ply/lex.py", "python3-ply"),
    file(
        "/usr/lib/python3/dist-packages/git/__init__.py",
        "python3-git",
    ),
];

/// To check the manual pages. Debian's `man` brings groff and its macros.
pub(crate) const MAN: &[Need] = &[program("man", "man-db"), program("mandoc", "mandoc")];

/// The distribution's configuration, to hold ours against, which a test does.
pub(crate) const CONFIG: &[Need] = &[
    program("xz", "xz-utils"),
    file(crate::config::DEBIAN, "linux-config-6.12"),
];

/// To look at a report as a reader does, which a test does.
const BROWSER: &[Need] = &[file(CHROMIUM, "chromium")];
const CHROMIUM: &str = "/usr/bin/chromium";

/// To make a new machine to try this on.
pub(crate) const FRESH: &[Need] = &[program("mmdebstrap", "mmdebstrap")];

/// All that the README's commands need.
const COMMANDS: [&[Need]; 8] = [RUN, BOCHS, BUILD, SOURCE, GIT, MAN, CONFIG, BROWSER];

impl Need {
    /// The file, if that is what is needed.
    #[cfg(test)]
    pub(crate) fn file(self) -> Option<&'static Path> {
        match self.what {
            What::File(file) => Some(Path::new(file)),
            What::Program(_) => None,
        }
    }

    fn is_met(self, path: &OsStr, root: &Path) -> bool {
        match self.what {
            What::Program(name) => env::split_paths(path).any(|dir| dir.join(name).is_file()),
            What::File(file) => root.join(file.trim_start_matches('/')).is_file(),
        }
    }

    fn name(self) -> &'static str {
        match self.what {
            What::Program(name) | What::File(name) => name,
        }
    }
}

/// A browser, for a test that looks at a report: installs Debian's Chromium if it
/// is missing and that is allowed.
///
/// # Errors
///
/// When it is missing still.
pub fn browser() -> Result<&'static Path> {
    ensure(BROWSER)?;
    Ok(Path::new(CHROMIUM))
}

/// Installs what is missing, if that is allowed. Otherwise the error has a line
/// that gets all that the README's commands need, so that it is asked for once.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing = |needs: &[Need]| missing(needs, &search_path(), Path::new("/"));
    let mut lacking = missing(needs);
    if lacking.is_empty() {
        return Ok(());
    }
    if let Some(prefix) = privilege() {
        // Others may need the same at the same time, and apt does not wait for
        // those who read lists of packages.
        let _lock = Lock::exclusive(&paths::made(paths::root()?.join("apt"))?, true)?;
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

/// Whether a package is asked for by the check of the series alone, which is none of
/// the README's commands.
pub(crate) fn is_for_check(package: &str) -> bool {
    CHECK.iter().any(|need| need.package == package)
}

/// What installs packages, in front of their names.
const INSTALL: &str = "apt-get install -y --no-install-recommends ";

/// The packages of the line to paste in what a program said; none if it has none.
pub(crate) fn packages_to_paste(said: &str) -> Vec<String> {
    let line = said.lines().find_map(|line| line.split_once(INSTALL));
    let packages = line.map_or("", |(_, packages)| packages);
    packages.split_whitespace().map(str::to_owned).collect()
}

fn refusal(missing: &[Need], packages: &[&str]) -> Error {
    let names: Vec<_> = missing.iter().map(|need| need.name()).collect();
    Error::ToolsMissing {
        missing: names.join(", "),
        line: format!(
            "sudo apt-get update && sudo {INSTALL}{}",
            packages.join(" ")
        ),
    }
}

/// What to put before `apt-get`; `None` when it may not be run from here.
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
    let log = paths::logs()?.join("apt.log");
    let _ = fs::remove_file(&log);
    let _progress = Progress::ours(format!("installing from Debian: {}", packages.join(" ")));
    let apt = |args: &[&str], packages: &[&str]| {
        let mut command = Command::new(prefix[0]);
        command
            .args(&prefix[1..])
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .args(["-qq", "-o", "DPkg::Lock::Timeout=120"])
            .args(args)
            .args(packages);
        run(command, "apt-get", &log)
    };
    let install = &["install", "-y", "--no-install-recommends"];
    // Lists that are not there yet, or name versions that are gone, are the
    // common reasons for a failure; new ones cost time, so they come second.
    apt(install, packages).or_else(|error| match error {
        Error::ToolFailed { .. } => apt(&["update"], &[]).and_then(|()| apt(install, packages)),
        other => Err(other),
    })
}

#[cfg(test)]
mod tests {
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
             /usr/include/gelf.h\n\
             this gets it, and what else the README's commands need:\n    \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends \
             bc bison flex gcc libc6-dev libelf-dev qemu-system-x86"
        );
        let line = packages_to_paste(&error);
        assert_eq!(line.join(" "), packages(&missing).join(" "));
        assert_eq!(packages_to_paste("no such line"), [""; 0]);
    }

    #[test]
    fn nothing_is_missing_where_all_is_there() {
        let root = tempfile::tempdir().unwrap();
        let source = root.path().join(&source::DEBIAN[1..]);
        fs::create_dir_all(source.parent().unwrap()).unwrap();
        fs::write(&source, "").unwrap();
        assert!(missing(SOURCE, OsStr::new(""), root.path()).is_empty());
    }

    #[test]
    fn a_link_that_points_nowhere_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join(&bochs::VGA_BIOS[1..]);
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
        let needs = [program("a", "p"), program("b", "p"), program("c", "o")];
        assert_eq!(packages(&needs), ["o", "p"]);
    }
}
