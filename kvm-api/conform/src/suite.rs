//! The conformance suite of `kvm-api`, which tests each call on each backend.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, ensure};
use kernel_patch::{Accel, Machine};

use crate::outcome::{OnProgress, Outcome};
use crate::property::{Kernels, Property, Test};
use crate::test_kernel::TestKernel;

pub const PROPERTY: Property = Property {
    name: "suite",
    about: "each call behaves as documented, on each backend",
    backends: "all",
    kernels: Kernels::Both,
    test: Test::Outside(|kernel, on_progress| {
        let machine = expecting(kernel.machine(), &EXPECT);
        test(PROPERTY.name, machine, kernel, on_progress)
    }),
};

/// The same property on a processor without nested paging, where KVM shadows the page
/// tables of the guest.
pub const ON_SHADOW_PAGING: Property = Property {
    name: "shadow",
    about: "the same holds with shadow paging",
    backends: "all",
    kernels: Kernels::Usual,
    test: Test::Outside(|kernel, on_progress| {
        let cpu = format!("{},-npt", Accel::default().cpu());
        let machine = expecting(kernel.machine().cpu(cpu), &EXPECT[..4]);
        test(ON_SHADOW_PAGING.name, machine, kernel, on_progress)
    }),
};

/// The features that the suite must find in the machine. The last takes nested paging.
const EXPECT: [&str; 5] = ["ioctl", "syscall", "longmode", "processor", "private"];

fn expecting(machine: Machine, features: &[&str]) -> Machine {
    machine.env("KVM_API_EXPECT", features.join(","))
}

fn test(
    name: &str,
    machine: Machine,
    kernel: &TestKernel<'_>,
    on_progress: &OnProgress<'_>,
) -> Result<Outcome> {
    on_progress("building the suite");
    let suite = executable()?;
    let mut args = vec!["--test-threads=1".into()];
    args.extend(kernel.options.case.clone());
    let captured = kernel.run(name, machine, &suite, &args, on_progress)?;
    let outcome = outcome(&captured.stdout);
    ensure!(
        captured.exit.success() || !outcome.failures.is_empty(),
        "exit status {}; {}",
        captured.exit.code(),
        captured.failure
    );
    Ok(outcome)
}

/// The outcome, from the output of the suite. Ignored trials do not count.
fn outcome(output: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in output.lines() {
        let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|trial| trial.rsplit_once(" ... "))
        else {
            continue;
        };
        match (name.trim(), result) {
            (_, "ok") => outcome.case(name, Ok(())),
            (name, "FAILED") => outcome.case(name, Err(anyhow!("{}", message(output, name)))),
            _ => {}
        }
    }
    outcome
}

/// The message of a trial that has failed, which stands below all trials.
fn message<'a>(output: &'a str, name: &str) -> &'a str {
    let block = output.split_once(&format!("---- {name} ----\n"));
    let message = block.and_then(|(_, rest)| rest.split("\n\n").next());
    message.unwrap_or("no message").trim()
}

/// Builds the suite, and returns its path.
fn executable() -> Result<PathBuf> {
    let manifest = kernel_patch::workspace_dir()?.join("kvm-api/Cargo.toml");
    let output = kernel_patch::cargo()
        .args(["test", "--quiet", "--no-run", "--locked"])
        .arg("--message-format=json")
        .args(["--test", "conformance", "--manifest-path"])
        .arg(manifest)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo did not build the suite");
    kernel_patch::built_executable(&String::from_utf8_lossy(&output.stdout))
        .context("cargo has named no executable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_trial_has_its_message() {
        let output = "test a::b   ... ok\ntest    a::c ... FAILED\ntest a::d   ... ignored\n\n\
            failures:\n\n---- a::c ----\ntest panicked: no\nand no\n\n\nfailures:\n    a::c\n";
        let outcome = outcome(output);
        assert_eq!(outcome.cases, 2);
        let failures: Vec<_> = outcome.failures.iter().map(|it| &it.what).collect();
        assert_eq!(failures, ["a::c: test panicked: no\nand no"]);
    }
}
