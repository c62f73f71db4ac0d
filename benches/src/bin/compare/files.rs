//! The files that a run makes.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::{NamedTempFile, TempDir};

/// The name of the record among the files of a run.
pub const RECORD: &str = "record.json";
/// The name of the report among them.
pub const REPORT: &str = "report.html";
/// The directory of criterion's files among them.
pub const CRITERION: &str = "criterion";

/// The files of one run: beside those of the last run of its kind until they
/// are complete, then in their place.
pub struct Results {
    home: PathBuf,
    scratch: TempDir,
    _lock: File,
}

impl Results {
    /// Makes room for a run's files under the name of its kind.
    ///
    /// Fails if another comparison is at work: two at a time would disturb
    /// each other's figures where they are times.
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

    /// Where the run leaves its files.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Keeps the record and the report, and lets these results take the place of
    /// the last. Tells where they are.
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

/// A file that is written to at the end of a run, and not touched if the run
/// does not come to that.
pub struct Output {
    file: NamedTempFile,
    path: PathBuf,
}

impl Output {
    /// Makes sure that the file can be written.
    pub fn begin(path: &Path) -> Result<Self> {
        let dir = match path.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        let file = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(dir)
            .with_context(|| format!("cannot write {}", path.display()))?;
        if path.is_dir() {
            bail!("cannot write {}: it is a directory", path.display());
        }
        Ok(Self {
            file,
            path: path.into(),
        })
    }

    /// Writes it.
    pub fn finish(mut self, text: &str) -> Result<()> {
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.persist(&self.path).map_err(|error| error.error))
            .map(drop)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}
