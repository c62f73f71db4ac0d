//! The machine of the tests, and its files.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use kernel_patch::{Machine, cdylib, libraries};
use nix::mount::{MsFlags, mount, umount};

use super::suites::SUITES;
use crate::test_kernel::TestKernel;

/// The paths of the libraries.
pub const LIBRARIES: &str = "/lib";
pub const PRELOADED: &str = "/lib/libkvm_preload.so";

/// The machine, with the tests in it. Its clock counts instructions, so that
/// the time limits do not depend on the load of the host.
///
/// The test of idle pages reads them by 64, and fails if the size of the memory
/// is not a multiple of that.
pub fn machine(kernel: &TestKernel<'_>) -> Result<Machine> {
    let preload = kernel_patch::workspace_dir()?.join("kvm-api/preload");
    let library = cdylib(&preload, &["interpose"])?.join("libkvm_preload.so");
    let mut files = BTreeMap::new();
    for suite in SUITES {
        for (inside, program) in (suite.build)(kernel)? {
            files.extend(libraries(&program, &library)?);
            files.insert(inside, program);
        }
    }
    let machine = kernel.machine().memory("2G").cmdline("mem=2047M");
    Ok(files.into_iter().fold(machine, |machine, (inside, here)| {
        machine.file(here, inside)
    }))
}

/// Shared memory in its usual place, which tests expect.
pub struct SharedMemory(());

impl SharedMemory {
    const AT: &str = "/dev/shm";

    pub fn mount() -> Result<Self> {
        fs::create_dir_all(Self::AT).context(Self::AT)?;
        let (tmpfs, none) = (Some("tmpfs"), None::<&str>);
        mount(tmpfs, Self::AT, tmpfs, MsFlags::empty(), none).context(Self::AT)?;
        Ok(Self(()))
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // An error does not matter, because the machine ends soon.
        let _ = umount(Self::AT);
    }
}

/// Files of the kernel that have another value until this is dropped.
pub struct Settings(Vec<(&'static str, String)>);

impl Settings {
    pub fn make(settings: &[(&'static str, &str)]) -> Result<Self> {
        let mut before = Self(Vec::new());
        for &(file, value) in settings {
            let old = fs::read_to_string(file).context(file)?;
            before.0.push((file, old));
            fs::write(file, value).context(file)?;
        }
        Ok(before)
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        for (file, value) in self.0.iter().rev() {
            if let Err(error) = fs::write(file, value) {
                eprintln!("cannot restore {file}: {error}");
            }
        }
    }
}
