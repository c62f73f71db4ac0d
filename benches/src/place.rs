//! The machine and the kernel of a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

/// The machine, its kernel, and the build of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -v`.
    pub version: String,
    /// The name of the processor.
    pub cpu: String,
    /// `module` or `built in`.
    pub kvm: String,
    /// The name of KVM's module for the processor's vendor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor_module: Option<String>,
    /// The kernel's mitigation of each CPU vulnerability, in the kernel's words.
    pub mitigations: BTreeMap<String, String>,
    /// The build, if the kernel was built for this run.
    pub build: Option<Build>,
}

/// A kernel that was built and booted for the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// The id of the patch series.
    pub series: String,
    /// The id of the configuration.
    pub config: String,
    /// The emulator or hypervisor of the machine.
    pub accelerator: String,
    /// `on` or `off`, or `as on` a host, by the kernel's command line.
    pub mitigations: String,
    /// The host whose mitigations were forced, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

impl Place {
    /// The release of Linux, without what a distribution appends.
    #[must_use]
    pub fn release(&self) -> &str {
        self.kernel.split('-').next().unwrap_or_default()
    }
}

/// Describes this machine.
///
/// # Errors
///
/// If a file of /proc cannot be read.
pub fn here() -> Result<Place> {
    let uts = uname().context("uname")?;
    let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
    let module = Path::new("/sys/module/kvm/initstate").exists();
    Ok(Place {
        kernel: text(uts.release()),
        version: text(uts.version()),
        cpu: cpu()?,
        kvm: if module { "module" } else { "built in" }.into(),
        vendor_module: vendor_module(),
        mitigations: mitigations().unwrap_or_default(),
        build: None,
    })
}

fn cpu() -> Result<String> {
    let info = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let model = cpuinfo(&info, "model name").context("/proc/cpuinfo names no model")?;
    Ok(model.into())
}

/// A value in /proc/cpuinfo, of the first processor.
pub(crate) fn cpuinfo<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn vendor_module() -> Option<String> {
    let modules = fs::read_dir("/sys/module").ok()?;
    let names = modules.filter_map(|it| it.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with("kvm_")).min()
}

fn mitigations() -> Option<BTreeMap<String, String>> {
    let dir = fs::read_dir("/sys/devices/system/cpu/vulnerabilities").ok()?;
    let entries = dir.filter_map(|entry| {
        let entry = entry.ok()?;
        let state = fs::read_to_string(entry.path()).ok()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        Some((name, state.trim().to_owned()))
    });
    Some(entries.collect())
}
