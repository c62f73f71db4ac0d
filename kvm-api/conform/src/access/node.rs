//! The node by which `/dev/kvm` is opened: its group and its mode, as long as a
//! test wants them.

use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use anyhow::{Context, Result};

pub const NODE: &str = "/dev/kvm";

/// Gives the node back to whom it belongs.
struct Restore(Metadata);

impl Drop for Restore {
    fn drop(&mut self) {
        give(self.0.gid(), self.0.mode()).expect("root may change the node");
    }
}

/// Tests with the node in `group`, with these permissions.
pub fn with<T>(group: u32, mode: u32, test: impl FnOnce() -> Result<T>) -> Result<T> {
    let _restore = Restore(fs::metadata(NODE)?);
    give(group, mode)?;
    test()
}

fn give(group: u32, mode: u32) -> Result<()> {
    chown(NODE, Some(0), Some(group)).context(NODE)?;
    fs::set_permissions(NODE, Permissions::from_mode(mode)).context(NODE)
}
