//! A trial on a new machine: a bare Debian 12 with Rust and git, in which a clone of the
//! current commit runs the README's commands.
//!
//! On a host with many packages, the project may forget to ask for one without notice. The
//! new machine has only the packages that the project asks for.

mod error;
mod root;
mod trial;

use std::io::{self, Write};
use std::num::ParseIntError;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use clap::Args;
use nix::unistd::Uid;

pub use self::error::{FreshError, Result};
use self::root::{RootFs, USER};
pub use self::trial::Trial;
use crate::host::lanes::lanes;
use crate::host::transcript::Transcript;
use crate::host::{
    IoContext, Lock, Progress, cargo, files, kvm_ioctls, needs, packages, paths, process,
};

/// The commands that the README promises.
const README: [&str; 3] = ["cargo compare", "cargo test", "cargo conform"];

/// The command that an ordinary user runs first, without the packages that it needs.
const FIRST: &str = README[0];

/// The command that runs after the checkout was moved.
const MOVED: &str = "cargo compare --no-criterion --filter kvm_get_regs";

/// The checkout in the machine.
const CHECKOUT: &str = "/home/user/checkout";

/// The directory that the checkout is moved to.
const ELSEWHERE: &str = "/home/user/elsewhere";

/// The script that enters the machine.
const ENTER: &str = include_str!("enter.sh");

/// The commands to try on a new machine, and how to try them. The settings are options of a
/// command line.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Fresh {
    /// A shell command (repeatable)
    #[arg(value_name = "COMMAND", default_values = README)]
    commands: Vec<String>,

    /// A shell command to run beside the others (repeatable); these commands run one
    /// after the other
    #[arg(long, value_name = "COMMAND")]
    beside: Vec<String>,

    /// A shell command to run after the others in the time that --within leaves, and to
    /// stop when the time is over (repeatable); the table names the commands that did
    /// not run
    #[arg(long, value_name = "COMMAND")]
    spare: Vec<String>,

    /// The minutes until the --spare commands are stopped
    #[arg(long, value_name = "MINUTES", default_value = "60", value_parser = minutes)]
    within: Duration,

    /// The minutes that each command may take
    #[arg(long, value_name = "MINUTES", default_value = "60", value_parser = minutes)]
    timeout: Duration,

    /// Keep the machine's root file system
    #[arg(long)]
    keep: bool,

    /// Wait while another kernel-patch tries a new machine
    #[arg(long)]
    wait: bool,
}

fn minutes(text: &str) -> std::result::Result<Duration, ParseIntError> {
    text.parse()
        .map(|it: u32| 60 * Duration::from_secs(it.into()))
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
                let copy = |from: &Path, to: &Path| fs::copy(from, to);
                files::replicate(&from, &logs, |_| false, copy)?;
            }
        }
        if self.keep {
            let kept = scratch.keep();
            let kept = kept.display();
            eprintln!("kernel-patch: the machine's files are in {kept}");
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
                .filter(|it| !packages::is_for_others(it))
                .collect();
            let unnamed = unnamed.join(", ");
            ensure(unnamed.is_empty(), || {
                format!("the printed command does not install {unnamed}")
            })
        })?;
        Ok(trial)
    }

    /// Checks that the ordinary user gets a command line to paste, and returns its packages.
    fn refused(&self) -> Result<Vec<String>> {
        let (success, output) = self.command(USER, CHECKOUT, FIRST, self.timeout)?;
        let packages = packages::packages_to_paste(&output.text());
        ensure(!success && !packages.is_empty(), || {
            "it did not print which packages to install".into()
        })?;
        Ok(packages)
    }

    /// Moves the checkout together with everything built in it, and checks that it works
    /// there and names only paths in its new directory.
    fn moved(&self) -> Result<()> {
        let [old, new] = [CHECKOUT, ELSEWHERE].map(|it| self.root.outside(it));
        fs::rename(&old, &new).cannot("move", &old)?;
        let output = self.succeeds(ELSEWHERE, MOVED, self.timeout)?;
        ensure(
            output.contains(ELSEWHERE) && !output.contains(CHECKOUT),
            || "it names paths in its old directory".into(),
        )?;
        ensure(!old.exists(), || {
            "it created its old directory again".into()
        })
    }

    fn succeeds(&self, directory: &str, command: &str, timeout: Duration) -> Result<String> {
        let (success, output) = self.command("root", directory, command, timeout)?;
        if success {
            Ok(output.text())
        } else {
            Err(FreshError::StepFailed(output.failure(command)?))
        }
    }

    /// Runs one command, with its output on this program's standard error. Returns whether
    /// it succeeded, and its output.
    fn command(
        &self,
        user: &str,
        directory: &str,
        command: &str,
        timeout: Duration,
    ) -> Result<(bool, CommandOutput)> {
        let mut enter = Command::new("unshare");
        enter
            .args(["--mount", "sh", "-c", ENTER, "enter"])
            .args([&self.root.path, &self.toolchain, &self.registry])
            .arg(&self.packages)
            .args([user, directory, command]);
        let mut output = CommandOutput::new(show);
        let status = process::run_here(enter, command, timeout, &mut output)?;
        Ok((status.success(), output))
    }
}

/// The output of a command, which is shown while the command runs.
type CommandOutput = Transcript<fn(&[u8])>;

/// Shows a part of a command's output.
fn show(bytes: &[u8]) {
    // The result does not depend on what the user can see.
    let _ = io::stderr().write_all(bytes);
}

fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if condition {
        Ok(())
    } else {
        Err(FreshError::StepFailed(otherwise()))
    }
}

/// Returns the directory of Rust's toolchain, which has to contain nothing else.
fn toolchain() -> Result<PathBuf> {
    let mut rustc = Command::new("rustc");
    let sysroot = process::stdout(rustc.args(["--print", "sysroot"]), "rustc")?;
    let toolchain = PathBuf::from(sysroot.trim());
    if toolchain == Path::new("/usr") || !toolchain.join("bin/cargo").exists() {
        return Err(FreshError::NoToolchain(toolchain));
    }
    Ok(toolchain)
}

/// Returns cargo's registry, with everything that the workspace and the tests of kvm-ioctls
/// depend on.
fn registry() -> Result<PathBuf> {
    let _progress = Progress::ours("fetching the dependencies of the workspace");
    cargo::fetch(&paths::workspace_dir()?.join("Cargo.toml"))?;
    kvm_ioctls::fetch()?;
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cargo"),
    };
    Ok(home.join("registry"))
}
