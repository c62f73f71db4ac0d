//! Child processes, which end with the value that owns them.

use std::env;
use std::fs::{self, File};
use std::io::{self, PipeReader, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{self, Signal};
use nix::unistd::{self, Pid};

use super::error::{HostError, IoContext, Result};
use crate::host::interrupt;

/// The variables that a tool needs.
const PASSED: [&str; 3] = ["PATH", "HOME", "TMPDIR"];

/// The interval at which a wait polls.
const TICK: Duration = Duration::from_millis(10);

/// The time that a child has to clean up after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// A running child, the leader of a process group of its own. Dropping the value ends the
/// group. The kernel ends the child when this process dies.
pub(crate) struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Starts `command`, which messages call `what`.
    ///
    /// Because of the group, a terminal's Ctrl-C does not reach the child: only this
    /// process ends it. `end` is the signal that the kernel sends the child when this
    /// process dies: one that it can catch to clean up, or SIGKILL.
    pub(crate) fn spawn(command: &mut Command, what: &str, end: Signal) -> Result<Self> {
        let parent = unistd::getpid();
        let before_exec = move || {
            prctl::set_pdeathsig(end)?;
            if unistd::getppid() == parent {
                Ok(())
            } else {
                Err(io::Error::other("the parent process is gone"))
            }
        };
        // SAFETY: between fork and exec the closure makes two system calls. It allocates
        // only if it fails, and takes no lock.
        unsafe { command.process_group(0).pre_exec(before_exec) };
        let child = command.spawn().cannot_named("run", what)?;
        let what = what.into();
        Ok(Self { child, what })
    }

    /// Waits until the child ends. Returns `None` at the deadline. Calls `tick` while it
    /// waits.
    pub(crate) fn wait(
        &mut self,
        deadline: Option<Instant>,
        mut tick: impl FnMut(),
    ) -> Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            interrupt::check()?;
            if deadline.is_some_and(|it| Instant::now() >= it) {
                return Ok(None);
            }
            tick();
            thread::sleep(TICK);
        }
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait();
        status.cannot_named("wait for", &self.what)
    }

    fn signal(&self, signal: Signal) {
        // This fails if the group is already gone.
        let _ = signal::killpg(Pid::from_raw(self.child.id() as i32), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.try_wait() {
            self.signal(Signal::SIGTERM);
            let deadline = Instant::now() + GRACE;
            while matches!(self.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(TICK);
            }
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Returns the command of a tool, with only the variables that it needs.
pub(crate) fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    let passed = PASSED.into_iter();
    command
        .env_clear()
        .envs(passed.filter_map(|name| Some((name, env::var_os(name)?))))
        .env("LC_ALL", "C");
    command
}

/// Returns `git` with a user name of its own.
pub(crate) fn git() -> Command {
    let mut git = tool("git");
    git.args(["-c", "user.name=kernel-patch"]);
    git.args(["-c", "user.email=kernel-patch@localhost"]);
    git
}

/// Runs `command` to its end. Appends its output to `log`.
pub(crate) fn run(command: &mut Command, what: &str, log: &Path) -> Result<()> {
    run_with(command, what, log, || ())
}

/// Does the same as [`run`], and calls `tick` while the command runs.
pub(crate) fn run_with(
    command: &mut Command,
    what: &str,
    log: &Path,
    tick: impl FnMut(),
) -> Result<()> {
    let file = log_file(log)?;
    command.stdout(file.try_clone().cannot("write", log)?);
    finish(command, what, log, file, tick)
}

/// Runs `command` to its end, and returns its standard output. Appends its standard error
/// to `log`.
pub(crate) fn run_for_stdout(command: &mut Command, what: &str, log: &Path) -> Result<String> {
    let context = "take the output of";
    let mut output = tempfile::tempfile().cannot_named(context, what)?;
    command.stdout(output.try_clone().cannot_named(context, what)?);
    finish(command, what, log, log_file(log)?, || ())?;
    let mut text = String::new();
    output
        .rewind()
        .and_then(|()| output.read_to_string(&mut text))
        .cannot_named(context, what)?;
    Ok(text)
}

fn log_file(log: &Path) -> Result<File> {
    let mut options = File::options();
    let file = options.create(true).append(true).open(log);
    file.cannot("write", log)
}

fn finish(
    command: &mut Command,
    what: &str,
    log: &Path,
    stderr: File,
    tick: impl FnMut(),
) -> Result<()> {
    command.stdin(Stdio::null()).stderr(stderr);
    let status = Process::spawn(command, what, Signal::SIGTERM)?
        .wait(None, tick)?
        .expect("a wait without a deadline returns a status");
    if status.success() {
        return Ok(());
    }
    let tail = tail(log, 25);
    if tail.contains("No space left on device") {
        return Err(HostError::DiskFull(log.into()));
    }
    Err(HostError::ToolFailed {
        what: what.into(),
        status: status.to_string(),
        log: log.into(),
        tail,
    })
}

/// Runs `command`, which messages call `what`, to its end. Forwards its standard error to
/// `stderr`.
///
/// Fails if the command cannot be started, if it takes longer than `timeout`, or if this
/// process is interrupted. In each case it ends the command's process group.
pub(crate) fn run_here(
    mut command: Command,
    what: &str,
    timeout: Duration,
    stderr: &mut (dyn Write + Send),
) -> Result<ExitStatus> {
    let (reader, writer) = io::pipe().cannot_named("make a pipe for", what)?;
    command.stdin(Stdio::null()).stderr(writer);
    thread::scope(|scope| {
        let drained = scope.spawn(|| drain(reader, stderr));
        let deadline = Instant::now() + timeout;
        let process = Process::spawn(&mut command, what, Signal::SIGKILL);
        // The command holds an end of the pipe.
        drop(command);
        let status = process.and_then(|mut process| process.wait(Some(deadline), || ()));
        let drained = drained.join().expect("draining a pipe does not panic");
        let status = status?.ok_or_else(|| HostError::ToolTimedOut(what.into(), timeout))?;
        drained.cannot_named("forward the output of", what)?;
        Ok(status)
    })
}

/// Runs `command`, which messages call `what`, and returns its output and status.
pub(crate) fn output(command: &mut Command, what: &str) -> Result<Output> {
    command.output().cannot_named("run", what)
}

/// Runs `command`, which messages call `what`, and returns its standard output.
pub(crate) fn stdout(command: &mut Command, what: &str) -> Result<String> {
    let output = output(command, what)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Forwards a pipe. Goes on reading after `to` has failed, so that the writer does not
/// block.
pub(crate) fn drain(mut from: PipeReader, to: &mut (dyn Write + Send)) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut result = Ok(());
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return result,
            Ok(n) if result.is_ok() => {
                result = to.write_all(&buffer[..n]).and_then(|()| to.flush());
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns the last lines of a file; nothing if it does not exist.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut last: Vec<_> = text.lines().rev().take(lines).map(str::trim_end).collect();
    last.reverse();
    last.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn failure_shows_the_end_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let error = run(&mut shell("seq 100; exit 3"), "counting", &log).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("counting failed (exit status: 3)"),
            "{text}"
        );
        assert!(
            text.ends_with("\n99\n100") && !text.contains("\n75\n"),
            "{text}"
        );
    }

    #[test]
    fn output_and_errors_are_apart() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let both = "echo out; echo error >&2; exit ";
        let output = run_for_stdout(&mut shell(&format!("{both} 0")), "sh", &log);
        assert_eq!(output.unwrap(), "out\n");
        let error = run_for_stdout(&mut shell(&format!("{both} 3")), "sh", &log);
        let error = error.unwrap_err().to_string();
        assert!(error.ends_with(":\nerror\nerror"), "{error}");
    }

    #[test]
    fn a_full_disk_has_an_error_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo 'cc1: No space left on device'; exit 1";
        let error = run(&mut shell(script), "cc", &dir.path().join("log")).unwrap_err();
        assert!(matches!(error, HostError::DiskFull(_)), "{error}");
    }

    #[test]
    fn run_here_forwards_errors_and_times_out() {
        let mut stderr = Vec::new();
        let long = Duration::from_secs(100);
        let status = run_here(shell("echo no >&2; exit 3"), "sh", long, &mut stderr).unwrap();
        assert_eq!((status.code(), &stderr[..]), (Some(3), &b"no\n"[..]));

        let short = Duration::from_millis(300);
        let error = run_here(shell("sleep 1000"), "sleeping", short, &mut stderr).unwrap_err();
        assert_eq!(error.to_string(), "sleeping timed out after 0 s");
    }

    #[test]
    fn dropping_ends_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! >{}; wait", file.display());
        let mut process = Process::spawn(&mut shell(&script), "sh", Signal::SIGKILL).unwrap();
        let mut pid = String::new();
        while !pid.ends_with('\n') {
            assert_eq!(process.wait(Some(Instant::now()), || ()).unwrap(), None);
            pid = fs::read_to_string(&file).unwrap_or_default();
        }
        drop(process);
        // The process is a zombie until its parent reaps it, and gone after that.
        let stat = format!("/proc/{}/stat", pid.trim());
        while fs::read_to_string(&stat).is_ok_and(|it| !it.contains(") Z ")) {
            thread::sleep(TICK);
        }
    }
}
