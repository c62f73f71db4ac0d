//! Loading and unloading KVM.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};

use crate::wait;

/// The modules, by the kernel's names, each after those that it needs.
pub const MODULES: [&str; 3] = ["irqbypass", KVM, VENDOR];
/// The part of KVM for all processors.
pub const KVM: &str = "kvm";
/// The part of KVM for the machine's processor.
pub const VENDOR: &str = "kvm_amd";

/// The time limit for an object to go away.
pub const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);

pub fn load(module: &str) -> Result<()> {
    let path = format!("/lib/modules/{}.ko", module.replace('_', "-"));
    let file = File::open(&path).context(path)?;
    finit_module(file, c"", ModuleInitFlags::empty()).with_context(|| format!("loading {module}"))
}

/// Loads the modules of KVM that are not loaded.
pub fn load_all() -> Result<()> {
    let absent = MODULES.iter().filter(|module| !is_loaded(module));
    absent.copied().try_for_each(load)
}

/// Tries to unload one module.
pub fn unload(module: &str) -> nix::Result<()> {
    let name = CString::new(module).expect("no name has a NUL");
    delete_module(&name, DeleteModuleFlags::O_NONBLOCK)
}

/// Unloads an unused module, after waiting for references that are about to be
/// released.
pub fn unload_soon(module: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        match unload(module) {
            Err(Errno::EAGAIN) if start.elapsed() < LIMIT => sleep(PAUSE),
            result => return result.with_context(|| format!("unloading {module}")),
        }
    }
}

/// Unloads all modules of KVM.
pub fn unload_all() -> Result<()> {
    let loaded = MODULES.iter().rev().filter(|module| is_loaded(module));
    loaded.copied().try_for_each(unload_soon)
}

pub fn references(module: &str) -> Result<i32> {
    let path = format!("/sys/module/{module}/refcnt");
    let count = fs::read_to_string(&path).context(path)?;
    Ok(count.trim().parse()?)
}

/// Waits until the reference count of a module is as before.
pub fn settle(module: &str, expected: i32) -> Result<()> {
    if !wait::until(LIMIT, PAUSE, || Ok(references(module)? == expected))? {
        let now = references(module)?;
        bail!("{module} has {now} references, before {expected}");
    }
    Ok(())
}

fn is_loaded(module: &str) -> bool {
    Path::new("/sys/module").join(module).exists()
}
