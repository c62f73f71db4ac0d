//! The commands and their options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use kernel_patch::check::Check;
use kernel_patch::fresh::Fresh;
use kernel_patch::{Base, KernelBuilder, Machine, Variant};

/// Builds a kernel from Linux and the patch series that gives KVM system calls,
/// boots it in a machine, and runs executables inside.
///
/// The source and the builds are below target/kernel. Missing Debian packages are
/// installed if the user may install them.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 80)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Build the kernel if it is out of date, and print the path of its image
    Build(KernelBuilder),

    /// Boot the machine and run one static executable in it, or with --host-root any
    /// program of the host
    ///
    /// The command forwards the executable's output, and returns its exit status
    /// (128 + n after signal n). With --host-root it also forwards its input, and if
    /// input and output are a terminal, the executable has a terminal, too: Ctrl-C goes
    /// to the executable, and Ctrl-] three times in a row ends the machine.
    Run {
        #[command(flatten)]
        machine: MachineArgs,
        /// The executable, and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },

    /// Boot the machine and start an interactive shell in it, in the root of the host
    ///
    /// The same as `run --host-root -- $SHELL`, in real time and without a time limit.
    /// The machine has its own copy of all files to write to, and the kernel of the
    /// series with its modules loaded.
    #[command(mut_arg("accel", |it| it.default_value("mttcg")))]
    #[command(mut_arg("timeout", |it| it.default_value("31536000")))]
    #[command(mut_arg("host_root", |it| it.hide(true)))]
    Shell(MachineArgs),

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
    /// git am must apply each patch, and the result must equal the source that kernels
    /// are built from. checkpatch --strict may have only the remarks that
    /// checkpatch.exceptions, beside the patches, lists with a reason.
    ///
    /// The kernel (vmlinux, and modules with modpost) has to build with KVM as a module,
    /// built in and off; with KVM and without the calls on x86-64 and i386; and for arm64
    /// with KVM and without. After the last patch, clang has to build it as well.
    ///
    /// gcc with W=1 and sparse may have no new warnings. sphinx and kernel-doc may have no
    /// warnings about the files that the patch changes. The selftests that it changes have
    /// to compile.
    ///
    /// The kernels are small, and are built completely, because a changed header can break
    /// other code. A patch is not built in a configuration that uses none of the files
    /// that the patch changes. Before the patch that assigns numbers to the calls on
    /// x86-64, the check enables the calls there, to compile the code of each patch.
    ///
    /// The whole check takes hours. If it is interrupted, the next one goes on where it
    /// stopped: it does not build a patch in a configuration in which the patch has passed,
    /// after the same patches, from the same source, and with the same tools.
    ///
    /// A sample takes minutes. It leaves out i386, KVM without the calls, arm64 without
    /// KVM, and all linking. It compiles only the directories that the series changes:
    /// with KVM as a module for each patch and with warnings, in the other configurations
    /// after the last patch and without warnings.
    ///
    /// The exit status is 1 if the series has a fault.
    Check(Check),

    /// Make a git repository of the source and the series
    ///
    /// The source is the tag `base`; the branch `series` has each patch as a commit.
    /// To change the series, change that branch, and run `export`.
    Import {
        #[command(flatten)]
        from: PortArgs,
        /// The kernel's source, a tree or a tarball [default: as for `build`]
        #[arg(long, value_name = "PATH")]
        source: Option<PathBuf>,
    },

    /// Try each patch on the source of another version, and print the results
    ///
    /// Needs the repository that `import` makes. The result of a patch is one of four:
    /// it applies as it is, a three-way merge applies it, the other source already has
    /// it, or it has conflicts. For conflicts, the table lists the files, and the files
    /// of the other source that contain the lines which the patch expects. The tag
    /// `onto` is the other source. The branch `moved` has the patches on it, with the
    /// patch's side of each conflict, as a start for the manual work. The exit status is
    /// 1 if a patch has conflicts.
    Rebase {
        /// The repository
        #[arg(value_name = "DIR")]
        repository: PathBuf,
        /// The other source, a tree or a tarball of any version
        #[arg(long, value_name = "PATH")]
        onto: PathBuf,
        /// Also write the table to FILE as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },

    /// Write the commits of the current branch back as the series
    ///
    /// Needs the repository that `import` makes. Replaces the patches of the base, but
    /// not the cover letter.
    Export(PortArgs),

    /// Run commands on a new machine: a bare Debian 12 with Rust, git and nothing else
    ///
    /// Makes the root file system of the new machine below target/kernel/fresh, clones
    /// the current commit there, and runs commands in namespaces: first `cargo compare`
    /// as an ordinary user without sudo, which must print a command line that installs
    /// the missing packages; then each COMMAND as root, in order; then a short
    /// comparison in the checkout after a move. At the end, the printed command line
    /// must name all packages that were installed.
    ///
    /// The machine has Rust's toolchain and cargo's registry of this host, read-only.
    /// Downloaded packages are kept for the next trial. The table shows the duration of
    /// each step. The exit status is 1 if a step fails. The logs are in
    /// target/kernel/fresh/logs.
    Fresh(Fresh),

    /// Print the paths of the source, the build and the image
    Path {
        /// The release of Linux
        #[arg(long, value_enum, default_value_t)]
        base: Base,
        /// The variant of the kernel
        #[arg(long, value_enum, default_value_t)]
        variant: Variant,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PortArgs {
    /// The repository
    #[arg(value_name = "DIR")]
    pub(crate) repository: PathBuf,

    /// The release of Linux
    #[arg(long, value_enum, default_value_t)]
    pub(crate) base: Base,
}

#[derive(Debug, Args)]
pub(crate) struct MachineArgs {
    #[command(flatten)]
    pub(crate) kernel: KernelBuilder,

    #[command(flatten)]
    pub(crate) machine: Machine,

    /// The directory that relative paths start from [default: the current one]
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
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
            "import",
            "rebase",
            "--onto",
            "export",
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
            "--host-root",
            "shell",
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
            let _ = Cli::try_parse_from(line);
        }
    }

    #[test]
    fn the_options_are_well_formed() {
        Cli::command().debug_assert();
    }
}
