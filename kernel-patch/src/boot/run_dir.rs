//! The files of one run of a machine.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::host::error::Result;
use crate::host::{IoContext, paths};

/// The temporary directory of one run, and the names of the files in it.
pub(crate) struct RunDir(TempDir);

impl RunDir {
    pub(crate) fn make() -> Result<Self> {
        Ok(Self(paths::scratch()?))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn initramfs(&self) -> PathBuf {
        self.path().join("initramfs")
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.path().join("console.log")
    }

    /// The pipe by which the machine learns the size of the terminal.
    pub(crate) fn size(&self) -> PathBuf {
        self.path().join("size")
    }

    /// The output of the emulator.
    pub(crate) fn log(&self) -> PathBuf {
        self.path().join("emulator.log")
    }

    /// Copies the console's log to the directory of logs, which outlives the run.
    pub(crate) fn keep_console(&self) -> Result<PathBuf> {
        let name = self.path().file_name().unwrap_or_default();
        let kept = paths::logs()?.join(format!("{}-console.log", name.display()));
        fs::copy(self.console(), &kept).cannot("write", &kept)?;
        Ok(kept)
    }
}
