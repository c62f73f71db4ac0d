//! A run of a VMM: its output, and its processor time.

use std::fs::{self, File};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{io, mem};

use anyhow::{Context, Result, ensure};
use nix::libc::{SYS_pidfd_open, rusage, syscall, timeval, wait4};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
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
    /// The processor time of all its threads, with the guests that they ran, and of the
    /// processes that it has started and waited for.
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
        .stderr(output)
        .process_group(0);
    let child = command.spawn().context("cannot start it")?;
    let ended = wait(&child, limit);
    // What it has started, too: it would take processor time from the next run.
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    let (status, time) = reap(&child)?;
    let output = fs::read(OUTPUT).context(OUTPUT)?;
    let output = String::from_utf8_lossy(&output).into_owned();
    ensure!(ended?, "no end after {limit:?}:\n{}", last(&output));
    Ok(Outcome {
        status,
        output,
        time,
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

/// Waits for a child, and returns its processor time, too.
fn reap(child: &Child) -> io::Result<(ExitStatus, Duration)> {
    let mut status = 0;
    // SAFETY: the structure has numbers only.
    let mut usage: rusage = unsafe { mem::zeroed() };
    // SAFETY: the call writes to both.
    let pid = unsafe { wait4(child.id() as i32, &mut status, 0, &mut usage) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let time = |it: timeval| Duration::new(it.tv_sec as u64, it.tv_usec as u32 * 1000);
    let time = time(usage.ru_utime) + time(usage.ru_stime);
    Ok((ExitStatus::from_raw(status), time))
}

fn last(output: &str) -> String {
    let lines: Vec<_> = output.lines().collect();
    lines[lines.len().saturating_sub(LAST)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;
    use std::time::Instant;

    use nix::libc::O_NONBLOCK;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// One test, since the output has one place.
    #[test]
    fn a_run_has_output_and_processor_time() {
        let limit = Duration::from_secs(30);
        // The time is that of the inner shell.
        let busy = "sh -c 'i=0; while [ $i -lt 50000 ]; do i=$((i + 1)); done'; echo done; exit 3";
        let outcome = run(shell(busy), limit).unwrap();
        assert_eq!(outcome.output, "done\n");
        assert_eq!(outcome.status.code(), Some(3));
        assert!(
            outcome.time > Duration::from_millis(10),
            "{:?}",
            outcome.time
        );

        // Another process of its own ends with it.
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let holds = format!(
            "exec 3<>{0}; sleep 600 & echo one; echo two >&2; wait",
            fifo.display()
        );
        let endless = shell(&holds);
        let error = run(endless, Duration::from_millis(200)).err().unwrap();
        assert_eq!(error.to_string(), "no end after 200ms:\none\ntwo");
        // Without a reader, it cannot be opened for writing.
        let open = || {
            File::options()
                .write(true)
                .custom_flags(O_NONBLOCK)
                .open(&fifo)
        };
        let deadline = Instant::now() + limit;
        while open().is_ok() {
            assert!(Instant::now() < deadline, "a process is left");
        }
    }
}
