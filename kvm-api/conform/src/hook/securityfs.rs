//! The file system by which security modules are configured.

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

/// Where the kernel expects the file system.
pub const SECURITYFS: &str = "/sys/kernel/security";

/// Mounts it.
pub fn mount_securityfs() -> Result<()> {
    let (name, none) = (Some("securityfs"), MsFlags::empty());
    mount(name, SECURITYFS, name, none, None::<&str>).context("mount securityfs")
}
