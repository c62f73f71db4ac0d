//! The kernel's source.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::base::Base;
use super::error::{BuildError, Result};
use crate::host::process::run;
use crate::host::{IoContext, Progress, files, paths};

/// A tree or a tarball, with an identity that changes with its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    base: Base,
    pub(crate) path: PathBuf,
    identity: String,
}

impl Source {
    /// Finds a tree or a tarball of `base`, and its identity.
    pub(crate) fn find(path: &Path, base: Base) -> Result<Self> {
        let path = fs::canonicalize(path).cannot("find", path)?;
        let metadata = fs::metadata(&path).cannot("read", &path)?;
        let (mut bytes, mut newest) = (0, (metadata.mtime(), metadata.mtime_nsec()));
        if metadata.is_dir() {
            check_version(&path, &path, base)?;
            files::walk(&path, is_git, &mut |_, file| {
                if file.is_file() {
                    bytes += file.len();
                }
                newest = newest.max((file.mtime(), file.mtime_nsec()));
                Ok(())
            })?;
        } else {
            bytes = metadata.len();
        }
        let (seconds, nanoseconds) = newest;
        let identity = format!("{bytes} bytes, {seconds}.{nanoseconds:09}");
        Ok(Self {
            base,
            path,
            identity,
        })
    }

    /// Unpacks the source to `to`, which does not exist before it is complete.
    pub(crate) fn unpack(&self, to: &Path) -> Result<()> {
        paths::check_space()?;
        // Unpack beside it, in the directory that the caller has locked.
        let scratch = paths::scratch_in(to.parent().expect("a tree lies in a directory"))?;
        let tree = scratch.path().join("linux");
        unpack(&self.path, &tree)?;
        check_version(&tree, &self.path, self.base)?;
        Ok(fs::rename(&tree, to).cannot("make", to)?)
    }
}

/// Unpacks a tree or a tarball of any version to `to`.
pub(crate) fn unpack(path: &Path, to: &Path) -> Result<()> {
    let log = paths::logs()?.join("unpack.log");
    let _progress = Progress::ours(format!("unpacking {}", path.display()));
    let mut command;
    if path.is_dir() {
        files::replicate(path, to, is_git, |from, to| fs::copy(from, to))?;
        // make rejects a build directory of its own if the tree was built in.
        command = Command::new("make");
        command.args(["-s", "mrproper", "-C"]).arg(to);
    } else {
        fs::create_dir(to).cannot("make", to)?;
        command = Command::new("tar");
        command
            .args(["--extract", "--no-same-owner", "--strip-components=1"])
            .arg("--file")
            .arg(path)
            .arg("--directory")
            .arg(to);
    }
    Ok(run(&mut command, "unpacking the source", &log)?)
}

fn is_git(name: &str) -> bool {
    name == ".git"
}

/// The base that `tree` is a version of.
pub(super) fn base_of(tree: &Path) -> Result<Option<Base>> {
    let version = version(tree)?;
    let is_of = |base: &Base| version.as_deref() == Some(base.version());
    Ok(Base::ALL.into_iter().find(is_of))
}

/// Fails unless `tree`, which came from `path`, is of `base`.
fn check_version(tree: &Path, path: &Path, base: Base) -> Result<()> {
    match version(tree)? {
        Some(version) if version == base.version() => Ok(()),
        other => Err(BuildError::WrongSource {
            path: path.into(),
            found: other.map_or("no kernel source".into(), |it| format!("Linux {it}")),
            wanted: base.version(),
        }),
    }
}

/// The version of Linux that a tree has, if it is one.
fn version(tree: &Path) -> Result<Option<String>> {
    let makefile = files::text_or_empty(&tree.join("Makefile"))?;
    let field = |name: &str| {
        let mut lines = makefile.lines();
        lines.find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='))
    };
    let numbers = field("VERSION").zip(field("PATCHLEVEL"));
    Ok(numbers.map(|(version, level)| format!("{}.{}", version.trim(), level.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_refused() {
        let tree = tempfile::tempdir().unwrap();
        let error = Source::find(tree.path(), Base::V7_3)
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("is no kernel source; the patch series is for Linux 7.3"));
        let makefile = "# GPL\nVERSION = 7\nPATCHLEVEL = 4\nSUBLEVEL = 1\n";
        fs::write(tree.path().join("Makefile"), makefile).unwrap();
        let error = Source::find(tree.path(), Base::V7_3)
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("is Linux 7.4; the patch series is for Linux 7.3"),
            "{error}"
        );
    }

    #[test]
    fn an_edit_changes_the_identity() {
        let tree = tempfile::tempdir().unwrap();
        let makefile = "VERSION = 7\nPATCHLEVEL = 3\n";
        fs::write(tree.path().join("Makefile"), makefile).unwrap();
        let before = Source::find(tree.path(), Base::V7_3).unwrap();
        assert_eq!(before, Source::find(tree.path(), Base::V7_3).unwrap());
        fs::write(tree.path().join("Kconfig"), "more").unwrap();
        assert_ne!(before, Source::find(tree.path(), Base::V7_3).unwrap());
    }

    #[test]
    fn a_missing_source_is_named() {
        let error = Source::find(Path::new("/no/linux.tar.xz"), Base::V7_3).unwrap_err();
        assert!(
            format!("{:#}", anyhow::Error::from(error))
                .starts_with("cannot find /no/linux.tar.xz: No such file")
        );
    }
}
