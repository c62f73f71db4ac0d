//! A new machine: a bare Debian 12, with Rust, git and nothing else, in which the
//! commit that is checked out is cloned, and the README's commands are run.
//!
//! What was installed by hand on the machine at hand hides what this project forgot
//! to ask for. In there nothing is installed that it does not ask for itself.

mod enter;
mod report;
mod root;

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::Uid;

pub use self::enter::Entry;
pub use self::report::Report;
use self::root::Root;
use crate::host::cargo::{TARGET, cargo};
use crate::host::error::{Error, Result};
use crate::host::lanes::lanes;
use crate::host::lock::Lock;
use crate::host::progress::Progress;
use crate::host::{files, needs, packages, paths, process};

/// The commands that the README promises.
pub const README: [&str; 3] = ["cargo compare", "cargo test", "cargo conform"];

/// Which of them an ordinary user tries first, without what it needs.
const FIRST: &str = README[0];

/// What is run once more after the checkout was moved: a short one of them.
const MOVED: &str = "cargo compare --no-criterion --filter kvm_get_regs";

/// The ordinary user.
const USER: &str = "user";

/// The checkout in there, and where it is moved to.
const CHECKOUT: &str = "/home/user/checkout";
const ELSEWHERE: &str = "/home/user/elsewhere";

/// Rust's toolchain in there.
const TOOLCHAIN: &str = "/opt/rust";

/// Where cargo keeps its registry in there, for every user.
const CARGO_HOME: &str = "/var/cache/cargo";

/// The name of the hidden command that becomes an [`Entry`]'s.
pub const ENTER: &str = "enter-fresh";

/// What is tried on a new machine, and how.
#[derive(Clone, Debug)]
pub struct Fresh {
    commands: Vec<String>,
    beside: Vec<String>,
    spare: Vec<String>,
    spare_within: Duration,
    timeout: Duration,
    keep: bool,
    wait: bool,
}

impl Fresh {
    /// Those commands, one after the other, each of them a line of shell.
    #[must_use]
    pub fn new(commands: Vec<String>) -> Self {
        Self {
            commands,
            beside: Vec::new(),
            spare: Vec::new(),
            spare_within: Duration::MAX,
            timeout: Duration::from_secs(60 * 60),
            keep: false,
            wait: false,
        }
    }

    /// Others, one after the other too, to be run beside those: where two that do not
    /// disturb each other leave a processor idle.
    #[must_use]
    pub fn beside(mut self, commands: Vec<String>) -> Self {
        self.beside = commands;
        self
    }

    /// What is run after those as long as all together take no longer than `within`,
    /// and is stopped then. The report names what was left out.
    #[must_use]
    pub fn spare(mut self, commands: Vec<String>, within: Duration) -> Self {
        self.spare = commands;
        self.spare_within = within;
        self
    }

    /// How long each command may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether to leave the machine's root file system where it is.
    #[must_use]
    pub fn keep(mut self, keep: bool) -> Self {
        self.keep = keep;
        self
    }

    /// Whether to wait for another to end, rather than to fail.
    #[must_use]
    pub fn wait(mut self, wait: bool) -> Self {
        self.wait = wait;
        self
    }

    /// Tries them. First an ordinary user tries `cargo compare`, who may not install
    /// anything and has to be told what to paste; then root runs each command, and
    /// one more in the checkout after it was moved.
    ///
    /// A command that fails does not keep the others from being run.
    ///
    /// # Errors
    ///
    /// What kept it from trying. What failed is in the report.
    pub fn run(&self) -> Result<Report> {
        if !Uid::effective().is_root() {
            return Err(Error::NotRoot("mounts a root file system"));
        }
        packages::ensure(needs::GIT)?;
        let home = paths::create(paths::work_dir()?.join("fresh"))?;
        let _lock = Lock::exclusive(&home, self.wait)?;
        paths::sweep(&home)?;
        let scratch = paths::scratch_in(&home)?;
        let root = Root::make(scratch.path().join("root"), &home)?;
        root.clone_checkout(CHECKOUT)?;
        let machine = Machine {
            root: &root,
            toolchain: toolchain()?,
            registry: registry()?,
            packages: paths::create(home.join("packages"))?,
            timeout: self.timeout,
        };
        let report = machine.try_all(self);
        let logs = home.join("logs");
        files::remove(&logs)?;
        for checkout in [CHECKOUT, ELSEWHERE] {
            let from = root.outside(checkout).join("target/kernel/logs");
            if from.exists() {
                files::replicate(
                    &from,
                    &logs,
                    |_| false,
                    |from, to| std::fs::copy(from, to).map(drop),
                )?;
            }
        }
        if self.keep {
            let kept = scratch.keep();
            eprintln!(
                "kernel-patch: the machine's files are in {}",
                kept.display()
            );
        }
        report
    }
}

/// The new machine.
struct Machine<'a> {
    root: &'a Root,
    toolchain: PathBuf,
    registry: PathBuf,
    packages: PathBuf,
    timeout: Duration,
}

impl Machine<'_> {
    fn try_all(&self, fresh: &Fresh) -> Result<Report> {
        let report = Report::default();
        let before = self.root.packages()?;
        let mut line = Vec::new();
        report.step(&format!("{FIRST}, as a user without sudo"), || {
            line = self.refused()?;
            Ok(())
        })?;
        let run = |command: &String| {
            let work = || self.succeeds(CHECKOUT, command, self.timeout).map(drop);
            report.step(command, work)
        };
        let both = [&fresh.commands, &fresh.beside];
        let done = lanes(both.len(), &both, |_, commands| {
            commands.iter().try_for_each(run)
        })?;
        done.into_iter().collect::<Result<()>>()?;
        for command in &fresh.spare {
            let left = fresh.spare_within.saturating_sub(report.took());
            let timeout = left.min(self.timeout);
            report.spare_step(command, left, || {
                self.succeeds(CHECKOUT, command, timeout).map(drop)
            })?;
        }
        report.step(&format!("{MOVED}, in another place"), || self.moved())?;
        report.step("all that was installed is in the line", || {
            let installed = self.root.packages()?;
            let unnamed: Vec<_> = installed
                .into_iter()
                .filter(|it| !before.contains(it) && !line.contains(it))
                .filter(|it| !packages::is_for_check(it))
                .collect();
            holds(unnamed.is_empty(), || {
                format!("the line does not name {}", unnamed.join(", "))
            })
        })?;
        Ok(report)
    }

    /// The ordinary user is told what to paste. Gives the packages of that line.
    fn refused(&self) -> Result<Vec<String>> {
        let (success, said) = self.command(CHECKOUT, FIRST, self.timeout, false)?;
        let packages = packages::packages_to_paste(&said);
        holds(!success && !packages.is_empty(), || {
            "it was not told which packages to install".into()
        })?;
        Ok(packages)
    }

    /// The checkout is moved with all that was built in it, and works there: the
    /// paths that it speaks of are those of the new place.
    fn moved(&self) -> Result<()> {
        let [old, new] = [CHECKOUT, ELSEWHERE].map(|it| self.root.outside(it));
        std::fs::rename(&old, &new).map_err(Error::io("move", &old))?;
        // What it shows on stdout is to be looked at as well.
        let command = format!("said=$({MOVED}) && echo \"$said\" >&2");
        let said = self.succeeds(ELSEWHERE, &command, self.timeout)?;
        holds(said.contains(ELSEWHERE) && !said.contains(CHECKOUT), || {
            "it speaks of its old place".into()
        })?;
        holds(!old.exists(), || "it makes its old place again".into())
    }

    fn succeeds(&self, directory: &str, command: &str, timeout: Duration) -> Result<String> {
        let (success, said) = self.command(directory, command, timeout, true)?;
        holds(success, || "it failed".into())?;
        Ok(said)
    }

    /// Runs one command. Its output is this program's. Gives whether it succeeded,
    /// and what it said on stderr.
    fn command(
        &self,
        directory: &str,
        command: &str,
        timeout: Duration,
        as_root: bool,
    ) -> Result<(bool, String)> {
        let entry = Entry {
            root: self.root.path().into(),
            toolchain: self.toolchain.clone(),
            registry: self.registry.clone(),
            packages: self.packages.clone(),
            as_root,
            directory: directory.into(),
            command: command.into(),
        };
        let entry = serde_json::to_string(&entry).expect("paths and texts become JSON");
        // By this name also after the file was replaced by a new build.
        let mut enter = Command::new("/proc/self/exe");
        enter.args([ENTER, &entry]).stdout(Stdio::inherit());
        let mut tee = Tee::default();
        let status = process::run_here(enter, command, timeout, &mut tee)?;
        Ok((
            status.success(),
            String::from_utf8_lossy(&tee.0).into_owned(),
        ))
    }
}

/// Keeps a copy of what it writes to standard error.
#[derive(Default)]
struct Tee(Vec<u8>);

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(bytes)?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn holds(that: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if that {
        Ok(())
    } else {
        Err(Error::NotFresh(otherwise()))
    }
}

/// Rust's toolchain, which has to be in a directory of its own.
fn toolchain() -> Result<PathBuf> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output();
    let output = output.map_err(Error::io("run", Path::new("rustc")))?;
    let toolchain = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if toolchain == Path::new("/usr") || !toolchain.join("bin/cargo").exists() {
        return Err(Error::NoToolchain(toolchain));
    }
    Ok(toolchain)
}

/// Cargo's registry, with all that the workspace depends on.
fn registry() -> Result<PathBuf> {
    let _progress = Progress::ours("fetching what the workspace depends on");
    let mut fetch = cargo();
    fetch.args(["fetch", "--locked", "--target", TARGET]);
    fetch.arg("--manifest-path");
    fetch.arg(paths::workspace_dir()?.join("Cargo.toml"));
    process::run(fetch, "cargo fetch", &paths::logs()?.join("fetch.log"))?;
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cargo"),
    };
    Ok(home.join("registry"))
}
