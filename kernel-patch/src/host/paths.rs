//! The directories of this project.

use std::path::{Path, PathBuf};
use std::{env, fs};

use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use super::error::{HostError, IoContext, Result};
use super::files;

/// The directory by which a checkout is recognized.
const MARK: &str = "kernel-patch/mutations";

/// The prefix of the names of scratch directories.
const SCRATCH: &str = "scratch-";

/// The free space that a command needs at its start.
const NEEDED: u64 = 5 << 30;

/// Returns the top directory of the checkout that this program belongs to.
///
/// The directory is found at run time, because a compiled-in path would go on naming
/// the old directory after the checkout was moved or copied. Cargo names the package
/// of the programs that it runs. A program that a user starts lies in its checkout, or
/// the user starts it there.
///
/// # Errors
///
/// None of these places is in a checkout.
pub fn workspace_dir() -> Result<PathBuf> {
    let places = [
        env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from),
        env::current_exe().ok(),
        env::current_dir().ok(),
    ];
    let checkout = places.iter().flatten().find_map(|place| {
        let mut directories = place.ancestors();
        directories.find(|directory| directory.join(MARK).is_dir())
    });
    checkout.map(Path::to_path_buf).ok_or(HostError::NoCheckout)
}

/// Returns the directory of everything that this workspace's tools make.
///
/// # Errors
///
/// The checkout is not found, or there is no current directory.
pub fn target_dir() -> Result<PathBuf> {
    let target = match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => workspace_dir()?.join("target"),
    };
    std::path::absolute(&target).cannot("find", &target)
}

/// The directory of everything that this crate unpacks or builds.
pub(crate) fn work_dir() -> Result<PathBuf> {
    create(target_dir()?.join("kernel"))
}

/// Fails unless the disk of [`work_dir`] has enough free space.
pub(crate) fn check_space() -> Result<()> {
    let dir = work_dir()?;
    let room = statvfs(&dir).cannot("look at", &dir)?;
    if room.blocks_available() * room.fragment_size() < NEEDED {
        return Err(HostError::DiskFull(dir));
    }
    Ok(())
}

/// The directory of the logs.
pub(crate) fn logs() -> Result<PathBuf> {
    create(work_dir()?.join("logs"))
}

/// Returns the path of a log without old content.
pub(crate) fn new_log(name: &str) -> Result<PathBuf> {
    let log = logs()?.join(name);
    let _ = fs::remove_file(&log);
    Ok(log)
}

/// Makes a temporary directory.
pub(crate) fn scratch() -> Result<TempDir> {
    scratch_in(&work_dir()?)
}

/// Makes a temporary directory in `dir`, a directory with a lock of its own.
pub(crate) fn scratch_in(dir: &Path) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(SCRATCH)
        .tempdir_in(dir)
        .cannot("make a directory in", dir)
}

/// Removes the temporary directories of processes that were killed. The caller holds
/// the exclusive lock on `dir`, so no other process uses one.
pub(crate) fn sweep(dir: &Path) -> Result<()> {
    for path in files::list(dir)? {
        let name = path.file_name().unwrap_or_default();
        if name.to_string_lossy().starts_with(SCRATCH) {
            files::remove(&path)?;
        }
    }
    Ok(())
}

/// Makes `dir` and the directories above it, as far as they are missing.
pub(crate) fn create(dir: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&dir).cannot("make", &dir)?;
    Ok(dir)
}
