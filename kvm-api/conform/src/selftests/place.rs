//! The machine of the tests, and its files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kernel_patch::{Machine, cdylib, libraries, selftests};
use nix::mount::{MsFlags, mount, umount};

use crate::test_kernel::TestKernel;
use crate::walk;

/// The paths of the tests and their libraries.
pub const TESTS: &str = "/selftests";
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
    let tests = selftests(kernel.kernel())?;
    let mut files = BTreeMap::new();
    for test in &tests {
        files.extend(libraries(&test.path, &library)?);
        files.insert(Path::new(TESTS).join(&test.name), test.path.clone());
    }
    let machine = kernel.machine().memory("2G").cmdline("mem=2047M");
    Ok(files.into_iter().fold(machine, |machine, (inside, here)| {
        machine.file(here, inside)
    }))
}

/// The names of the tests in the machine.
pub fn names() -> Result<Vec<String>> {
    let name = |path: PathBuf| -> Result<String> {
        Ok(path.strip_prefix(TESTS)?.to_string_lossy().into_owned())
    };
    let files = walk::files(Path::new(TESTS))?;
    let mut names = files.into_iter().map(name).collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
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
