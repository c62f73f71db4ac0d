//! One run of a test.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kvm_preload::{COUNTS_VARIABLE, Counts};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::known::Start;
use super::place::{LIBRARIES, PRELOADED, TESTS};
use super::result::{RunResult, Verdict};

/// The exit status of a test that cannot run here.
const SKIPPED: i32 = 4;

/// The interval between two checks of a running test.
const STEP: Duration = Duration::from_millis(5);

const OUTPUT: &str = "/tmp/output";
const COUNTS: &str = "/tmp/counts";

pub fn over_ioctl(test: &str, start: &Start) -> Result<RunResult> {
    run(command(test, start), start)
}

/// Runs a test with the preloaded library, and returns how its ioctls were
/// passed on.
pub fn preloaded(test: &str, start: &Start) -> Result<(RunResult, Counts)> {
    let counts = Path::new(COUNTS);
    Counts::prepare(counts).context(COUNTS)?;
    let mut command = command(test, start);
    command
        .env("LD_PRELOAD", PRELOADED)
        .env(COUNTS_VARIABLE.to_str()?, counts);
    let ran = run(command, start)?;
    Ok((ran, Counts::read(counts).context(COUNTS)?))
}

fn command(test: &str, start: &Start) -> Command {
    let mut command = Command::new(Path::new(TESTS).join(test));
    command
        .args(start.args)
        .env_clear()
        .env("LD_LIBRARY_PATH", LIBRARIES)
        .stdin(Stdio::null())
        .process_group(0);
    command
}

fn run(mut command: Command, start: &Start) -> Result<RunResult> {
    let output = File::create(OUTPUT).context(OUTPUT)?;
    command.stdout(output.try_clone()?).stderr(output);
    let started = Instant::now();
    let mut child = command.spawn().context("cannot start it")?;
    let ended = wait(&mut child, started + start.limit);
    // Kill its children too, and the test itself if it still runs.
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    child.wait()?;
    let took = started.elapsed();
    let output = fs::read(OUTPUT).context(OUTPUT)?;
    let output = String::from_utf8_lossy(&output);
    let (verdict, place) = judge(ended?, &output);
    Ok(RunResult {
        verdict,
        took,
        place,
        last: last(&output),
    })
}

fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        sleep(STEP);
    }
    Ok(None)
}

/// The verdict of a test, and the place at which it failed.
fn judge(ended: Option<ExitStatus>, output: &str) -> (Verdict, String) {
    let Some(status) = ended else {
        return (Verdict::CutOff, String::new());
    };
    match status.code() {
        Some(0) => (Verdict::Pass, String::new()),
        Some(SKIPPED) => (Verdict::Skip, String::new()),
        _ => {
            let place = assertion(output).unwrap_or_else(|| end(status));
            (Verdict::Fail, place)
        }
    }
}

fn end(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "neither exited nor killed".into(),
    }
}

/// The place and the text of the assertion that failed.
fn assertion(output: &str) -> Option<String> {
    let mut lines = output.lines();
    lines.find(|line| line.contains("==== Test Assertion Failure"))?;
    lines.next().map(|line| line.trim().to_owned())
}

fn last(output: &str) -> String {
    // A counter that a test updates in place ends in a carriage return.
    let mut lines = output.rsplit(['\n', '\r']).map(str::trim);
    let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(raw: i32) -> Option<ExitStatus> {
        Some(ExitStatus::from_raw(raw))
    }

    const FAILED: &str = "Random seed: 0x1\n\
                          ==== Test Assertion Failure ====\n  \
                          x86/a_test.c:7: a == b\n  \
                          pid=3 tid=3 errno=4 - Interrupted system call\n  \
                          1 != 2\n\n";

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(judge(status(0), "output"), (Verdict::Pass, String::new()));
        let skipped = judge(status(SKIPPED << 8), "1..0 # SKIP - no");
        assert_eq!(skipped, (Verdict::Skip, String::new()));
        assert_eq!(judge(None, "output"), (Verdict::CutOff, String::new()));
        let failed = judge(status(254 << 8), FAILED);
        assert_eq!(failed, (Verdict::Fail, "x86/a_test.c:7: a == b".into()));
        let failed = judge(status(1 << 8), "output");
        assert_eq!(failed, (Verdict::Fail, "exit status 1".into()));
        let killed = judge(status(11), "output");
        assert_eq!(killed, (Verdict::Fail, "signal 11".into()));
    }

    #[test]
    fn the_last_line_is_the_last_that_says_something() {
        assert_eq!(last(FAILED), "1 != 2");
        assert_eq!(last("round 1\rround 2\r"), "round 2");
        assert_eq!(last(""), "");
    }
}
