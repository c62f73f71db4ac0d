//! The result of a run, from the console and the exit status.

use std::process::ExitStatus;

use super::error::{BootError, Console, Result};
use crate::boot::accel::Accel;
use crate::boot::machine::Machine;
use crate::boot::run_dir::RunDir;
use crate::host::{HostError, files, process};
use crate::wire::job::{Exit, JobResult};

/// The number of console lines that an error shows.
const TAIL: usize = 30;

/// Returns the exit of the executable, or the reason why there is none.
pub(crate) fn judge(
    machine: &Machine,
    status: Option<ExitStatus>,
    report: &[u8],
    dir: &RunDir,
) -> Result<Exit> {
    let console = files::text_or_empty(&dir.console())?;
    let end = || -> Result<_> {
        Ok(Console {
            log: dir.keep_console()?,
            tail: process::tail(&dir.console(), TAIL),
        })
    };
    if console.contains("Kernel panic - not syncing") {
        return Err(BootError::Panicked(end()?));
    }
    if machine.strict
        && let Some(report) = complaint(&console, &machine.accepted)
    {
        return Err(BootError::Complained(dir.keep_console()?, report));
    }
    let Some(status) = status else {
        return Err(BootError::TimedOut(machine.timeout, end()?));
    };
    // Bochs ends with an error when the machine goes down.
    let went_down = machine.accel == Accel::Bochs && !report.is_empty();
    if !status.success() && !went_down {
        return Err(BootError::EmulatorFailed {
            name: machine.accel.emulator(),
            status: status.to_string(),
            output: process::tail(&dir.log(), TAIL),
        });
    }
    match serde_json::from_slice::<JobResult>(report) {
        Ok(report) => report.map_err(BootError::NotStarted),
        Err(_) => Err(BootError::NoExitStatus(end()?)),
    }
}

/// Whether the kernel has reported a problem that is an error.
pub(super) fn has_complaint(machine: &Machine, dir: &RunDir) -> Result<bool, HostError> {
    // Asked every few seconds of a run.
    if !machine.strict {
        return Ok(false);
    }
    let console = files::text_or_empty(&dir.console())?;
    Ok(complaint(&console, &machine.accepted).is_some())
}

/// The first report of a problem that panic_on_warn does not cover, with the lines that
/// follow it: of lockdep, of RCU, of sleeping in atomic context, or of a data race. Those
/// that begin like one of `accepted` do not count.
fn complaint(console: &str, accepted: &[String]) -> Option<String> {
    let marks = ["WARNING: ", "BUG: ", "INFO: "];
    let lines = console.lines().map(|line| line.split_once("] "));
    let mut lines = lines.map(|parts| parts.map_or("", |(_, text)| text));
    let begins = |line: &&str| {
        marks.iter().any(|it| line.starts_with(it))
            && !accepted.iter().any(|it| line.starts_with(it))
    };
    let first = lines.find(begins)?;
    let report: Vec<_> = [first].into_iter().chain(lines).take(TAIL).collect();
    Some(report.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_found() {
        let console = "[    1.0] all is well\n\
            [    2.0] ======\n\
            [    2.0] WARNING: possible circular locking\n\
            [    2.0] somebody is trying to\n";
        let report = "WARNING: possible circular locking\nsomebody is trying to";
        assert_eq!(complaint(console, &[]).as_deref(), Some(report));
        let accepted = ["WARNING: possible circular locking".to_owned()];
        assert_eq!(complaint(console, &accepted), None);
        assert_eq!(
            complaint("[    1.0] no BUG: here\nWARNING: of whom?\n", &[]),
            None
        );
    }
}
