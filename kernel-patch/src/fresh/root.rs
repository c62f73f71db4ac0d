//! The root file system of a new machine: Debian 12 with what Rust and git need.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{CARGO_HOME, USER};
use crate::host::error::{Error, Result};
use crate::host::process::{git, run};
use crate::host::progress::Progress;
use crate::host::{files, needs, packages, paths};

/// Debian's release.
const SUITE: &str = "bookworm";

/// What a machine has on which Rust and git work: Rust links by a C compiler, and
/// cargo and git fetch by HTTPS. The rest is what each Debian has.
const PACKAGES: &str = "ca-certificates,gcc,git,libc6-dev";

/// A root file system that nobody has used yet.
pub(super) struct Root {
    path: PathBuf,
    log: PathBuf,
}

impl Root {
    /// Makes one at `path`, which is not there yet. What takes long to make is kept
    /// in `cache` for the next one.
    pub(super) fn make(path: PathBuf, cache: &Path) -> Result<Self> {
        let log = paths::new_log("fresh.log")?;
        let base = base(cache, &log)?;
        let _progress = Progress::ours("unpacking Debian");
        fs::create_dir(&path).map_err(Error::io("make", &path))?;
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--numeric-owner", "--file"]);
        tar.arg(&base).arg("--directory").arg(&path);
        run(tar, "unpacking Debian", &log)?;
        let this = Self { path, log };
        this.connect()?;
        this.add_user()?;
        Ok(this)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A path of the machine's, as it is named here.
    pub(super) fn outside(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// Lets it reach what this host reaches, in the same way.
    fn connect(&self) -> Result<()> {
        for file in ["/etc/resolv.conf", "/etc/hosts"] {
            let content = files::read(Path::new(file))?.unwrap_or_default();
            files::write(&self.outside(file), &content)?;
        }
        let output = Command::new("apt-config").arg("dump").output();
        let output = output.map_err(Error::io("run", Path::new("apt-config")))?;
        let dump = String::from_utf8_lossy(&output.stdout);
        let acquire: String = dump
            .lines()
            .filter(|line| line.starts_with("Acquire::"))
            .map(|line| format!("{line}\n"))
            .collect();
        let file = self.outside("/etc/apt/apt.conf.d/80host");
        files::write(&file, acquire.as_bytes())
    }

    /// The ordinary user, who can write what cargo writes outside of a checkout.
    fn add_user(&self) -> Result<()> {
        let mut useradd = Command::new("chroot");
        useradd.arg(&self.path);
        useradd.args(["useradd", "--create-home", "--shell", "/bin/sh", USER]);
        run(useradd, "useradd", &self.log)?;
        let cargo = paths::create(self.outside(CARGO_HOME))?;
        let all = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(&cargo, all).map_err(Error::io("open to all", &cargo))
    }

    /// Clones the commit that is checked out here to `directory` in there, for the
    /// ordinary user.
    pub(super) fn clone_checkout(&self, directory: &str) -> Result<()> {
        let checkout = paths::workspace_dir()?;
        let mut status = git();
        status.arg("-C").arg(&checkout);
        let status = status.args(["status", "--porcelain"]).output();
        let status = status.map_err(Error::io("run git in", &checkout))?;
        if !status.stdout.is_empty() {
            eprintln!("kernel-patch: what is not committed is not tried");
        }
        let mut clone = git();
        clone.args(["clone", "--quiet", "--no-hardlinks"]);
        clone.arg(&checkout).arg(self.outside(directory));
        run(clone, "git clone", &self.log)?;
        let mut chown = Command::new("chroot");
        chown.arg(&self.path).args(["chown", "--recursive", USER]);
        chown.arg(directory);
        run(chown, "chown", &self.log)
    }

    /// The packages that were asked for by name, since the base was made too.
    pub(super) fn packages(&self) -> Result<Vec<String>> {
        let mut command = Command::new("chroot");
        command.arg(&self.path).args(["apt-mark", "showmanual"]);
        let output = command.output();
        let output = output.map_err(Error::io("run apt-mark in", &self.path))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// The packed file system that each root begins as.
fn base(cache: &Path, log: &Path) -> Result<PathBuf> {
    let base = cache.join("base.tar");
    let stamp = cache.join("base.stamp");
    let wanted = format!("{SUITE} {PACKAGES}");
    if files::read(&stamp)?.is_some_and(|it| it == wanted.as_bytes()) && base.exists() {
        return Ok(base);
    }
    packages::ensure(needs::FRESH)?;
    let _progress = Progress::ours("making a bare Debian 12");
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase"]);
    command.arg(format!("--include={PACKAGES}"));
    command.arg(SUITE).arg(&base);
    run(command, "mmdebstrap", log)?;
    files::write(&stamp, wanted.as_bytes())?;
    Ok(base)
}
