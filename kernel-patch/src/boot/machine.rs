//! The settings of a machine, which boots a kernel and runs one executable.

use std::ffi::OsString;
use std::num::ParseIntError;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgAction, Args, Command, FromArgMatches, value_parser};

use crate::boot::accel::Accel;

/// A machine. Each setting has a default. Many are also options of a command line.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Machine {
    /// Boot with CPU vulnerability mitigations on or off
    #[arg(long, value_name = "on|off", default_value = "on")]
    #[arg(value_parser = on_off, action = ArgAction::Set)]
    pub(crate) mitigations: bool,

    /// The number of processors
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = value_parser!(u32).range(1..=8))]
    pub(crate) smp: u32,

    /// The size of the memory
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub(crate) memory: String,

    /// The time limit of the run, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub(crate) timeout: Duration,

    /// The emulator or accelerator that executes the machine's instructions
    #[arg(long, value_enum, default_value_t)]
    pub(crate) accel: Accel,

    /// The model of the processor, by the emulator's name [default: one that has SVM or
    /// VMX]
    #[arg(long, value_name = "MODEL")]
    pub(crate) cpu: Option<String>,

    /// The directory for the files that the executable leaves in $KERNEL_PATCH_OUT
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    /// A variable of the environment inside (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,

    /// A file of the host, and its absolute path inside (repeatable)
    #[arg(long = "file", value_name = "FROM:TO", value_parser = file)]
    pub(crate) files: Vec<(PathBuf, PathBuf)>,

    /// A parameter of the kernel's command line (repeatable)
    #[arg(long, value_name = "PARAMETER")]
    pub(crate) cmdline: Vec<String>,

    /// Fail if the kernel reports a problem: a warning, or a report of its lock checker
    /// and similar checkers
    #[arg(long)]
    pub(crate) strict: bool,

    /// Leave the kernel's modules unloaded, in /lib/modules
    #[arg(long = "no-modules", action = ArgAction::SetFalse)]
    pub(crate) load_modules: bool,

    /// Run a program of the host, dynamic or not, in the root of the host, of which the
    /// machine has a copy to write to
    ///
    /// Changes of files stay inside, and end with the machine. The program has the
    /// current directory, the environment, the standard streams and the terminal of this
    /// command.
    #[arg(long)]
    pub(crate) host_root: bool,

    #[arg(skip)]
    pub(crate) input: bool,
    #[arg(skip)]
    pub(crate) accepted: Vec<String>,
    #[arg(skip)]
    pub(crate) plugin: Option<(PathBuf, PathBuf)>,
    #[arg(skip)]
    pub(crate) qemu_args: Vec<OsString>,
}

fn on_off(text: &str) -> Result<bool, &'static str> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("neither on nor off"),
    }
}

fn seconds(text: &str) -> Result<Duration, ParseIntError> {
    text.parse().map(Duration::from_secs)
}

fn variable(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("not NAME=VALUE"),
    }
}

fn file(text: &str) -> Result<(PathBuf, PathBuf), &'static str> {
    match text.rsplit_once(':') {
        Some((from, to)) if Path::new(to).is_absolute() => Ok((from.into(), to.into())),
        _ => Err("not FROM:TO with an absolute path TO"),
    }
}

impl Default for Machine {
    /// The machine of a command line without options.
    fn default() -> Self {
        let command = Self::augment_args(Command::new("machine").no_binary_name(true));
        let matches = command.get_matches_from([""; 0]);
        Self::from_arg_matches(&matches).expect("each setting has a default")
    }
}

setters! { Machine:
    /// Chooses the emulator or accelerator that executes its instructions.
    accel(machine, accel: Accel) => machine.accel = accel;

    /// Sets the model of the processor, by the emulator's name.
    cpu(machine, model: impl Into<String>) => machine.cpu = Some(model.into());

    /// Sets the number of processors.
    smp(machine, smp: u32) => machine.smp = smp;

    /// Sets the size of the memory, in QEMU's notation (`1G`).
    memory(machine, memory: impl Into<String>) => machine.memory = memory.into();

    /// Chooses whether the kernel boots with CPU vulnerability mitigations.
    mitigations(machine, on: bool) => machine.mitigations = on;

    /// Chooses whether the kernel's modules are loaded before the executable starts. They are
    /// in `/lib/modules` in any case.
    load_modules(machine, load: bool) => machine.load_modules = load;

    /// Chooses whether problems that the kernel reports are errors: a warning ends the machine
    /// at once, and a mere report, for example of lockdep, is found at the end.
    strict(machine, strict: bool) => machine.strict = strict;

    /// Accepts a report of a known problem, given by its first line without the time. A
    /// strict machine fails at others only.
    accept(machine, report: impl Into<String>) => machine.accepted.push(report.into());

    /// Sets the time limit of the run.
    timeout(machine, timeout: Duration) => machine.timeout = timeout;

    /// Adds a parameter to the kernel's command line.
    cmdline(machine, parameter: impl Into<String>) => machine.cmdline.push(parameter.into());

    /// Sets a variable of the executable's environment.
    env(machine, name: impl Into<String>, value: impl Into<String>) =>
        machine.env.push((name.into(), value.into()));

    /// Copies a file of the host to an absolute path inside (not to [`OUT`](crate::OUT), nor
    /// anywhere below /proc, /sys, /dev, /tmp and /work).
    file(machine, from: impl Into<PathBuf>, to: impl Into<PathBuf>) =>
        machine.files.push((from.into(), to.into()));

    /// Sets the directory of the host for the files that the executable leaves in
    /// [`OUT`](crate::OUT).
    out(machine, dir: impl Into<PathBuf>) => machine.out = Some(dir.into());

    /// Chooses whether the executable is a program of the host, which runs in a copy of the
    /// host's root, in this process's directory, and with its environment.
    host_root(machine, host: bool) => machine.host_root = host;

    /// Chooses whether a program in the root of the host reads the standard input of this
    /// process. If that is a terminal, and the standard output too, the program has a
    /// terminal.
    input(machine, forward: bool) => machine.input = forward;

    /// Loads a plugin into QEMU, which writes its results to the file `out` of the host.
    plugin(machine, library: impl Into<PathBuf>, out: impl Into<PathBuf>) =>
        machine.plugin = Some((library.into(), out.into()));

    /// Adds an argument of QEMU.
    qemu_arg(machine, arg: impl Into<OsString>) => machine.qemu_args.push(arg.into());
}

impl Machine {
    /// A machine with one emulated processor, 1 GiB, and mitigations on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The model of the processor, by the emulator's name.
    pub(crate) fn model(&self) -> &str {
        self.cpu.as_deref().unwrap_or(self.accel.cpu())
    }
}
