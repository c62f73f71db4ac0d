//! What a test from outside has: the kernel, and machines that run it.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, anyhow, ensure};
use kernel_patch::{Builder, Kernel, Machine, Mutation, Transcript};

use crate::cli::Options;
use crate::coverage::{Counts, Coverage};
use crate::inside::OUTCOME;
use crate::outcome::{Outcome, Say};

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
        Machine::new()
            .strict(true)
            .timeout(Duration::from_secs(self.options.timeout))
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
        let mut shown = Vec::new();
        let stdout = &mut shown;
        let (sender, lines) = std::sync::mpsc::channel();
        let mut said = Transcript::new(move |line: &str| {
            let _ = sender.send(line.to_owned());
        });
        let scratch = tempfile::tempdir_in(kernel_patch::target_dir()?)?;
        let out = machine.out_dir().unwrap_or(scratch.path()).to_owned();
        let machine = machine.clone().out(&out);
        // The machine's ports are read by threads of their own.
        let (exit, said) = std::thread::scope(|scope| {
            let run = scope.spawn(move || {
                let exit = machine.run(&self.kernel, program, args, stdout, &mut said);
                (exit, said.finish())
            });
            lines.iter().for_each(|line: String| say(&line));
            run.join().expect("running a machine does not panic")
        });
        let succeeded = matches!(&exit, Ok(exit) if exit.success());
        let failure = if succeeded {
            String::new()
        } else {
            said.failure(what)?
        };
        let exit = exit.map_err(|error| anyhow!("{error}; {failure}"))?;
        if let Some(counts) = &self.counts {
            let mut counts = counts.lock().expect("adding counts does not panic");
            counts.add(&self.kernel, &out)?;
        }
        Ok(Ran {
            succeeded,
            ended: format!("exit status {}; {failure}", exit.code()),
            stdout: String::from_utf8_lossy(&shown).into_owned(),
        })
    }

    /// Tests a property in `machine`, by this program.
    pub fn inside(&self, machine: Machine, property: &str, say: &Say<'_>) -> Result<Outcome> {
        let out = tempfile::tempdir_in(kernel_patch::target_dir()?)?;
        let machine = machine.out(out.path());
        let this = env::current_exe()?;
        let ran = self.run(
            property,
            &machine,
            &this,
            &self.options.inside(property),
            say,
        )?;
        ensure!(ran.succeeded, "{}", ran.ended);
        let outcome = fs::read(out.path().join(OUTCOME)).context("no outcome")?;
        Ok(serde_json::from_slice(&outcome)?)
    }
}

/// What became of a program that ran in a machine.
pub struct Ran {
    pub succeeded: bool,
    /// Its exit status, and what it said at the end.
    pub ended: String,
    pub stdout: String,
}

fn builder(options: &Options) -> Builder {
    let builder = Kernel::builder().variant(options.variant()).wait(true);
    match &options.source {
        Some(source) => builder.source(source),
        None => builder,
    }
}
