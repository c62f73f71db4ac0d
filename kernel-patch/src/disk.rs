//! Room on the disk.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::{Error, Result};

/// What a source tree and the builds in it take, with room to spare.
const NEEDED: u64 = 5 << 30;

/// The same in words.
pub(crate) const NEED: &str = "a kernel source and its builds need about 5 GB below target/kernel";

/// Fails when there is too little room below `path` to begin with.
pub(crate) fn check(path: &Path) -> Result<()> {
    let room = statvfs(path).map_err(|errno| Error::io("look at", path)(errno.into()))?;
    if room.blocks_available() * room.fragment_size() < NEEDED {
        return Err(Error::DiskFull { path: path.into() });
    }
    Ok(())
}
