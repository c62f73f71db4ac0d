//! Free space on the disk.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::error::{HostError, IoContext, Result};

/// The free space that a command needs at its start.
const NEEDED: u64 = 5 << 30;

/// Fails unless the file system of `path` has the free space.
pub(crate) fn check(path: &Path) -> Result<()> {
    let room = statvfs(path).cannot("look at", path)?;
    if room.blocks_available() * room.fragment_size() < NEEDED {
        return Err(HostError::DiskFull { path: path.into() });
    }
    Ok(())
}
