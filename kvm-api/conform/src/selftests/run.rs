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
use super::place::{LIBRARIES, PRELOADED};
use super::result::{RunResult, Verdict};
use super::suites::{SelfTest, Suite};

/// The interval between two checks of a running test.
const STEP: Duration = Duration::from_millis(5);

const OUTPUT: &str = "/tmp/output";
const COUNTS: &str = "/tmp/counts";

pub fn over_ioctl(test: &SelfTest, start: &Start) -> Result<RunResult> {
    run(test, command(test, start), start)
}

/// Runs a test with the preloaded library, and returns how its ioctls were
/// passed on.
pub fn preloaded(test: &SelfTest, start: &Start) -> Result<(RunResult, Counts)> {
    let counts = Path::new(COUNTS);
    Counts::prepare(counts).context(COUNTS)?;
    let mut command = command(test, start);
    command
        .env("LD_PRELOAD", PRELOADED)
        .env(COUNTS_VARIABLE.to_str()?, counts);
    let ran = run(test, command, start)?;
    Ok((ran, Counts::read(counts).context(COUNTS)?))
}

fn command(test: &SelfTest, start: &Start) -> Command {
    let mut command = (test.suite.command)(&test.name);
    command
        .args(start.args)
        .env_clear()
        .env("LD_LIBRARY_PATH", LIBRARIES)
        .stdin(Stdio::null())
        .process_group(0);
    command
}

fn run(test: &SelfTest, mut command: Command, start: &Start) -> Result<RunResult> {
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
    let (verdict, place) = judge(test.suite, ended?, &output);
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

/// The verdict of a test, and the place at which it failed, or how else it ended.
fn judge(suite: &Suite, ended: Option<ExitStatus>, output: &str) -> (Verdict, String) {
    let Some(status) = ended else {
        return (Verdict::CutOff, String::new());
    };
    let (verdict, mut place) = (suite.judge)(status, output);
    if verdict == Verdict::Fail && place.is_empty() {
        place = end(status);
    }
    (verdict, place)
}

fn end(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "neither exited nor killed".into(),
    }
}

fn last(output: &str) -> String {
    // A counter that a test updates in place ends in a carriage return.
    let mut lines = output.rsplit(['\n', '\r']).map(str::trim);
    let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::suites::SUITES;
    use super::*;

    #[test]
    fn a_test_that_says_nothing_has_its_end() {
        for suite in SUITES {
            let judge = |raw| judge(suite, Some(ExitStatus::from_raw(raw)), "output");
            assert_eq!(judge(1 << 8), (Verdict::Fail, "exit status 1".into()));
            assert_eq!(judge(11), (Verdict::Fail, "signal 11".into()));
        }
        let cut_off = judge(&SUITES[0], None, "output");
        assert_eq!(cut_off, (Verdict::CutOff, String::new()));
    }

    #[test]
    fn the_last_line_is_the_last_that_says_something() {
        assert_eq!(last("1\n  1 != 2\n\n"), "1 != 2");
        assert_eq!(last("round 1\rround 2\r"), "round 2");
        assert_eq!(last(""), "");
    }
}
