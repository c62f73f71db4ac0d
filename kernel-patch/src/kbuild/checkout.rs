//! A kernel from a user's own work tree, which has the series, a part of it, or something
//! else, to compare or to bisect.

use std::fs;
use std::path::Path;

use super::digest;
use super::error::{BuildError, Result};
use crate::host::{IoContext, Lock, Progress, needs, packages, paths, process};
use crate::kbuild::base::Base;
use crate::kbuild::config::Config;
use crate::kbuild::kernel::Kernel;
use crate::kbuild::make::Make;
use crate::kbuild::source;
use crate::kbuild::tree;

impl Kernel {
    /// Builds the work tree at `path`, with its uncommitted changes, in the usual
    /// configuration. Sets the series' own option only if the tree has it.
    ///
    /// The build is in a clone of the tree. The clone switches directly from one commit to
    /// another, so that make rebuilds only what differs.
    ///
    /// # Errors
    ///
    /// `path` is not a git work tree, or does not build.
    pub fn of_checkout(path: &Path) -> Result<Self> {
        let from = fs::canonicalize(path).cannot("find", path)?;
        packages::ensure(needs::GIT)?;
        packages::ensure(needs::BUILD)?;
        let root = paths::work_dir()?;
        let lock = Lock::exclusive(&root, false)?;
        paths::sweep(&root)?;

        let commit = commit(&from)?;
        let name = digest::short([from.as_os_str().as_encoded_bytes()]);
        let clone = root.join(format!("checkout-{name}"));
        let log = paths::new_log("build-checkout.log")?;
        let progress = Progress::ours(format!("building {} ({commit:.12})", from.display()));
        if !clone.exists() {
            let scratch = paths::scratch()?;
            let half = scratch.path().join("linux");
            let mut git = process::git();
            git.args(["clone", "--quiet", "--shared", "--no-checkout"]);
            process::run(git.arg(&from).arg(&half), "git clone", &log)?;
            fs::rename(&half, &clone).cannot("make", &clone)?;
        }
        let mut git = process::git();
        git.arg("-C").arg(&clone);
        git.args(["checkout", "--quiet", "--force", "--detach", &commit]);
        process::run(&mut git, "git checkout", &log)?;

        // Another version is most likely newer than all of ours.
        let base = source::base_of(&clone)?.unwrap_or(Base::ALL[Base::ALL.len() - 1]);
        let config = Config::of_checkout(base)?;
        let build = paths::create(clone.join(tree::BUILD))?;
        let make = Make {
            tree: &clone,
            build: &build,
            log,
            arch: "x86_64",
            args: &[],
            progress,
        };
        config.make(&make)?;
        make.build("bzImage modules")?;
        drop(lock);
        let lock = Lock::shared(&root, false)?;
        let name = commit[..12].into();
        Ok(Self::built(clone, build, name, &config, lock))
    }
}

/// Returns the current commit, or one without a branch for the uncommitted changes.
fn commit(tree: &Path) -> Result<String> {
    let git_output = |args: &[&str]| {
        let output = process::output(process::git().arg("-C").arg(tree).args(args), "git")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(BuildError::NoCommit(tree.into(), text(&output.stderr)))
        }
    };
    let head = git_output(&["rev-parse", "--verify", "HEAD"])?;
    let changed = git_output(&["stash", "create"])?;
    Ok(if changed.is_empty() { head } else { changed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(tree: &Path, args: &[&str]) {
        let status = process::git()
            .arg("-C")
            .arg(tree)
            .args(args)
            .status()
            .unwrap();
        assert!(status.success(), "{args:?}");
    }

    #[test]
    fn uncommitted_changes_have_a_commit() {
        let tree = tempfile::tempdir().unwrap();
        let tree = tree.path();
        run(tree, &["init", "--quiet"]);
        fs::write(tree.join("a"), "old").unwrap();
        run(tree, &["add", "a"]);
        run(tree, &["commit", "--quiet", "--message", "a"]);
        let clean = commit(tree).unwrap();
        assert_eq!(clean.len(), 40);
        assert_eq!(commit(tree).unwrap(), clean);
        fs::write(tree.join("a"), "new").unwrap();
        assert_ne!(commit(tree).unwrap(), clean);
        assert_eq!(fs::read_to_string(tree.join("a")).unwrap(), "new");
    }

    #[test]
    fn a_directory_outside_git_is_refused() {
        let tree = tempfile::tempdir().unwrap();
        let error = commit(tree.path()).unwrap_err().to_string();
        assert!(
            error.contains("is not a git work tree with a commit"),
            "{error}"
        );
    }
}
