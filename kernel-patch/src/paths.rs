//! Where things lie.

use std::path::{Path, PathBuf};
use std::{env, fs};

use tempfile::TempDir;

use crate::{Error, Result, files};

/// This crate's files, as they were when it was built.
const CRATE: &str = env!("CARGO_MANIFEST_DIR");

/// The patch series.
pub(crate) fn patches() -> PathBuf {
    Path::new(CRATE).join("patches")
}

/// The patches that break the series.
pub(crate) fn mutations() -> PathBuf {
    Path::new(CRATE).join("mutations")
}

/// A fragment of the kernel's configuration.
pub(crate) fn fragment(name: &str) -> PathBuf {
    Path::new(CRATE).join("config").join(name)
}

/// The directory of all that this workspace's tools make.
///
/// # Errors
///
/// When there is no current directory to begin from.
pub fn target_dir() -> Result<PathBuf> {
    let target = match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(CRATE).with_file_name("target"),
    };
    std::path::absolute(&target).map_err(Error::io("find", &target))
}

/// The directory of all that is unpacked or built.
pub(crate) fn root() -> Result<PathBuf> {
    made(target_dir()?.join("kernel"))
}

/// The directory of what the checks of the series need, with its own lock.
pub(crate) fn check() -> Result<PathBuf> {
    made(root()?.join("check"))
}

/// The directory of what the tools said.
pub(crate) fn logs() -> Result<PathBuf> {
    made(root()?.join("logs"))
}

/// How the names of scratch directories begin.
const SCRATCH: &str = "scratch-";

/// A new directory that goes away with its value.
pub(crate) fn scratch() -> Result<TempDir> {
    scratch_in(&root()?)
}

/// The same in a directory with a lock of its own.
pub(crate) fn scratch_in(dir: &Path) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(SCRATCH)
        .tempdir_in(dir)
        .map_err(Error::io("make a directory in", dir))
}

/// Removes the scratch directories of those that were killed. For who holds
/// the directory's exclusive lock: nobody else has one then.
pub(crate) fn sweep(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            files::remove(&entry.path())?;
        }
    }
    Ok(())
}

pub(crate) fn made(dir: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&dir).map_err(Error::io("make", &dir))?;
    Ok(dir)
}
