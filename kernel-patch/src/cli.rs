//! The commands and their options.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};
use kernel_patch::check::Check;
use kernel_patch::fresh::{self, Fresh};
use kernel_patch::{Accel, Kernel, KernelBuilder, Machine, Variant};

/// Builds a kernel from Linux 6.12 and the patch series that gives KVM system calls,
/// boots it in a machine, and runs executables inside.
///
/// The source and the builds are below target/kernel. Missing Debian packages are
/// installed if the user may install them.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Build the kernel if it is out of date, and print the path of its image
    Build(BuildArgs),

    /// Boot the machine and run one static executable in it
    ///
    /// Its output appears as it is written, and its exit status (128 + n after
    /// signal n) is this command's.
    Run {
        #[command(flatten)]
        machine: MachineArgs,
        /// The executable, and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },

    /// Run cargo with its executables inside the machine
    ///
    /// `kernel-patch cargo -- test -p kvm-api` runs the tests of kvm-api inside,
    /// each test executable in a machine of its own.
    Cargo {
        #[command(flatten)]
        machine: MachineArgs,
        /// Arguments of cargo
        #[arg(last = true, required = true, value_name = "CARGO-ARGS")]
        args: Vec<OsString>,
    },

    /// Check each patch of the series by itself, and print a table of the results
    ///
    /// For each patch, these have to hold: git am applies it, and the result is the
    /// source that kernels are built from. checkpatch --strict has no remarks except
    /// those that checkpatch.exceptions beside the patches lists with a reason. The
    /// kernel builds (vmlinux, and modules with modpost) with KVM as a module, built in
    /// and off, with KVM and without the calls on x86-64 and i386, and for arm64 with
    /// KVM and without. gcc with W=1, which runs kernel-doc on what it compiles, and
    /// sparse have no new warnings. Neither have sphinx and kernel-doc for the files
    /// that the patch changes. The selftests that it changes compile. After the last
    /// patch clang builds the kernel too.
    ///
    /// The kernels are small, so that they can be built whole, which shows what else a
    /// changed header breaks. A patch is not built in a configuration that uses none of
    /// the files that the patch changes.
    ///
    /// Before a patch gives x86-64 numbers for the calls, the check enables the calls
    /// there, so that the code of each patch is compiled.
    ///
    /// A sample takes minutes. It leaves out i386, the absence of the calls, arm64
    /// without KVM, and all linking. It compiles only the directories that the series
    /// changes: with KVM as a module for each patch and with warnings, in the other
    /// configurations after the last patch and without warnings.
    ///
    /// The exit status is 1 if something is wrong.
    Check(CheckArgs),

    /// Run commands on a new machine: a bare Debian 12 with Rust, git and nothing else
    ///
    /// Makes the root file system of the new machine below target/kernel/fresh, clones
    /// the current commit in it, and runs in namespaces of its own: first
    /// `cargo compare` as an ordinary user without sudo, who has to be told what to
    /// paste; then each COMMAND as root, in order; then a short comparison in the
    /// checkout after it was moved. At the end, the line to paste has to name all
    /// packages that were installed.
    ///
    /// Rust's toolchain and cargo's registry are this host's, read-only. Downloaded
    /// packages are kept for the next time. The table shows the duration of each step.
    /// The exit status is 1 if a step fails; the logs are then in
    /// target/kernel/fresh/logs.
    Fresh(FreshArgs),

    /// Become a command on a new machine.
    #[command(name = fresh::ENTER, hide = true)]
    Enter {
        /// The command as JSON
        entry: String,
    },

    /// Print the paths of the source, the build and the image
    Path {
        /// The kernel
        #[arg(long, default_value = "module", value_parser = variant)]
        variant: Variant,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The kernel's source, a tree or a tarball [default: the one last used;
    /// at first, Debian's package linux-source-6.12]
    #[arg(long, value_name = "PATH")]
    source: Option<PathBuf>,

    /// The kernel: with KVM as a module or builtin, one that checks itself (debug), one
    /// that reports data races (kcsan), or an unpatched one (stock)
    #[arg(long, default_value = "module", value_parser = variant)]
    variant: Variant,

    /// Wait while another kernel-patch builds
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The directory of the patches [default: this crate's]
    #[arg(long, value_name = "DIR")]
    patches: Option<PathBuf>,

    /// The kernel's source, a tree or a tarball [default: the one last built
    /// from; at first, Debian's package linux-source-6.12]
    #[arg(long, value_name = "PATH")]
    source: Option<PathBuf>,

    /// Check only this patch, by its number from 1
    #[arg(long, value_name = "N")]
    patch: Option<usize>,

    /// Build only in this configuration, by the name of its column (repeatable)
    #[arg(long, value_name = "NAME")]
    configuration: Vec<String>,

    /// Do only what takes some minutes
    #[arg(long)]
    sample: bool,

    /// Wait while another kernel-patch checks
    #[arg(long)]
    wait: bool,

    /// Write the table as JSON too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct FreshArgs {
    /// A shell command (repeatable)
    #[arg(value_name = "COMMAND", default_values = fresh::README)]
    commands: Vec<String>,

    /// A shell command to run at the same time as the others (repeatable): these run
    /// one after the other too
    #[arg(long, value_name = "COMMAND")]
    beside: Vec<String>,

    /// A shell command to run after the others in the time that --within leaves, and to
    /// stop at its end (repeatable); the table names those that had no time
    #[arg(long, value_name = "COMMAND")]
    spare: Vec<String>,

    /// The minutes until the --spare commands are stopped
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    within: u32,

    /// The minutes that each command may take
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    timeout: u32,

    /// Keep the machine's root file system
    #[arg(long)]
    keep: bool,

    /// Wait while another kernel-patch tries a new machine
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MachineArgs {
    #[command(flatten)]
    pub(crate) build: BuildArgs,

    /// Whether the kernel uses mitigations for the processor's vulnerabilities
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = on_off, action = ArgAction::Set)]
    mitigations: bool,

    /// The number of processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    smp: u32,

    /// The size of the memory
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    memory: String,

    /// The time limit of the run, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 600)]
    timeout: u64,

    /// What executes the instructions: tcg emulates and counts them, mttcg emulates in
    /// real time with a thread for each processor, kvm needs hardware, bochs is another
    /// emulator, with VMX
    #[arg(long, value_name = "tcg|mttcg|kvm|bochs", default_value_t = Accel::Tcg)]
    accel: Accel,

    /// The directory for the files that the executable leaves in $KERNEL_PATCH_OUT
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// A variable of the environment inside (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,

    /// A file of the host, and its absolute path inside (repeatable)
    #[arg(long, value_name = "FROM:TO", value_parser = file)]
    file: Vec<(PathBuf, PathBuf)>,

    /// A parameter of the kernel's command line (repeatable)
    #[arg(long, value_name = "PARAMETER")]
    cmdline: Vec<String>,

    /// The directory that relative paths start from [default: the current one]
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,

    /// Fail if the kernel reports a problem: a warning, or a report of its lock checker
    /// and similar checkers
    #[arg(long)]
    strict: bool,

    /// Leave the kernel's modules unloaded, in /lib/modules
    #[arg(long)]
    no_modules: bool,
}

impl BuildArgs {
    pub(crate) fn builder(&self) -> KernelBuilder {
        let builder = Kernel::builder().variant(self.variant).wait(self.wait);
        match &self.source {
            Some(source) => builder.source(source),
            None => builder,
        }
    }
}

impl CheckArgs {
    pub(crate) fn check(&self) -> Check {
        Check {
            patches: self.patches.clone(),
            source: self.source.clone(),
            only: self.patch,
            configurations: self.configuration.clone(),
            sample: self.sample,
            wait: self.wait,
        }
    }
}

impl FreshArgs {
    pub(crate) fn fresh(&self) -> Fresh {
        Fresh {
            commands: self.commands.clone(),
            beside: self.beside.clone(),
            spare: self.spare.clone(),
            within: MINUTE * self.within,
            timeout: MINUTE * self.timeout,
            keep: self.keep,
            wait: self.wait,
        }
    }
}

impl MachineArgs {
    pub(crate) fn machine(&self) -> Machine {
        let mut machine = Machine::new()
            .mitigations(self.mitigations)
            .smp(self.smp)
            .memory(&self.memory)
            .timeout(Duration::from_secs(self.timeout))
            .accel(self.accel)
            .strict(self.strict)
            .load_modules(!self.no_modules);
        if let Some(out) = &self.out {
            machine = machine.out(out);
        }
        for (name, value) in &self.env {
            machine = machine.env(name, value);
        }
        for (from, to) in &self.file {
            machine = machine.file(from, to);
        }
        for parameter in &self.cmdline {
            machine = machine.cmdline(parameter);
        }
        machine
    }
}

fn variant(text: &str) -> Result<Variant, String> {
    let named = Variant::NAMES.into_iter().find(|(name, _)| *name == text);
    match named {
        Some((_, variant)) => Ok(variant),
        None => Err(format!(
            "one of {}",
            Variant::NAMES.map(|it| it.0).join(", ")
        )),
    }
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("neither on nor off".into()),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("not NAME=VALUE".into()),
    }
}

fn file(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.rsplit_once(':') {
        Some((from, to)) if Path::new(to).is_absolute() => Ok((from.into(), to.into())),
        _ => Err("not FROM:TO with an absolute path TO".into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Words with a meaning, and others.
    fn word() -> impl Strategy<Value = String> {
        let known = prop::sample::select(vec![
            "build",
            "run",
            "cargo",
            "check",
            "fresh",
            "path",
            "--",
            "--variant",
            "debug",
            "--wait",
            "--smp",
            "2",
            "9",
            "--memory",
            "1G",
            "--timeout",
            "--accel",
            "mttcg",
            "--env",
            "A=b",
            "=",
            "--file",
            "a:/b",
            "a:b",
            ":",
            "--mitigations",
            "on",
            "--no-modules",
            "--out",
            "--patch",
            "--configuration",
            "--sample",
            "--help",
        ]);
        prop_oneof![
            4 => known.prop_map(str::to_owned),
            1 => "-{0,2}[a-z=:/,]{0,8}",
            1 => any::<String>(),
        ]
    }

    proptest! {
        /// Any command line is accepted or refused, without a panic.
        #[test]
        fn any_command_line(words in prop::collection::vec(word(), 0..8)) {
            let line = ["kernel-patch".to_owned()].into_iter().chain(words);
            if let Ok(cli) = Cli::try_parse_from(line) {
                match cli.command {
                    Action::Run { machine, .. } | Action::Cargo { machine, .. } => {
                        let _ = machine.machine();
                    }
                    Action::Build(build) => drop(build.builder()),
                    Action::Check(args) => drop(args.check()),
                    Action::Fresh(args) => drop(args.fresh()),
                    Action::Path { .. } | Action::Enter { .. } => {}
                }
            }
        }
    }
}
