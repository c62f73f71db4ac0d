//! `cargo compare` as a user meets it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use benches::record::{Record, Row};
use tempfile::TempDir;

fn compare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
    command.args(args);
    command
}

#[track_caller]
fn refused(output: &Output, message: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(message), "{stderr}");
}

#[test]
fn a_filter_that_fits_nothing_is_refused() {
    let output = compare(&["--filter", "nothing"]).output().unwrap();
    refused(&output, "no case has \"nothing\" in its name");
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_the_work() {
    let output = compare(&["--json", "/nonexistent/x.json"])
        .output()
        .unwrap();
    refused(&output, "cannot write /nonexistent/x.json");
}

#[test]
fn two_at_a_time_are_refused() {
    let target = TempDir::new().unwrap();
    let dir = target.path().join("compare");
    fs::create_dir(&dir).unwrap();
    let lock = File::create(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    let output = compare(&["--native"])
        .env("CARGO_TARGET_DIR", target.path())
        .output()
        .unwrap();
    refused(&output, "another comparison is at work");
}

/// One row in the patched machine, with its floor.
fn measured(json: &Path) -> Vec<Row> {
    let output = compare(&["--no-criterion", "--filter", "kvm_get_regs", "--json"])
        .arg(json)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let record: Record = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    for row in &record.rows {
        assert!(shown.contains(&row.name), "{shown}");
    }
    record.rows
}

#[test]
fn runs_in_the_machine_repeat_to_the_digit() {
    let dir = TempDir::new().unwrap();
    let json = dir.path().join("record.json");
    let first = measured(&json);
    let [floor, regs] = &first[..] else {
        panic!("{first:?}");
    };
    assert_eq!(floor.name, "null_syscall");
    assert_eq!(regs.name, "kvm_get_regs");
    let least = floor.figures["ioctl"].value().unwrap();
    for interface in ["ioctl", "syscall", "kvm-ioctls"] {
        assert!(regs.figures[interface].value().unwrap() > least);
    }

    let modes = |rows: &[Row]| -> Vec<_> {
        let figures = rows.iter().flat_map(|row| row.figures.values());
        figures.map(|figure| figure.value()).collect()
    };
    assert_eq!(modes(&first), modes(&measured(&json)));
}
