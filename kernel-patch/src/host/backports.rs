//! Packages of another Debian: downloads them with apt, without changing the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{HostError, IoContext, Result};
use super::lock::Lock;
use super::progress::Progress;
use super::{files, paths, process};

/// The suite that has current kernels.
const SUITE: &str = "trixie-backports";

/// The keys of Debian's archive, as a file of the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Returns a copy of a file of a package. Downloads the package if there is none.
pub(crate) fn file(package: &str, file: &str) -> Result<PathBuf> {
    let dir = paths::create(paths::work_dir()?.join("apt").join(SUITE))?;
    let _lock = Lock::exclusive(&dir, true)?;
    paths::sweep(&dir)?;
    let name = Path::new(file).file_name().unwrap_or_default();
    let copy = dir.join(name);
    if !copy.exists() {
        download(package, file, &dir, &copy)?;
    }
    Ok(copy)
}

fn download(package: &str, file: &str, dir: &Path, copy: &Path) -> Result<()> {
    let log = paths::new_log("apt-backports.log")?;
    let _progress = Progress::ours(format!("downloading {package} from Debian's {SUITE}"));
    let scratch = paths::scratch_in(dir)?;
    let scratch = scratch.path();
    for part in ["lists/partial", "cache/archives/partial"] {
        paths::create(scratch.join(part))?;
    }
    let sources = scratch.join("sources.list");
    let line = format!("deb [signed-by={KEYRING}] {} {SUITE} main\n", mirror()?);
    files::write(&sources, line.as_bytes())?;
    let options = [
        format!("Dir::Etc::sourcelist={}", sources.display()),
        "Dir::Etc::sourceparts=/dev/null".into(),
        format!("Dir::State::Lists={}", scratch.join("lists").display()),
        format!("Dir::Cache={}", scratch.join("cache").display()),
        // The user that apt downloads as may be unable to enter the directory.
        "APT::Sandbox::User=root".into(),
    ];
    for args in [&["update"][..], &["download", package]] {
        let mut apt = Command::new("apt-get");
        apt.current_dir(scratch).arg("-qq");
        apt.args(options.iter().flat_map(|it| ["-o", it]))
            .args(args);
        process::run(&mut apt, "apt-get", &log)?;
    }
    for deb in files::list(scratch)? {
        if deb.extension().is_some_and(|it| it == "deb") {
            let mut extract = Command::new("dpkg-deb");
            extract.arg("--extract").arg(deb).arg(scratch);
            process::run(&mut extract, "dpkg-deb", &log)?;
        }
    }
    fs::rename(scratch.join(file), copy).cannot("make", copy)
}

/// The archive that this host's own packages come from.
fn mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(ORIGIN) $(REPO_URI)"]);
    command.arg("Created-By: Packages");
    let output = process::stdout(&mut command, "apt-get")?;
    first_mirror(&output)
        .map(String::from)
        .ok_or(HostError::NoMirror)
}

fn first_mirror(targets: &str) -> Option<&str> {
    let mut lines = targets.lines();
    lines.find_map(|line| line.strip_prefix("Debian "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_archive_of_debian_is_the_mirror() {
        let targets = "Other http://packages.example/\nDebian http://mirror.example/debian/\n\
                       Debian http://security.example/\n";
        assert_eq!(first_mirror(targets), Some("http://mirror.example/debian/"));
        assert_eq!(first_mirror("Other http://packages.example/\n"), None);
    }
}
