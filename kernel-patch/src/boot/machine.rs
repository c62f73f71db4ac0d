//! A machine: boots a kernel, runs one executable, brings back what came of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::boot::accel::Accel;

/// How a machine is set up. Each setting has a default.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) accel: Accel,
    pub(crate) smp: u32,
    pub(crate) memory: String,
    pub(crate) mitigations: bool,
    pub(crate) load_modules: bool,
    pub(crate) strict: bool,
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

impl Machine {
    /// A machine with one emulated processor, 1 GiB, and mitigations on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What runs its instructions.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = accel;
        self
    }

    /// The number of its processors.
    #[must_use]
    pub fn smp(mut self, smp: u32) -> Self {
        self.smp = smp;
        self
    }

    /// The size of its memory, in QEMU's words (`1G`).
    #[must_use]
    pub fn memory(mut self, memory: impl Into<String>) -> Self {
        self.memory = memory.into();
        self
    }

    /// Whether the kernel guards against the processor's flaws.
    #[must_use]
    pub fn mitigations(mut self, on: bool) -> Self {
        self.mitigations = on;
        self
    }

    /// Whether the kernel's modules are loaded before the executable starts.
    /// They lie in `/lib/modules` in any case.
    #[must_use]
    pub fn load_modules(mut self, load: bool) -> Self {
        self.load_modules = load;
        self
    }

    /// Whether what the kernel complains of is an error: a warning ends the
    /// machine at once, and what is no more than a report (lockdep's, say) is
    /// found at the end.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Adds a parameter to the kernel's command line.
    #[must_use]
    pub fn cmdline(mut self, parameter: impl Into<String>) -> Self {
        self.cmdline.push(parameter.into());
        self
    }

    /// How long the whole run may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets a variable of the executable's environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Puts a file of the host at an absolute path inside (not in [`OUT`], nor
    /// anywhere below /proc, /sys, /dev, /tmp and /work).
    #[must_use]
    pub fn file(mut self, from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        self.files.push((from.into(), to.into()));
        self
    }

    /// Where on the host the files go that the executable leaves in [`OUT`].
    #[must_use]
    pub fn out(mut self, dir: impl Into<PathBuf>) -> Self {
        self.out = Some(dir.into());
        self
    }

    /// That directory, if there is one.
    #[must_use]
    pub fn out_dir(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    /// The program whose image is the machine's first process: one that calls
    /// [`init_if_first`](crate::init_if_first) before all else. This program
    /// itself, unless told otherwise.
    #[must_use]
    pub fn init(mut self, program: impl Into<PathBuf>) -> Self {
        self.init = Some(program.into());
        self
    }

    /// Loads a plugin into QEMU, and tells it to write what it finds to the file
    /// `out` of the host.
    #[must_use]
    pub fn plugin(mut self, library: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        self.plugin = Some((library.into(), out.into()));
        self
    }

    /// Adds an argument to QEMU's.
    #[must_use]
    pub fn qemu_arg(mut self, arg: impl Into<OsString>) -> Self {
        self.qemu_args.push(arg.into());
        self
    }
}
