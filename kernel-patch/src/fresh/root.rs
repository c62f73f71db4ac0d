//! The root file system of a new machine: Debian 12 with the packages that Rust and git need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::Result;
use crate::host::process::{git, run, stdout};
use crate::host::{IoContext, Progress, files, needs, packages, paths};

/// Debian's release.
const SUITE: &str = "bookworm";

/// The packages that Rust and git need besides a minimal Debian: Rust links with a C
/// compiler, and cargo and git fetch by HTTPS.
const PACKAGES: &str = "ca-certificates,gcc,git,libc6-dev";

/// The ordinary user in the machine.
pub(super) const USER: &str = "user";

/// An unused root file system.
pub(super) struct RootFs {
    pub(super) path: PathBuf,
    log: PathBuf,
}

impl RootFs {
    /// Makes a root file system at `path`, which must not exist. Keeps the
    /// tarball that it is unpacked from in `cache`.
    pub(super) fn make(path: PathBuf, cache: &Path) -> Result<Self> {
        let log = paths::new_log("fresh.log")?;
        let base = base(cache, &log)?;
        let _progress = Progress::ours("unpacking Debian");
        fs::create_dir(&path).cannot("make", &path)?;
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--numeric-owner", "--file"]);
        tar.arg(&base).arg("--directory").arg(&path);
        run(&mut tar, "unpacking Debian", &log)?;
        let this = Self { path, log };
        this.connect()?;
        let mut useradd = this.chroot("useradd");
        useradd.args(["--create-home", "--shell", "/bin/sh", USER]);
        run(&mut useradd, "useradd", &this.log)?;
        Ok(this)
    }

    /// The host's path for a path in the machine.
    pub(super) fn outside(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// Returns the command that runs `program` in the machine.
    fn chroot(&self, program: &str) -> Command {
        let mut command = Command::new("chroot");
        command.arg(&self.path).arg(program);
        command
    }

    /// Copies the host's network settings.
    fn connect(&self) -> Result<()> {
        for file in ["/etc/resolv.conf", "/etc/hosts"] {
            let content = files::read(Path::new(file))?.unwrap_or_default();
            files::write(&self.outside(file), &content)?;
        }
        let dump = stdout(Command::new("apt-config").arg("dump"), "apt-config")?;
        let acquire: String = dump
            .lines()
            .filter(|line| line.starts_with("Acquire::"))
            .map(|line| format!("{line}\n"))
            .collect();
        let file = self.outside("/etc/apt/apt.conf.d/80host");
        Ok(files::write(&file, acquire.as_bytes())?)
    }

    /// Clones the current commit to `directory` in the machine, for the ordinary user.
    pub(super) fn clone_checkout(&self, directory: &str) -> Result<()> {
        let checkout = paths::workspace_dir()?;
        let mut status = git();
        status.arg("-C").arg(&checkout);
        let status = stdout(status.args(["status", "--porcelain"]), "git status")?;
        if !status.is_empty() {
            eprintln!("kernel-patch: the clone does not have the uncommitted changes");
        }
        let mut clone = git();
        clone.args(["clone", "--quiet", "--no-hardlinks"]);
        clone.arg(&checkout).arg(self.outside(directory));
        run(&mut clone, "git clone", &self.log)?;
        let mut chown = self.chroot("chown");
        chown.args(["--recursive", USER, directory]);
        Ok(run(&mut chown, "chown", &self.log)?)
    }

    /// The packages that were installed by name, those of the base included.
    pub(super) fn packages(&self) -> Result<Vec<String>> {
        let text = stdout(self.chroot("apt-mark").arg("showmanual"), "apt-mark")?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// Returns the tarball that each root file system is unpacked from.
fn base(cache: &Path, log: &Path) -> Result<PathBuf> {
    let base = cache.join("base.tar");
    let stamp = cache.join("base.stamp");
    let wanted = format!("{SUITE} {PACKAGES}");
    if files::has(&stamp, wanted.as_bytes())? && base.exists() {
        return Ok(base);
    }
    packages::ensure(needs::FRESH)?;
    let _progress = Progress::ours("making a bare Debian 12");
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase"]);
    command.arg(format!("--include={PACKAGES}"));
    command.arg(SUITE).arg(&base);
    run(&mut command, "mmdebstrap", log)?;
    files::write(&stamp, wanted.as_bytes())?;
    Ok(base)
}
