//! A run of a VMM: its output, and its processor time.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::libc::{SYS_pidfd_open, syscall};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

const OUTPUT: &str = "/tmp/output";

/// The lines of the output that a message shows.
const LAST: usize = 5;

/// What a run has left.
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// Its output.
    pub output: String,
    /// The processor time of all its threads, with the guests that they ran.
    pub time: Duration,
}

impl Outcome {
    /// The last lines of the output.
    pub fn last(&self) -> String {
        last(&self.output)
    }
}

/// Runs a command, at most as long as `limit`.
pub fn run(mut command: Command, limit: Duration) -> Result<Outcome> {
    let output = File::create(OUTPUT).context(OUTPUT)?;
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let mut child = command.spawn().context("cannot start it")?;
    let ended = wait(&child, limit);
    if !matches!(ended, Ok(true)) {
        let _ = child.kill();
    }
    // Until it is reaped, the clock of the process has the time of all its threads.
    let time = processor_time(&child);
    let status = child.wait()?;
    let output = fs::read(OUTPUT).context(OUTPUT)?;
    let output = String::from_utf8_lossy(&output).into_owned();
    ensure!(ended?, "no end after {limit:?}:\n{}", last(&output));
    Ok(Outcome {
        status,
        output,
        time: time?,
    })
}

/// Waits until a child has ended. Returns whether it has.
fn wait(child: &Child, limit: Duration) -> io::Result<bool> {
    // SAFETY: the call takes two numbers.
    let fd = unsafe { syscall(SYS_pidfd_open, child.id(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut ends = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    Ok(poll(&mut ends, limit)? > 0)
}

fn processor_time(child: &Child) -> nix::Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(child.id() as i32))?;
    Ok(clock_gettime(clock)?.into())
}

fn last(output: &str) -> String {
    let lines: Vec<_> = output.lines().collect();
    lines[lines.len().saturating_sub(LAST)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// One test, since the output has one place.
    #[test]
    fn a_run_has_output_and_processor_time() {
        let limit = Duration::from_secs(60);
        let busy = "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done; echo done; exit 3";
        let outcome = run(shell(busy), limit).unwrap();
        assert_eq!(outcome.output, "done\n");
        assert_eq!(outcome.status.code(), Some(3));
        assert!(
            outcome.time > Duration::from_millis(1),
            "{:?}",
            outcome.time
        );

        let endless = shell("echo one; echo two >&2; exec sleep 60");
        let error = run(endless, Duration::from_millis(200)).err().unwrap();
        assert_eq!(error.to_string(), "no end after 200ms:\none\ntwo");
    }
}
