//! `cargo compare` on the command line.

mod refusal;

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use benches::record::{CaseRow, Record};
use tempfile::TempDir;

use crate::refusal::{refused, refused_with};

fn compare(args: &[&str]) -> Command {
    let mut command = Command::new(kernel_patch::beside("compare").unwrap());
    command.args(args);
    command
}

#[test]
fn a_filter_without_a_case_is_refused() {
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

/// The kept comparison.
fn kept() -> String {
    let kept = kernel_patch::workspace_dir()
        .unwrap()
        .join("docs/results.json");
    kept.to_str().unwrap().to_owned()
}

#[test]
fn other_json_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("record.json");
    let path_of_kept = kept();
    let kept = fs::read_to_string(&path_of_kept).unwrap();
    let half = &kept[..kept.len() / 2];
    for (text, message) in [
        (half, "is not the whole JSON of a comparison"),
        ("", "is not the whole JSON of a comparison"),
        (
            "{\"schema\": 1, \"rows\": []}",
            "follows schema 1; this reads 2",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let output = compare(&["--from"]).arg(&path).output().unwrap();
        refused(&output, message);
        // git bisect skips the commit.
        let output = compare(&["--from", &path_of_kept, "--diff"])
            .arg(&path)
            .output()
            .unwrap();
        refused_with(125, &output, message);
    }
}

#[test]
fn a_comparison_without_profiles_has_charts() {
    let dir = TempDir::new().unwrap();
    let [json, report] = ["record.json", "report.html"].map(|name| dir.path().join(name));
    let mut record = Record::read(Path::new(&kept())).unwrap();
    record.runs.truncate(1);
    record.hosts.clear();
    for row in &mut record.runs[0].rows {
        for figure in row.figures.values_mut() {
            figure.profile = None;
        }
    }
    fs::write(&json, serde_json::to_vec(&record).unwrap()).unwrap();
    let mut command = compare(&["--from"]);
    let output = command.arg(&json).arg("--report").arg(&report).output();
    assert!(output.unwrap().status.success());
    let html = fs::read_to_string(&report).unwrap();
    assert_eq!(html.matches("<svg xmlns").count(), 3);
}

#[test]
fn a_saved_comparison_is_shown() {
    let dir = TempDir::new().unwrap();
    let report = dir.path().join("report.html");
    let output = compare(&["--from", &kept(), "--report"])
        .arg(&report)
        .output()
        .unwrap();
    assert!(output.status.success());
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("| kvm_get_regs "), "{shown}");
    let html = fs::read_to_string(&report).unwrap();
    assert!(html.contains("kvm_get_regs") && html.ends_with("</html>"));
    assert!(html.contains("Modelled shares of ioctl. kvm_run_pio_out: syscall "));
    // The first screen has the chart and the answer, whether or not there are profiles.
    let (first, _) = html.split_once("<h2>Summary</h2>").unwrap();
    assert_eq!(first.matches("<svg").count(), 1);
    assert!(first.contains("aria-label=\"Shares of ioctl. kvm_run_pio_out: syscall "));
    assert_eq!(first.matches("<p>").count(), 5);
}

#[test]
fn the_exit_status_tells_of_a_regression() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("slower.json");
    let kept = kept();
    let mut record = Record::read(Path::new(&kept)).unwrap();
    let row = record.runs[0]
        .rows
        .iter_mut()
        .find(|row| row.name == "kvm_get_regs");
    let figure = row.unwrap().figures.get_mut("syscall").unwrap();
    let mode = &mut figure.exact.as_mut().unwrap().mode;
    *mode += *mode / 20;
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    let slower = path.to_str().unwrap();
    let diff = |new: &str, old: &str, more: &[&str]| {
        let output = compare(&["--from", new, "--diff", old])
            .args(more)
            .output()
            .unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), shown)
    };

    let (code, shown) = diff(slower, &kept, &["--threshold", "1"]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("1 figures changed"), "{shown}");
    assert!(shown.contains("| kvm_get_regs | syscall"), "{shown}");
    assert_eq!(diff(slower, &kept, &["--threshold", "6"]).0, Some(0));
    assert_eq!(diff(slower, &kept, &[]).0, Some(0));
    assert_eq!(diff(&kept, slower, &["--threshold", "1"]).0, Some(0));
}

/// A test that runs a comparison holds this lock, because only one may run at a time.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn an_emulator_without_plugins_is_refused() {
    let _turn = TURN.lock().unwrap();
    let dir = TempDir::new().unwrap();
    let [script, qemu] = ["script", "qemu-system-x86_64"].map(|name| dir.path().join(name));
    fs::write(&script, "#!/bin/sh\necho QEMU emulator version 0\n").unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    // A file that this process writes cannot be executed while the child of another test
    // has inherited the descriptor. So another process writes it.
    let mut cp = Command::new("cp");
    cp.arg("--preserve=mode").arg(&script).arg(&qemu);
    assert!(cp.status().unwrap().success());
    let path = format!("{}:{}", dir.path().display(), env::var("PATH").unwrap());
    let output = compare(&["--profile", "--no-criterion"])
        .env("PATH", path)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let message = "QEMU emulator version 0 was built without plugins";
    assert!(stderr.contains(message), "{stderr}");
}

/// The rows of the first run, measured in the patched machine.
fn measured(options: &[&str], json: &Path) -> Vec<CaseRow> {
    let mut command = compare(&["--no-criterion", "--json"]);
    let output = command.arg(json).args(options).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let mut record: Record = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    for row in &record.runs[0].rows {
        assert!(shown.contains(&row.name), "{shown}");
    }
    record.runs.swap_remove(0).rows
}

#[test]
fn runs_in_the_machine_repeat_to_the_digit() {
    let _turn = TURN.lock().unwrap();
    let dir = TempDir::new().unwrap();
    let json = dir.path().join("record.json");
    let options = ["--filter", "kvm_get_regs"];
    let first = measured(&options, &json);
    let [floor, regs] = &first[..] else {
        panic!("{first:?}");
    };
    assert_eq!(floor.name, "null_syscall");
    assert_eq!(regs.name, "kvm_get_regs");
    let least = floor.figures["ioctl"].value().unwrap();
    for interface in ["ioctl", "syscall", "kvm-ioctls"] {
        assert!(regs.figures[interface].value().unwrap() > least);
    }

    assert_eq!(values(&first), values(&measured(&options, &json)));
}

fn values(rows: &[CaseRow]) -> Vec<Option<f64>> {
    let figures = rows.iter().flat_map(|row| row.figures.values());
    figures.map(|figure| figure.value()).collect()
}

/// A machine of its own measures it.
#[test]
fn a_row_on_two_processors_joins_the_others_and_repeats() {
    let _turn = TURN.lock().unwrap();
    let dir = TempDir::new().unwrap();
    let json = dir.path().join("record.json");
    let options = ["--filter", "vcpu_changes_threads", "--accel", "tcg"];
    let first = measured(&options, &json);
    let [floor, change] = &first[..] else {
        panic!("{first:?}");
    };
    assert_eq!(floor.name, "null_syscall");
    assert_eq!(floor.processors, None);
    assert_eq!(change.name, "vcpu_changes_threads");
    assert_eq!(change.processors, Some(2));
    let interfaces: Vec<_> = change.figures.keys().collect();
    assert_eq!(interfaces, ["bound", "ioctl", "syscall"]);
    assert_eq!(values(&first), values(&measured(&options, &json)));
}
