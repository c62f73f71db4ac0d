//! The tests of the crate kvm-ioctls: one executable, which the test harness of Rust makes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, ensure};

use super::place::LIBRARIES;
use super::result::Verdict;
use super::suites::Suite;
use crate::test_kernel::TestKernel;

pub const SUITE: Suite = Suite {
    build,
    names,
    command,
    judge,
};

/// The path of the executable.
const PROGRAM: &str = "/kvm-ioctls/tests";

/// The crate, with which the path of a test in Rust begins.
const CRATE: &str = "kvm_ioctls::";

fn build(_: &TestKernel<'_>) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let program = kernel_patch::kvm_ioctls_tests()?;
    Ok(BTreeMap::from([(PROGRAM.into(), program)]))
}

fn names() -> Result<Vec<String>> {
    let mut command = Command::new(PROGRAM);
    command.args(["--list", "--format", "terse"]);
    let output = command.env("LD_LIBRARY_PATH", LIBRARIES).output();
    let output = output.context(PROGRAM)?;
    let names = listed(&String::from_utf8_lossy(&output.stdout));
    ensure!(
        output.status.success() && !names.is_empty(),
        "{PROGRAM} lists no tests: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(names)
}

/// The names of the tests in the list of the executable.
fn listed(list: &str) -> Vec<String> {
    let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
    names.map(|name| format!("{CRATE}{name}")).collect()
}

/// The tests that are ignored run too: which ones are ignored depends on the host that
/// builds them.
fn command(test: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["--exact", test.strip_prefix(CRATE).unwrap_or(test)])
        .args(["--include-ignored", "--nocapture", "--test-threads=1"]);
    command
}

/// A test that ends the process itself has not passed, whatever the exit status is.
fn judge(status: ExitStatus, output: &str) -> (Verdict, String) {
    let passed = output.contains("\ntest result: ok. 1 passed;");
    if status.success() && passed {
        return (Verdict::Pass, String::new());
    }
    (Verdict::Fail, panic(output).unwrap_or_default())
}

/// The place and the first line of the panic that failed.
fn panic(output: &str) -> Option<String> {
    let (_, panic) = output.split_once(" panicked at ")?;
    let mut lines = panic.lines();
    let (place, what) = (lines.next()?, lines.next().unwrap_or_default());
    Some(format!("{place} {what}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn the_list_is_read() {
        let list = "a::tests::b: test\na::tests::c: benchmark\na::d: test\n\n2 tests\n";
        assert_eq!(
            listed(list),
            ["kvm_ioctls::a::tests::b", "kvm_ioctls::a::d"]
        );
        let command = command("kvm_ioctls::a::d");
        assert_eq!(command.get_args().nth(1).unwrap(), "a::d");
    }

    #[test]
    fn ends_are_told_apart() {
        let judge = |raw, output| judge(ExitStatus::from_raw(raw), output);
        let end = "0 ignored; 0 measured; 2 filtered out; finished in 0.00s\n";
        let passed = format!("\nrunning 1 test\ntest a ... ok\n\ntest result: ok. 1 passed; {end}");
        assert_eq!(judge(0, &passed), (Verdict::Pass, String::new()));
        let none = format!("\nrunning 0 tests\n\ntest result: ok. 0 passed; {end}");
        assert_eq!(judge(0, &none), (Verdict::Fail, String::new()));
        assert_eq!(judge(0, "test a ..."), (Verdict::Fail, String::new()));
        let failed = "\nrunning 1 test\ntest a ... \n\
            thread 'a' (9) panicked at src/a.rs:4:9:\nassertion failed: b\nnote: run with\nFAILED\n";
        let place = "src/a.rs:4:9: assertion failed: b".to_owned();
        assert_eq!(judge(101 << 8, failed), (Verdict::Fail, place));
        assert_eq!(judge(11, "test a ..."), (Verdict::Fail, String::new()));
        // Even if the status is that of success.
        assert_eq!(judge(101 << 8, &passed).0, Verdict::Fail);
    }
}
