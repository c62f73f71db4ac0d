//! The kernel's tests: an executable each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::Result;
use kernel_patch::selftests;

use super::result::Verdict;
use super::suites::Suite;
use crate::test_kernel::TestKernel;
use crate::walk;

pub const SUITE: Suite = Suite {
    build,
    names,
    command: |test| Command::new(Path::new(TESTS).join(test)),
    judge,
};

/// The path of the tests.
const TESTS: &str = "/selftests";

/// The exit status of a test that cannot run here.
const SKIPPED: i32 = 4;

fn build(kernel: &TestKernel<'_>) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let tests = selftests(kernel.kernel())?.into_iter();
    let inside = tests.map(|test| (Path::new(TESTS).join(test.name), test.path));
    Ok(inside.collect())
}

fn names() -> Result<Vec<String>> {
    let name = |path: PathBuf| -> Result<String> {
        Ok(path.strip_prefix(TESTS)?.to_string_lossy().into_owned())
    };
    let files = walk::files(Path::new(TESTS))?;
    let mut names = files.into_iter().map(name).collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

fn judge(status: ExitStatus, output: &str) -> (Verdict, String) {
    match status.code() {
        Some(0) => (Verdict::Pass, String::new()),
        Some(SKIPPED) => (Verdict::Skip, String::new()),
        _ => (Verdict::Fail, assertion(output).unwrap_or_default()),
    }
}

/// The place and the text of the assertion that failed.
fn assertion(output: &str) -> Option<String> {
    let mut lines = output.lines();
    lines.find(|line| line.contains("==== Test Assertion Failure"))?;
    lines.next().map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const FAILED: &str = "Random seed: 0x1\n\
                          ==== Test Assertion Failure ====\n  \
                          x86/a_test.c:7: a == b\n  \
                          pid=3 tid=3 errno=4 - Interrupted system call\n  \
                          1 != 2\n\n";

    #[test]
    fn ends_are_told_apart() {
        let judge = |raw, output| judge(ExitStatus::from_raw(raw), output);
        assert_eq!(judge(0, "output"), (Verdict::Pass, String::new()));
        let skipped = judge(SKIPPED << 8, "1..0 # SKIP - no");
        assert_eq!(skipped, (Verdict::Skip, String::new()));
        let failed = judge(254 << 8, FAILED);
        assert_eq!(failed, (Verdict::Fail, "x86/a_test.c:7: a == b".into()));
        assert_eq!(judge(1 << 8, "output"), (Verdict::Fail, String::new()));
        assert_eq!(judge(11, "output"), (Verdict::Fail, String::new()));
    }
}
