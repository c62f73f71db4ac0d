//! The entry into the new machine: a process mounts the machine's file systems, makes
//! them its root, and becomes the command.
//!
//! The mounts are in a namespace of this process alone. For its parent the root stays a
//! plain directory without mounts, so that removing it removes nothing else.

use std::convert::Infallible;
use std::env;
use std::ffi::CStr;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, chroot};
use serde::{Deserialize, Serialize};

use super::error::Result;
use super::layout::{CARGO_HOME, TOOLCHAIN, USER};
use crate::host::error::IoContext;
use crate::host::paths;

/// The devices that programs expect on any system, and KVM's.
const DEVICES: [&str; 7] = ["null", "zero", "full", "random", "urandom", "tty", "kvm"];

/// One command in the new machine. Its parent passes it as JSON to the process that
/// becomes it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The root file system.
    pub(super) root: PathBuf,
    /// Rust's toolchain on this host.
    pub(super) toolchain: PathBuf,
    /// Cargo's registry on this host.
    pub(super) registry: PathBuf,
    /// The directory of the packages that apt downloads, which the next trial uses too.
    pub(super) packages: PathBuf,
    /// Whether root runs it.
    pub(super) as_root: bool,
    /// Its working directory inside.
    pub(super) directory: String,
    /// The shell command.
    pub(super) command: String,
}

impl Entry {
    /// Becomes the command.
    ///
    /// # Errors
    ///
    /// A file system cannot be mounted, or the command cannot be started.
    pub fn enter(&self) -> Result<Infallible> {
        unshare(CloneFlags::CLONE_NEWNS).cannot("enter", &self.root)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        attach(None, Path::new("/"), None, private, None)?;
        // A root has to be a mount point.
        bind(&self.root, &self.root)?;
        self.mount()?;
        chroot(&self.root).cannot("enter", &self.root)?;
        chdir(self.directory.as_str()).cannot("enter", &self.root)?;
        Ok(Err(self.command().exec()).cannot_named("run", "unshare")?)
    }

    fn mount(&self) -> Result<()> {
        let inside = |path: &str| paths::create(self.root.join(path.trim_start_matches('/')));
        let nothing = MsFlags::empty();
        attach(
            Some("sysfs"),
            &inside("/sys")?,
            Some("sysfs"),
            MsFlags::MS_RDONLY,
            None,
        )?;

        let dev = inside("/dev")?;
        attach(Some("dev"), &dev, Some("tmpfs"), nothing, Some(c"mode=755"))?;
        for name in DEVICES {
            let (from, to) = (Path::new("/dev").join(name), dev.join(name));
            // Some hosts lack KVM.
            if from.exists() {
                File::create(&to).cannot("make", &to)?;
                bind(&from, &to)?;
            }
        }
        let pts = inside("/dev/pts")?;
        let options = c"newinstance,ptmxmode=0666,mode=620,gid=5";
        attach(Some("devpts"), &pts, Some("devpts"), nothing, Some(options))?;
        attach(
            Some("shm"),
            &inside("/dev/shm")?,
            Some("tmpfs"),
            nothing,
            None,
        )?;
        for (name, target) in [
            ("ptmx", "pts/ptmx"),
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ] {
            let link = dev.join(name);
            symlink(target, &link).cannot("make", &link)?;
        }

        bind(&self.packages, &inside("/var/cache/apt/archives")?)?;
        for (from, to) in [
            (&self.toolchain, TOOLCHAIN.to_owned()),
            (&self.registry, format!("{CARGO_HOME}/registry")),
        ] {
            let to = inside(&to)?;
            bind(from, &to)?;
            let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            attach(None, &to, None, read_only, None)?;
        }
        Ok(())
    }

    /// The command in a PID namespace of its own, whose processes all end with the first.
    fn command(&self) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
        if !self.as_root {
            command.args(["setpriv", "--reuid", USER, "--regid", USER, "--init-groups"]);
        }
        let home = if self.as_root {
            "/root".into()
        } else {
            format!("/home/{USER}")
        };
        // The shell stays the first process, because many programs do not expect to be it.
        let script = format!("{}\nexit", self.command);
        command.args(["sh", "-c", &script]);
        command.env_clear();
        command.envs(env::var("TERM").map(|term| ("TERM", term)));
        command
            .env(
                "PATH",
                format!("{TOOLCHAIN}/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            )
            .env("HOME", home)
            .env("CARGO_HOME", CARGO_HOME)
            .env("CARGO_NET_OFFLINE", "true");
        command
    }
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    let from = fs::canonicalize(from).cannot("find", from)?;
    attach(from.to_str(), to, None, MsFlags::MS_BIND, None)
}

fn attach(
    source: Option<&str>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&CStr>,
) -> Result<()> {
    Ok(mount(source, target, kind, flags, options).cannot("mount", target)?)
}
