//! The suite of `kvm-api`: what each call does, written once, run on each
//! backend.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use kernel_patch::Machine;
use serde::Deserialize;

use crate::host::Host;
use crate::outcome::{Outcome, Say};
use crate::property::{Kernels, Property, Test};

pub const PROPERTY: Property = Property {
    name: "calls",
    about: "each call does what it says, by each interface",
    backends: "all",
    kernels: Kernels::Both,
    test: Test::Outside(test),
};

/// What the machine has, of what the suite can make use of.
const EXPECT: &str = "ioctl,syscall,longmode,processor";

fn test(host: &Host<'_>, say: &Say<'_>) -> Result<Outcome> {
    say("building the suite");
    let suite = executable()?;
    let machine: Machine = host.machine().env("KVM_API_EXPECT", EXPECT);
    let ran = host.run(
        PROPERTY.name,
        &machine,
        &suite,
        &["--test-threads=1".into()],
        say,
    )?;
    let outcome = outcome(&ran.stdout);
    ensure!(
        ran.succeeded || !outcome.failures.is_empty(),
        "{}",
        ran.ended
    );
    Ok(outcome)
}

/// What the suite says of its trials. Those that the machine cannot try do not
/// count.
fn outcome(said: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in said.lines() {
        let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|trial| trial.rsplit_once(" ... "))
        else {
            continue;
        };
        match (name.trim(), result) {
            (_, "ok") => outcome.case(name, Ok(())),
            (name, "FAILED") => outcome.case(name, Err(anyhow!("{}", message(said, name)))),
            _ => {}
        }
    }
    outcome
}

/// What the suite says of a trial that has failed, below all trials.
fn message<'a>(said: &'a str, name: &str) -> &'a str {
    let block = said.split_once(&format!("---- {name} ----\n"));
    let message = block.and_then(|(_, rest)| rest.split("\n\n").next());
    message.unwrap_or("it does not say why").trim()
}

/// A line of what cargo says of what it makes.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    executable: Option<PathBuf>,
}

/// Has cargo build the suite, and say where it is.
fn executable() -> Result<PathBuf> {
    let manifest = kernel_patch::workspace_dir()?.join("kvm-api/Cargo.toml");
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "test",
            "--quiet",
            "--no-run",
            "--locked",
            "--message-format=json",
        ])
        .args(["--test", "conformance", "--manifest-path"])
        .arg(manifest)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_that_fails_says_why() {
        let said = "test a::b   ... ok\ntest    a::c ... FAILED\ntest a::d   ... ignored\n\n\
            failures:\n\n---- a::c ----\ntest panicked: no\nand no\n\n\nfailures:\n    a::c\n";
        let outcome = outcome(said);
        assert_eq!(outcome.cases, 2);
        let failures: Vec<_> = outcome.failures.iter().map(|it| &it.what).collect();
        assert_eq!(failures, ["a::c: test panicked: no\nand no"]);
    }
}
