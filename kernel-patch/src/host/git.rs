//! A git repository of a source tree.

use std::path::PathBuf;
use std::process::Command;

use super::error::Result;
use crate::host::process;

/// A repository that this program makes.
pub(crate) struct Git {
    pub(crate) root: PathBuf,
    log: PathBuf,
}

impl Git {
    /// The repository `root`, which need not exist yet. The output of its commands goes to
    /// `log`.
    pub(crate) fn new(root: PathBuf, log: PathBuf) -> Self {
        Self { root, log }
    }

    /// Makes the repository: the files of the directory are one commit on a branch.
    pub(crate) fn init(&self, branch: &str, message: &str) -> Result<()> {
        self.run(&["init", "--quiet", "--initial-branch", branch])?;
        // The source contains files that the kernel's .gitignore excludes.
        self.run(&["add", "--all", "--force"])?;
        self.run(&["commit", "--quiet", "--message", message])
    }

    /// Runs a command, with its output in the log.
    pub(crate) fn run(&self, args: &[&str]) -> Result<()> {
        let what = format!("git {}", args[0]);
        process::run(self.command().args(args), &what, &self.log)
    }

    /// Whether a command succeeds.
    pub(crate) fn succeeds(&self, args: &[&str]) -> Result<bool> {
        let output = process::output(self.command().args(args), "git")?;
        Ok(output.status.success())
    }

    /// The output of a command, without blanks at its ends.
    pub(crate) fn output(&self, args: &[&str]) -> Result<String> {
        let output = process::stdout(self.command().args(args), "git")?;
        Ok(output.trim().into())
    }

    /// `git` in the repository, independent of the user's configuration.
    pub(crate) fn command(&self) -> Command {
        let mut command = process::git();
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .arg("-C")
            .arg(&self.root)
            .args(["-c", "gc.auto=0", "-c", "core.fsync=none"])
            .args(["-c", "merge.conflictStyle=diff3"]);
        command
    }
}
