//! The calling side of a call: runs a program, and returns its answer.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{BootError, LastLines, Result};
use crate::boot::machine::Machine;
use crate::host::cargo::this_program;
use crate::host::process::run_here;
use crate::host::{HostError, IoContext, paths, transcript};
use crate::kbuild::Kernel;
use crate::wire::call::{CALL, INPUT, OUTPUT};
use crate::wire::job::{Exit, OUT_VARIABLE};

/// The output of a program that ran in a machine.
#[derive(Debug)]
pub struct Captured {
    /// How the program ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: String,
    /// The last lines of its standard error if it failed, and the path of a file with
    /// all of them.
    pub failure: String,
}

impl Machine {
    /// Boots `kernel` and runs a static executable inside, as [`run`](Self::run) does,
    /// but keeps its output. `on_line` receives the lines of its standard error as they
    /// come. Messages and a log are named after `what`.
    ///
    /// # Errors
    ///
    /// There is no exit status. The message contains the last lines of the executable's
    /// standard error.
    pub fn capture(
        &self,
        kernel: &Kernel,
        what: &str,
        program: &Path,
        args: &[String],
        on_line: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Captured> {
        let mut stdout = Vec::new();
        let mut stderr = transcript::of_lines(on_line);
        let exit = self.run(kernel, program, args, &mut stdout, &mut stderr);
        let succeeded = exit.as_ref().is_ok_and(|exit| exit.success());
        let failure = if succeeded {
            String::new()
        } else {
            stderr.failure(what)?
        };
        match exit {
            Err(error @ BootError::Host(_)) => Err(error),
            Err(error) => {
                let (what, lines) = (what.into(), failure);
                Err(BootError::CutShort(error.into(), LastLines { what, lines }))
            }
            Ok(exit) => Ok(Captured {
                exit,
                stdout: String::from_utf8_lossy(&stdout).into_owned(),
                failure,
            }),
        }
    }

    /// Boots `kernel`, runs this program inside with `input`, and returns its answer
    /// by [`answer_if_called`](crate::answer_if_called). Otherwise like
    /// [`capture`](Self::capture).
    ///
    /// # Errors
    ///
    /// The machine or the program fails, or the program does not answer.
    pub fn call<I: Serialize + ?Sized, O: DeserializeOwned>(
        &self,
        kernel: &Kernel,
        what: &str,
        input: &I,
        on_line: &mut (dyn FnMut(&str) + Send),
    ) -> Result<O> {
        let scratch = paths::scratch()?;
        let file = scratch.path().join("input");
        write_input(&file, input)?;
        let out = self.out.clone();
        let out = out.unwrap_or_else(|| scratch.path().join("out"));
        let machine = self.clone().file(file, INPUT).out(&out);
        let args = [CALL, INPUT].map(String::from);
        let ran = machine.capture(kernel, what, &this_program()?, &args, on_line)?;
        if !ran.exit.success() {
            return Err(BootError::CallFailed {
                what: what.into(),
                status: format!("exit status: {}", ran.exit.code()),
                failure: ran.failure,
            });
        }
        read_output(what, &out)
    }
}

/// Runs this program in a process of its own on this host, with `input`, and returns
/// its answer by [`answer_if_called`](crate::answer_if_called). Its other files go to
/// `out`. `on_line` and `what` are as for [`Machine::capture`].
///
/// # Errors
///
/// The program fails, does not answer, or takes longer than `timeout`.
pub fn call_here<I: Serialize + ?Sized, O: DeserializeOwned>(
    what: &str,
    input: &I,
    out: &Path,
    timeout: Duration,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<O> {
    let scratch = tempfile::tempdir();
    let scratch = scratch.cannot_named("make", "a temporary directory")?;
    let file = scratch.path().join("input");
    write_input(&file, input)?;
    let mut command = Command::new(this_program()?);
    command.arg(CALL).arg(&file).env(OUT_VARIABLE, out);
    command.stdout(Stdio::null());
    let mut stderr = transcript::of_lines(on_line);
    let status = run_here(command, what, timeout, &mut stderr)?;
    if !status.success() {
        return Err(BootError::CallFailed {
            what: what.into(),
            status: status.to_string(),
            failure: stderr.failure(what)?,
        });
    }
    read_output(what, out)
}

fn write_input(file: &Path, input: &(impl Serialize + ?Sized)) -> Result<(), HostError> {
    let json = serde_json::to_vec(input).cannot("write", file)?;
    fs::write(file, json).cannot("write", file)
}

/// Takes the output out of the directory.
fn read_output<O: DeserializeOwned>(what: &str, out: &Path) -> Result<O> {
    let file = out.join(OUTPUT);
    let json = fs::read(&file).cannot("read", &file)?;
    fs::remove_file(&file).cannot("remove", &file)?;
    serde_json::from_slice(&json).map_err(|error| BootError::BadOutput(what.into(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table shows only the first line of an error.
    #[test]
    fn the_error_of_the_machine_comes_first() {
        let program = LastLines {
            what: "adding".into(),
            lines: "one\ntwo".into(),
        };
        let machine = BootError::NotStarted("no".into());
        let error = BootError::CutShort(machine.into(), program);
        assert_eq!(
            format!("{:#}", anyhow::Error::from(error)),
            "the machine could not run the executable: no: the last lines of adding: one\ntwo"
        );
    }

    #[test]
    fn input_and_output_are_typed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(OUTPUT);
        write_input(&file, &(7, "seven")).unwrap();
        let output: (u8, String) = read_output("counting", dir.path()).unwrap();
        assert_eq!(output, (7, "seven".into()));
        assert!(!file.exists());
        write_input(&file, "text").unwrap();
        let error = read_output::<u8>("counting", dir.path()).unwrap_err();
        assert!(matches!(error, BootError::BadOutput(..)), "{error}");
    }
}
