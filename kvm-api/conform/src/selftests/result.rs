//! The result of a run of a test.

use std::fmt::{self, Display};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The test found no error.
    Pass,
    /// The test said that it cannot run here.
    Skip,
    /// The test found an error.
    Fail,
    /// The test did not end in time.
    CutOff,
}

impl Verdict {
    pub const ALL: [Self; 4] = [Self::Pass, Self::Skip, Self::Fail, Self::CutOff];
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Fail => "fail",
            Self::CutOff => "cut off",
        })
    }
}

#[derive(Clone, Debug)]
pub struct RunResult {
    pub verdict: Verdict,
    /// The duration, by the machine's clock.
    pub took: Duration,
    /// The assertion that failed, with its place, or how else the test ended.
    pub place: String,
    pub last: String,
}

impl Display for RunResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verdict)?;
        for text in [&self.place, &self.last] {
            if !text.is_empty() {
                write!(f, ": {text}")?;
            }
        }
        Ok(())
    }
}
