//! The suite of `kvm-api`: what each call does, written once, run on each
//! backend.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kernel_patch::Machine;
use serde::Deserialize;

use crate::host::Host;
use crate::property::{Kernels, Outcome, Property, Say, Test};

pub const PROPERTY: Property = Property {
    name: "calls",
    about: "each call does what it says, by either interface",
    backends: "ioctl, syscall",
    kernels: Kernels::Both,
    test: Test::Outside(test),
};

/// What the machine has, of what the suite can make use of.
const EXPECT: &str = "ioctl,syscall,longmode,processor";

fn test(host: &Host<'_>, say: &Say<'_>) -> Result<Outcome> {
    let suite = executable()?;
    let machine: Machine = host.machine().env("KVM_API_EXPECT", EXPECT);
    let (_, said) = host.run(&machine, &suite, &["--test-threads=1".into()], say)?;
    let cases = said
        .lines()
        .filter(|line| line.starts_with("test ") && line.ends_with("... ok"))
        .count();
    Ok(Outcome {
        cases: cases as u64,
        ..Outcome::default()
    })
}

/// A line of what cargo says of what it makes.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    executable: Option<PathBuf>,
}

/// Has cargo build the suite, and say where it is.
fn executable() -> Result<PathBuf> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "test",
            "--quiet",
            "--no-run",
            "--locked",
            "--message-format=json",
        ])
        .args(["--test", "conformance", "--manifest-path", manifest])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo did not build the suite");
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut executables = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok()?.executable);
    executables.next_back().context("cargo names no executable")
}
