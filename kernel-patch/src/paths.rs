//! Where things lie.

use std::path::{Path, PathBuf};
use std::{env, fs};

use tempfile::TempDir;

use crate::{Error, Result, files};

/// Where the patch series lies in a checkout, by which a checkout is known.
const PATCHES: &str = "kernel-patch/patches";

/// The top directory of the checkout that this program works for.
///
/// It is found at run time: an executable that remembered where it was built
/// would go on using that directory after its checkout was moved or copied.
/// Cargo names the package of the programs that it runs; a program that was
/// started by hand lies in its checkout, or is started in it.
///
/// # Errors
///
/// [`Error::NoCheckout`] when none of these places is in a checkout.
pub fn workspace_dir() -> Result<PathBuf> {
    let places = [
        env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from),
        env::current_exe().ok(),
        env::current_dir().ok(),
    ];
    let checkout = places.iter().flatten().find_map(|place| {
        let mut directories = place.ancestors();
        directories.find(|directory| directory.join(PATCHES).is_dir())
    });
    checkout.map(Path::to_path_buf).ok_or(Error::NoCheckout)
}

/// The patch series.
pub(crate) fn patches() -> Result<PathBuf> {
    Ok(workspace_dir()?.join(PATCHES))
}

/// The patches that break the series.
pub(crate) fn mutations() -> Result<PathBuf> {
    Ok(workspace_dir()?.join("kernel-patch/mutations"))
}

/// The patch that delays threads on the kernel that checks itself.
pub(crate) fn delays() -> Result<PathBuf> {
    Ok(workspace_dir()?.join("kernel-patch/debug/delays.patch"))
}

/// The manual pages of the calls.
pub(crate) fn man() -> Result<PathBuf> {
    Ok(workspace_dir()?.join("docs/man"))
}

/// A fragment of the kernel's configuration.
pub(crate) fn fragment(name: &str) -> Result<PathBuf> {
    Ok(workspace_dir()?.join("kernel-patch/config").join(name))
}

/// The directory of everything that this workspace's tools make.
///
/// # Errors
///
/// When the checkout is not found, or there is no current directory.
pub fn target_dir() -> Result<PathBuf> {
    let target = match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => workspace_dir()?.join("target"),
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
