//! The files of one run of a machine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::host::error::{IoContext, Result};
use crate::host::paths;

/// The directory of one run, and the names of the files in it.
pub(crate) struct RunDir<'a>(&'a Path);

impl<'a> RunDir<'a> {
    pub(crate) fn new(path: &'a Path) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0
    }

    pub(crate) fn initramfs(&self) -> PathBuf {
        self.0.join("initramfs")
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// The output of the emulator.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("emulator.log")
    }

    /// Copies the console's log to the directory of logs, which outlives the run.
    pub(crate) fn keep_console(&self) -> Result<PathBuf> {
        let name = self.0.file_name().unwrap_or_default().to_string_lossy();
        let kept = paths::logs()?.join(format!("{name}-console.log"));
        fs::copy(self.console(), &kept).cannot("write", &kept)?;
        Ok(kept)
    }
}
