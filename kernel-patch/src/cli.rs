//! The commands and their options.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};
use kernel_patch::check::Check;
use kernel_patch::fresh::{self, Fresh};
use kernel_patch::{Accel, Builder, Kernel, Machine, Variant};

/// Makes a machine of a Linux 6.12 source and the patch series that gives KVM
/// system calls, and runs executables inside.
///
/// All that is unpacked and built lies in target/kernel. What the host lacks is
/// installed from Debian's packages where that is allowed.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Build the kernel, as far as it is not built yet, and print its image's path
    Build(BuildArgs),

    /// Boot the machine and run one static executable in it
    ///
    /// Its output comes out as it is written, and its exit status (128 + n
    /// after signal n) is this command's.
    Run {
        #[command(flatten)]
        machine: MachineArgs,
        /// The executable, and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },

    /// Run cargo such that it runs its executables in the machine
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

    /// Check each patch of the series by itself, and print a table of what was found
    ///
    /// Of each patch: git am applies it, and makes of the source what kernels are
    /// built from; checkpatch --strict has no remark but those that
    /// checkpatch.exceptions beside the patches lists with a reason; the kernel
    /// builds (vmlinux, and modules with modpost) with KVM as a module, built in
    /// and off, with KVM and without the calls on x86-64 and i386, and for arm64
    /// with KVM and without; neither gcc with W=1, which has kernel-doc look at
    /// what it compiles, nor sparse has a warning that it did not have before;
    /// and neither have sphinx and kernel-doc about the files that it changes. The
    /// selftests that it changes are compiled. After the last patch clang builds the
    /// kernel, too.
    /// The kernels are small, so that they can be built whole, which shows what
    /// else a changed header breaks.
    ///
    /// Before an architecture has the calls, x86-64 is said to have them, so
    /// that each patch's code is compiled.
    ///
    /// A sample takes minutes. It leaves out i386, the calls' absence, arm64
    /// without KVM and all linking. Of a kernel it compiles only the directories
    /// that the series changes: with KVM as a module for each patch and with the
    /// warnings, with the others after the last patch and without.
    ///
    /// The exit status is 1 when something is wrong.
    Check(CheckArgs),

    /// Run commands on a new machine: a bare Debian 12 with Rust, git and nothing else
    ///
    /// Makes the root file system of such a machine below target/kernel/fresh, clones
    /// the commit that is checked out in it, and runs in namespaces of their own:
    /// first `cargo compare` as an ordinary user without sudo, who has to be told
    /// what to paste; then each COMMAND as root, in order; then a short comparison in
    /// the checkout after it was moved. In the end, that line has to name all packages
    /// that were installed.
    ///
    /// Rust's toolchain and cargo's registry are this host's, read-only. Packages that
    /// were downloaded are kept for the next time. The table that is printed has the
    /// time of each step. The exit status is 1 when one is not as it has to be; the
    /// logs are then in target/kernel/fresh/logs.
    Fresh(FreshArgs),

    /// Become a command on a new machine.
    #[command(name = fresh::ENTER, hide = true)]
    Enter {
        /// Which, as JSON
        entry: String,
    },

    /// Print where the source, the build and the image lie
    Path {
        /// Which kernel
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

    /// Which kernel: with KVM as a module or builtin, one that
    /// checks itself (debug), or a stock one, unpatched
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

    /// Check this patch only, by its number from 1
    #[arg(long, value_name = "N")]
    patch: Option<usize>,

    /// Do no more than fits into some minutes
    #[arg(long)]
    sample: bool,

    /// Wait while another kernel-patch checks
    #[arg(long)]
    wait: bool,

    /// Write the table as JSON as well
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// The unit of times that are long.
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct FreshArgs {
    /// A line for the shell (repeatable)
    #[arg(value_name = "COMMAND", default_values = fresh::README)]
    commands: Vec<String>,

    /// A line for the shell, to be run beside the others (repeatable): these too run
    /// one after the other
    #[arg(long, value_name = "COMMAND")]
    beside: Vec<String>,

    /// A line for the shell, to be run after the others in the time that --within
    /// leaves, and stopped at its end (repeatable); the table names what was left out
    #[arg(long, value_name = "COMMAND")]
    spare: Vec<String>,

    /// How many minutes there are, up to the end of what is --spare
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    within: u32,

    /// How many minutes each command may take
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    timeout: u32,

    /// Leave the machine's root file system where it is
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

    /// Whether the kernel guards against the processor's flaws
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = on_off, action = ArgAction::Set)]
    mitigations: bool,

    /// Number of processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    smp: u32,

    /// Size of the memory
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    memory: String,

    /// How many seconds it may take
    #[arg(long, value_name = "SECS", default_value_t = 600)]
    timeout: u64,

    /// What runs the instructions: tcg emulates and counts them, mttcg emulates
    /// in real time with a thread for each processor, kvm needs hardware, bochs is
    /// another emulator, with VMX
    #[arg(long, value_name = "tcg|mttcg|kvm|bochs", default_value_t = Accel::Tcg)]
    accel: Accel,

    /// Where to put the files that are left in $KERNEL_PATCH_OUT inside
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

    /// Fail when the kernel complains: of a warning, or of what its lock
    /// checker and the like report
    #[arg(long)]
    strict: bool,

    /// Leave the kernel's modules unloaded, in /lib/modules
    #[arg(long)]
    no_modules: bool,
}

impl BuildArgs {
    pub(crate) fn builder(&self) -> Builder {
        let builder = Kernel::builder().variant(self.variant).wait(self.wait);
        match &self.source {
            Some(source) => builder.source(source),
            None => builder,
        }
    }
}

impl CheckArgs {
    pub(crate) fn check(&self) -> Check {
        let mut check = Check::new().sample(self.sample).wait(self.wait);
        if let Some(patches) = &self.patches {
            check = check.patches(patches);
        }
        if let Some(source) = &self.source {
            check = check.source(source);
        }
        match self.patch {
            Some(number) => check.only(number),
            None => check,
        }
    }
}

impl FreshArgs {
    pub(crate) fn fresh(&self) -> Fresh {
        Fresh::new(self.commands.clone())
            .beside(self.beside.clone())
            .spare(self.spare.clone(), MINUTE * self.within)
            .timeout(MINUTE * self.timeout)
            .keep(self.keep)
            .wait(self.wait)
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

    /// Words that mean something somewhere, and others.
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
        /// Whatever is typed is understood or refused.
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
