//! A trial on a new machine: a bare Debian 12 with Rust and git, in which a clone of the
//! current commit runs the README's commands.
//!
//! Packages that somebody has installed by hand hide that this project fails to ask for
//! them. The new machine has only the packages that the project asks for.

mod enter;
mod error;
mod layout;
mod root;
mod trial;

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::Uid;

pub use self::enter::Entry;
pub use self::error::{FreshError, Result};
use self::layout::{CHECKOUT, ELSEWHERE};
use self::root::RootFs;
pub use self::trial::Trial;
use crate::host::cargo::{TARGET, cargo};
use crate::host::error::IoContext;
use crate::host::lanes::lanes;
use crate::host::lock::Lock;
use crate::host::progress::Progress;
use crate::host::{files, needs, packages, paths, process};

/// The commands that the README promises.
pub const README: [&str; 3] = ["cargo compare", "cargo test", "cargo conform"];

/// The command that an ordinary user runs first, without the packages that it needs.
const FIRST: &str = README[0];

/// The command that runs after the checkout was moved.
const MOVED: &str = "cargo compare --no-criterion --filter kvm_get_regs";

/// The name of the hidden command that becomes the command of an [`Entry`].
pub const ENTER: &str = "enter-fresh";

/// What to try on a new machine.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// Shell commands that root runs, one after the other.
    pub commands: Vec<String>,
    /// Shell commands that root runs at the same time as [`commands`](Self::commands),
    /// one after the other: two that do not disturb each other use both processors.
    pub beside: Vec<String>,
    /// Shell commands that root runs after those, until [`within`](Self::within) has
    /// passed. The table names the ones that had no time.
    pub spare: Vec<String>,
    /// The time for everything up to the end of [`spare`](Self::spare).
    pub within: Duration,
    /// The time limit of each command.
    pub timeout: Duration,
    /// Whether to keep the root file system of the new machine.
    pub keep: bool,
    /// Whether to wait for another trial to end instead of failing.
    pub wait: bool,
}

impl Fresh {
    /// Makes the new machine and runs the commands. First an ordinary user runs
    /// `cargo compare`, who may not install packages: it has to print the command line to
    /// paste. Then root runs each command, and one more after the checkout was moved. The
    /// others run even if one fails.
    ///
    /// # Errors
    ///
    /// The commands could not be tried. A command that fails is in the table.
    pub fn run(&self) -> Result<Trial> {
        if !Uid::effective().is_root() {
            return Err(FreshError::NotRoot("mounts a root file system"));
        }
        packages::ensure(needs::GIT)?;
        let home = paths::create(paths::work_dir()?.join("fresh"))?;
        let _lock = Lock::exclusive(&home, self.wait)?;
        paths::sweep(&home)?;
        let scratch = paths::scratch_in(&home)?;
        let root = RootFs::make(scratch.path().join("root"), &home)?;
        root.clone_checkout(CHECKOUT)?;
        let sandbox = Sandbox {
            root: &root,
            toolchain: toolchain()?,
            registry: registry()?,
            packages: paths::create(home.join("packages"))?,
            timeout: self.timeout,
        };
        let trial = sandbox.try_all(self);
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
        trial
    }
}

/// The new machine.
struct Sandbox<'a> {
    root: &'a RootFs,
    toolchain: PathBuf,
    registry: PathBuf,
    packages: PathBuf,
    timeout: Duration,
}

impl Sandbox<'_> {
    fn try_all(&self, fresh: &Fresh) -> Result<Trial> {
        let trial = Trial::default();
        let before = self.root.packages()?;
        let mut line = Vec::new();
        trial.step(&format!("{FIRST}, as a user without sudo"), || {
            line = self.refused()?;
            Ok(())
        })?;
        let run = |command: &String| {
            let work = || self.succeeds(CHECKOUT, command, self.timeout).map(drop);
            trial.step(command, work)
        };
        let both = [&fresh.commands, &fresh.beside];
        let done = lanes(both.len(), &both, |_, commands| {
            commands.iter().try_for_each(run)
        })?;
        done.into_iter().collect::<Result<()>>()?;
        for command in &fresh.spare {
            let left = fresh.within.saturating_sub(trial.took());
            let timeout = left.min(self.timeout);
            trial.spare_step(command, left, || {
                self.succeeds(CHECKOUT, command, timeout).map(drop)
            })?;
        }
        trial.step(&format!("{MOVED}, in another place"), || self.moved())?;
        trial.step("the line names all installed packages", || {
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
        Ok(trial)
    }

    /// Checks that the ordinary user gets a command line to paste, and returns its packages.
    fn refused(&self) -> Result<Vec<String>> {
        let (success, said) = self.command(CHECKOUT, FIRST, self.timeout, false)?;
        let packages = packages::packages_to_paste(&said);
        holds(!success && !packages.is_empty(), || {
            "it did not print which packages to install".into()
        })?;
        Ok(packages)
    }

    /// Moves the checkout together with everything built in it, and checks that it works
    /// there and names only paths of its new place.
    fn moved(&self) -> Result<()> {
        let [old, new] = [CHECKOUT, ELSEWHERE].map(|it| self.root.outside(it));
        std::fs::rename(&old, &new).cannot("move", &old)?;
        // Look at its standard output too.
        let command = format!("said=$({MOVED}) && echo \"$said\" >&2");
        let said = self.succeeds(ELSEWHERE, &command, self.timeout)?;
        holds(said.contains(ELSEWHERE) && !said.contains(CHECKOUT), || {
            "it names paths of its old place".into()
        })?;
        holds(!old.exists(), || "it has made its old place again".into())
    }

    fn succeeds(&self, directory: &str, command: &str, timeout: Duration) -> Result<String> {
        let (success, said) = self.command(directory, command, timeout, true)?;
        holds(success, || "it failed".into())?;
        Ok(said)
    }

    /// Runs one command, with its output on this program's. Returns whether it succeeded,
    /// and its standard error.
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
        // This path works even after a new build has replaced the file.
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
        Err(FreshError::StepFailed(otherwise()))
    }
}

/// Returns the directory of Rust's toolchain, which has to contain nothing else.
fn toolchain() -> Result<PathBuf> {
    let mut rustc = Command::new("rustc");
    let output = process::output(rustc.args(["--print", "sysroot"]), "rustc")?;
    let toolchain = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if toolchain == Path::new("/usr") || !toolchain.join("bin/cargo").exists() {
        return Err(FreshError::NoToolchain(toolchain));
    }
    Ok(toolchain)
}

/// Returns cargo's registry, with everything that the workspace depends on.
fn registry() -> Result<PathBuf> {
    let _progress = Progress::ours("fetching the dependencies of the workspace");
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
