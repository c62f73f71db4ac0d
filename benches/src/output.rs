//! A file that a command writes when it ends.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

/// A file that is written at the end of a run. It is not touched if the run fails.
pub struct Output {
    file: NamedTempFile,
    path: PathBuf,
}

impl Output {
    /// Checks that the file can be written.
    ///
    /// # Errors
    ///
    /// If it cannot.
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

    /// Writes the file.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn finish(mut self, text: &str) -> Result<()> {
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.persist(&self.path).map_err(|error| error.error))
            .map(drop)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_gone_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.json");
        fs::write(&path, "old").unwrap();
        let output = Output::begin(&path).unwrap();
        fs::remove_file(output.file.path()).unwrap();
        let error = output.finish("new").unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }
}
