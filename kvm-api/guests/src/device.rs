//! The device node `/dev/kvm`.

use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use anyhow::{Context, Result};

/// The path of the node.
pub const NODE: &str = "/dev/kvm";

/// The group and mode of the node, which a test may change. They are restored
/// on drop.
pub struct DeviceNode(Metadata);

impl DeviceNode {
    /// Remembers the group and mode of the node.
    ///
    /// # Errors
    ///
    /// If the node cannot be read.
    pub fn remember() -> Result<Self> {
        Ok(Self(fs::metadata(NODE).context(NODE)?))
    }

    /// Changes the group and mode of the node.
    ///
    /// # Errors
    ///
    /// If the caller may not change them.
    pub fn set(&self, group: u32, mode: u32) -> Result<()> {
        chown(NODE, None, Some(group)).context(NODE)?;
        fs::set_permissions(NODE, Permissions::from_mode(mode)).context(NODE)
    }

    /// Tests with another group and mode.
    ///
    /// # Errors
    ///
    /// If the node cannot be changed, or the test fails.
    pub fn with<T>(group: u32, mode: u32, test: impl FnOnce() -> Result<T>) -> Result<T> {
        let node = Self::remember()?;
        node.set(group, mode)?;
        test()
    }
}

impl Drop for DeviceNode {
    fn drop(&mut self) {
        self.set(self.0.gid(), self.0.mode())
            .expect("a process that changed the node may restore it");
    }
}
