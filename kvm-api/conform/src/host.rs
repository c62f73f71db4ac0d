//! What a test from outside has: the kernel, and machines that run it.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use kernel_patch::{COUNTS, Kernel, KernelBuilder, Machine, Mutation};

use crate::cli::Options;
use crate::coverage::{Counts, Coverage};
use crate::inside::Input;
use crate::outcome::{Outcome, Say};

/// Data races that Linux has without the series, by the functions.
const UPSTREAMS_RACES: &[&str] = &[
    // Sending a signal reads the flags of a task, in which a run of its vCPU sets and
    // clears PF_VCPU.
    "__send_signal_locked / vcpu_run",
    "prepare_signal / vcpu_run",
];

/// The kernel under test.
pub struct Host<'a> {
    /// What the user asked for.
    pub options: &'a Options,
    kernel: Kernel,
    counts: Option<Mutex<Counts>>,
}

impl<'a> Host<'a> {
    /// Builds the kernel, as far as it is not built.
    pub fn new(options: &'a Options) -> Result<Self> {
        Ok(Self {
            options,
            kernel: builder(options).build()?,
            counts: options.debug.then(Mutex::default),
        })
    }

    /// Builds the kernel with one thing broken.
    pub fn mutated(options: &'a Options, mutation: &Mutation) -> Result<Self> {
        Ok(Self {
            options,
            kernel: builder(options).mutation(mutation).build()?,
            counts: None,
        })
    }

    /// The kernel that machines boot.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Which lines of the new code the machines have reached so far; for a
    /// kernel that counts them.
    pub fn coverage(&self) -> Result<Option<Coverage>> {
        let counts = self.counts.as_ref();
        let counts = counts.map(|it| it.lock().expect("adding counts does not panic"));
        counts.map(|it| it.report(&self.kernel)).transpose()
    }

    /// A machine as every test has it: its kernel may not complain.
    pub fn machine(&self) -> Machine {
        let machine = Machine::new()
            .strict(true)
            .timeout(Duration::from_secs(self.options.timeout));
        if !self.options.kcsan {
            return machine;
        }
        // A report is also a warning, at which the kernel would panic. An interrupt is
        // no other thread: what it changes is not looked for.
        let machine = machine
            .cmdline("panic_on_warn=0")
            .cmdline("kcsan.interrupt_watcher=0")
            .cmdline("kcsan.skip_watch=1000");
        UPSTREAMS_RACES.iter().fold(machine, |machine, race| {
            machine.accept(format!("BUG: KCSAN: data-race in {race}"))
        })
    }

    /// Runs a program in `machine`, for the property `what`. What it writes to
    /// stderr is told line by line.
    pub fn run(
        &self,
        what: &str,
        machine: &Machine,
        program: &Path,
        args: &[String],
        say: &Say<'_>,
    ) -> Result<Ran> {
        let scratch = tempfile::tempdir_in(kernel_patch::target_dir()?)?;
        let machine = machine.clone().out(scratch.path());
        let ran = machine.capture(&self.kernel, what, program, args, &mut |line| say(line))?;
        self.add_counts(scratch.path())?;
        Ok(Ran {
            succeeded: ran.exit.success(),
            ended: format!("exit status {}; {}", ran.exit.code(), ran.failure),
            stdout: ran.stdout,
        })
    }

    /// Tests a property in `machine`, by this program.
    pub fn inside(&self, machine: Machine, property: &str, say: &Say<'_>) -> Result<Outcome> {
        let scratch = tempfile::tempdir_in(kernel_patch::target_dir()?)?;
        let input = Input {
            property: property.into(),
            options: self.options.clone(),
        };
        let machine = machine.out(scratch.path());
        let outcome = machine.call(&self.kernel, property, &input, &mut |line| say(line));
        // A machine that does not come to its end leaves no counts.
        if outcome.is_ok() || scratch.path().join(COUNTS).exists() {
            self.add_counts(scratch.path())?;
        }
        Ok(outcome?)
    }

    /// Adds the counts of lines that a machine has left.
    fn add_counts(&self, out: &Path) -> Result<()> {
        let Some(counts) = &self.counts else {
            return Ok(());
        };
        let mut counts = counts.lock().expect("adding counts does not panic");
        counts.add(&self.kernel, out)
    }
}

/// What became of a program that ran in a machine.
pub struct Ran {
    pub succeeded: bool,
    /// Its exit status, and what it said at the end.
    pub ended: String,
    pub stdout: String,
}

fn builder(options: &Options) -> KernelBuilder {
    let builder = Kernel::builder().variant(options.variant()).wait(true);
    match &options.source {
        Some(source) => builder.source(source),
        None => builder,
    }
}
