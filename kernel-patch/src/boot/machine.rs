//! The settings of a machine, which boots a kernel and runs one executable.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::boot::accel::Accel;

/// A machine. Each setting has a default.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) accel: Accel,
    pub(crate) smp: u32,
    pub(crate) memory: String,
    pub(crate) mitigations: bool,
    pub(crate) load_modules: bool,
    pub(crate) strict: bool,
    pub(crate) accepted: Vec<String>,
    pub(crate) cmdline: Vec<String>,
    pub(crate) timeout: Duration,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) files: Vec<(PathBuf, PathBuf)>,
    pub(crate) out: Option<PathBuf>,
    pub(crate) init: Option<PathBuf>,
    pub(crate) plugin: Option<(PathBuf, PathBuf)>,
    pub(crate) qemu_args: Vec<OsString>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            accel: Accel::default(),
            smp: 1,
            memory: "1G".into(),
            mitigations: true,
            load_modules: true,
            strict: false,
            accepted: Vec::new(),
            cmdline: Vec::new(),
            timeout: Duration::from_secs(600),
            env: BTreeMap::new(),
            files: Vec::new(),
            out: None,
            init: None,
            plugin: None,
            qemu_args: Vec::new(),
        }
    }
}

/// Defines a method for each setting, with its argument and the value of the field.
macro_rules! setters {
    ($($(#[$doc:meta])* $field:ident($arg:ident: $type:ty) = $value:expr;)*) => {
        impl Machine {$(
            $(#[$doc])*
            #[must_use]
            pub fn $field(mut self, $arg: $type) -> Self {
                self.$field = $value;
                self
            }
        )*}
    };
}

setters! {
    /// Chooses what executes its instructions.
    accel(accel: Accel) = accel;

    /// Sets the number of processors.
    smp(smp: u32) = smp;

    /// Sets the size of the memory, in QEMU's notation (`1G`).
    memory(memory: impl Into<String>) = memory.into();

    /// Chooses whether the kernel uses mitigations for the processor's vulnerabilities.
    mitigations(on: bool) = on;

    /// Chooses whether the kernel's modules are loaded before the executable starts. They are
    /// in `/lib/modules` in any case.
    load_modules(load: bool) = load;

    /// Chooses whether problems that the kernel reports are errors: a warning ends the machine
    /// at once, and a mere report, for example of lockdep, is found at the end.
    strict(strict: bool) = strict;

    /// Sets the time limit of the run.
    timeout(timeout: Duration) = timeout;

    /// Sets the directory of the host for the files that the executable leaves in
    /// [`OUT`](crate::OUT).
    out(dir: impl Into<PathBuf>) = Some(dir.into());

    /// Sets the executable of the machine's first process, which calls
    /// [`init_if_first`](crate::init_if_first) before anything else. The default is this
    /// program.
    init(program: impl Into<PathBuf>) = Some(program.into());
}

impl Machine {
    /// A machine with one emulated processor, 1 GiB, and mitigations on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Accepts a report of a known problem, given by its first line without the time. A
    /// strict machine fails at others only.
    #[must_use]
    pub fn accept(mut self, report: impl Into<String>) -> Self {
        self.accepted.push(report.into());
        self
    }

    /// Adds a parameter to the kernel's command line.
    #[must_use]
    pub fn cmdline(mut self, parameter: impl Into<String>) -> Self {
        self.cmdline.push(parameter.into());
        self
    }

    /// Sets a variable of the executable's environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Copies a file of the host to an absolute path inside (not to [`OUT`](crate::OUT), nor
    /// anywhere below /proc, /sys, /dev, /tmp and /work).
    #[must_use]
    pub fn file(mut self, from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        self.files.push((from.into(), to.into()));
        self
    }

    /// The directory of the host for the files that the executable leaves, if it is set.
    #[must_use]
    pub fn out_dir(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    /// Loads a plugin into QEMU, which writes its results to the file `out` of the host.
    #[must_use]
    pub fn plugin(mut self, library: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        self.plugin = Some((library.into(), out.into()));
        self
    }

    /// Adds an argument of QEMU.
    #[must_use]
    pub fn qemu_arg(mut self, arg: impl Into<OsString>) -> Self {
        self.qemu_args.push(arg.into());
        self
    }
}
