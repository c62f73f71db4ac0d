//! Checks that a test leaves no open files, VMs or leaked memory behind.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cli::Options;
use crate::wait;

/// Where KVM has a directory for each virtual machine.
const VMS: &str = "/sys/kernel/debug/kvm";
const FILES: &str = "/proc/self/fd";
const LEAKS: &str = "/sys/kernel/debug/kmemleak";

/// How long VMs may take to go away, and the interval between two looks.
const LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// The state before a test.
pub struct Audit {
    files: usize,
    leaks: bool,
}

impl Audit {
    pub fn begin(options: &Options) -> Result<Self> {
        if options.debug {
            // Forget the leaks of the boot.
            fs::write(LEAKS, "scan").context(LEAKS)?;
            fs::write(LEAKS, "clear").context(LEAKS)?;
        }
        Ok(Self {
            files: open_files()?.len(),
            leaks: options.debug,
        })
    }

    /// Describes what the test has left behind.
    pub fn end(self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let (files, before) = (open_files()?.len(), self.files);
        if files != before {
            left.push(format!("{files} files are open; before, {before} were"));
        }
        // The last reference to a VM is put after a grace period.
        if !wait::until(LIMIT, PAUSE, || Ok(machines()?.is_empty()))? {
            let vms = machines()?.join(", ");
            left.push(format!("KVM still has the machines {vms}"));
        }
        if self.leaks {
            left.extend(leaks()?);
        }
        Ok(left)
    }
}

/// The open files of this process, by their numbers.
pub fn open_files() -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(FILES).context(FILES)? {
        files.push(entry?.file_name().to_string_lossy().into_owned());
    }
    files.sort_unstable();
    Ok(files)
}

/// The virtual machines that KVM knows.
pub fn machines() -> Result<Vec<String>> {
    let mut names = Vec::new();
    // Without KVM, there is no directory.
    if Path::new(VMS).exists() {
        for entry in fs::read_dir(VMS).context(VMS)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    Ok(names)
}

/// The memory that nothing points to, as kmemleak reports it.
fn leaks() -> Result<Option<String>> {
    // One scan may take memory in use for leaked; a second one hardly does.
    for _ in 0..2 {
        sleep(Duration::from_secs(1));
        fs::write(LEAKS, "scan").context(LEAKS)?;
    }
    let report = fs::read_to_string(LEAKS).context(LEAKS)?;
    Ok((!report.is_empty()).then(|| format!("memory leaks:\n{report}")))
}
