//! The files of a run.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// The name of the record among the files of a run.
pub const RECORD: &str = "record.json";
/// The name of the report among them.
pub const REPORT: &str = "report.html";

/// The files of one run. When they are complete, they replace the files of the last run of
/// the same kind.
pub struct Results {
    home: PathBuf,
    scratch: TempDir,
    _lock: File,
}

impl Results {
    /// Makes a directory for the files of a run of this kind.
    ///
    /// Fails if another comparison runs, because two comparisons at a time disturb each
    /// other's times.
    pub fn begin(kind: &str) -> Result<Self> {
        let all = kernel_patch::target_dir()?.join("compare");
        fs::create_dir_all(&all).with_context(|| format!("cannot make {}", all.display()))?;
        let file = all.join("lock");
        let lock =
            File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("another comparison is at work in {}", all.display());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", file.display()));
            }
        }
        let scratch = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(&all)
            .with_context(|| format!("cannot make a directory in {}", all.display()))?;
        Ok(Self {
            home: all.join(kind),
            scratch,
            _lock: lock,
        })
    }

    /// The directory for the files of the run.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Adds the record and the report, replaces the files of the last run, and returns their
    /// directory.
    pub fn finish(self, record: &str, report: &str) -> Result<PathBuf> {
        for (name, text) in [(RECORD, record), (REPORT, report)] {
            let file = self.scratch().join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        let home = self.home;
        if home.exists() {
            fs::remove_dir_all(&home)
                .with_context(|| format!("cannot empty {}", home.display()))?;
        }
        fs::rename(self.scratch.keep(), &home)
            .with_context(|| format!("cannot make {}", home.display()))?;
        Ok(home)
    }
}
