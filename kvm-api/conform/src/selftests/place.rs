//! What the tests find in the machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernel_patch::{Machine, cdylib, libraries, selftests};
use nix::mount::{MsFlags, mount, umount};

use crate::host::Host;

/// Where the tests are, and what they need to be started.
pub const TESTS: &str = "/selftests";
pub const LIBRARIES: &str = "/lib";
pub const PRELOADED: &str = "/lib/libkvm_preload.so";

/// The machine, with the tests in it. Its time is that of its instructions, so
/// that what a test waits for takes the same time however busy the host is.
///
/// The test that looks for idle pages asks for them by 64, and does not expect
/// the last ones of the memory to be fewer.
pub fn machine(host: &Host<'_>) -> Result<Machine> {
    let preload = kernel_patch::workspace_dir()?.join("kvm-api/preload");
    let library = cdylib(&preload, &["interpose"])?.join("libkvm_preload.so");
    let tests = selftests(host.kernel())?;
    let mut files = BTreeMap::new();
    for test in &tests {
        files.extend(libraries(&test.path, &library)?);
        files.insert(Path::new(TESTS).join(&test.name), test.path.clone());
    }
    let machine = host.machine().memory("2G").cmdline("mem=2047M");
    Ok(files.into_iter().fold(machine, |machine, (inside, here)| {
        machine.file(here, inside)
    }))
}

/// The tests that are in the machine, by name.
pub fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut pending = vec![PathBuf::from(TESTS)];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else {
                let path = entry.path();
                let name = path.strip_prefix(TESTS)?.to_string_lossy();
                names.push(name.into_owned());
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What tests expect of any system: shared memory in its usual place.
pub struct SharedMemory(());

impl SharedMemory {
    const AT: &str = "/dev/shm";

    pub fn mount() -> Result<Self> {
        fs::create_dir_all(Self::AT).context(Self::AT)?;
        mount(
            Some("tmpfs"),
            Self::AT,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .context(Self::AT)?;
        Ok(Self(()))
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // The machine goes with it in any case.
        let _ = umount(Self::AT);
    }
}

/// Files of the kernel's that have another value for a while.
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
                eprintln!("{file} cannot be set back: {error}");
            }
        }
    }
}

/// Waits until the kernel keeps its time by the TSC. It takes a second look at
/// the TSC first, and the tests of guests' clocks will not be made before.
pub fn settle() -> Result<()> {
    const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    const LONG: Duration = Duration::from_secs(10);
    let started = Instant::now();
    loop {
        let clock = fs::read_to_string(CLOCK).context(CLOCK)?;
        if clock.trim() == "tsc" {
            return Ok(());
        }
        let waited = started.elapsed();
        ensure!(waited < LONG, "the kernel keeps its time by {clock}");
        sleep(Duration::from_millis(100));
    }
}
