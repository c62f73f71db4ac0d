//! TOMOYO, a security module that restricts opening files by their path, and
//! ioctls by the path and the command. Its rules are written to files.

use std::fs::{self, File};
use std::io::Write;
use std::process::{self, Command, Stdio};

use anyhow::{Context, Result, ensure};
use libc::c_ulong;

use super::securityfs::mount_securityfs;

/// A program whose execution enables the policy, for good.
pub const TRIGGER: &str = "/proc/self/exe";
/// The program that loads the policy. It only has to exist.
pub const LOADER: &str = "/proc/version";

const TOMOYO: &str = "/sys/kernel/security/tomoyo";

/// The rules of this process and of those that it starts.
pub struct Rules(File);

impl Rules {
    /// Enables TOMOYO: from now on this process may not make any ioctl.
    pub fn enforce() -> Result<Self> {
        mount_securityfs()?;
        // Profile 0 applies to all processes and allows everything.
        write(
            "profile",
            "PROFILE_VERSION=20150505\n0-COMMENT=others\n1-COMMENT=this\n\
             1-CONFIG::file::ioctl={ mode=enforcing grant_log=no reject_log=no }\n\
             2-COMMENT=this, which opens files\n\
             2-CONFIG::file::open={ mode=enforcing grant_log=no reject_log=no }\n",
        )?;
        let this = fs::read_link("/proc/self/exe")?;
        write("manager", &format!("{}\n", this.display()))?;
        let activated = Command::new(TRIGGER)
            .arg("--version")
            .stdout(Stdio::null())
            .status()?;
        ensure!(activated.success(), "{TRIGGER} ends with {activated}");
        let mut rules = Self(open("domain_policy")?);
        rules.write(&format!("select pid={}\nuse_profile 1\n", process::id()))?;
        Ok(rules)
    }

    /// Allows a command on the file at `path`.
    pub fn allow(&mut self, path: &str, command: c_ulong) -> Result<()> {
        self.write(&rule(path, command))
    }

    /// Revokes the permission.
    pub fn forbid(&mut self, path: &str, command: c_ulong) -> Result<()> {
        self.write(&format!("delete {}", rule(path, command)))
    }

    /// From now on, denies opening files instead of ioctls.
    pub fn about_opening(&mut self) -> Result<()> {
        self.write("use_profile 2\n")
    }

    /// Allows opening the file at `path` for `access`: "read" or "write".
    pub fn allow_opening(&mut self, access: &str, path: &str) -> Result<()> {
        self.write(&format!("file {access} {path}\n"))
    }

    fn write(&mut self, text: &str) -> Result<()> {
        // Writes whole lines at once.
        self.0.write_all(text.as_bytes()).context("domain_policy")
    }
}

/// The file for the outcome is opened as well.
impl Drop for Rules {
    fn drop(&mut self) {
        self.write("use_profile 0\n").expect("the manager may");
    }
}

fn rule(path: &str, command: c_ulong) -> String {
    format!("file ioctl {path} {command:#x}\n")
}

fn open(name: &str) -> Result<File> {
    let path = format!("{TOMOYO}/{name}");
    let file = File::options().write(true).open(&path);
    file.with_context(|| format!("{path} does not open; the kernel needs lsm=tomoyo"))
}

fn write(name: &str, text: &str) -> Result<()> {
    open(name)?
        .write_all(text.as_bytes())
        .context(name.to_owned())
}
