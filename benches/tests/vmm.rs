//! `cargo vmm` on the command line, and in the machine.

mod refusal;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use benches::vmm::record::{Record, WorkRecord};
use benches::vmm::way::Way;
use tempfile::TempDir;

use crate::refusal::refused;

fn vmm(args: &[&str]) -> Command {
    let mut command = Command::new(kernel_patch::beside("vmm").unwrap());
    command.args(args);
    command
}

/// The kept record.
fn kept() -> PathBuf {
    kernel_patch::workspace_dir().unwrap().join("docs/vmm.json")
}

#[test]
fn wrong_options_are_refused_before_the_work() {
    let output = vmm(&["--filter", "nothing"]).output().unwrap();
    refused(&output, "no work has \"nothing\" in its name");
    let output = vmm(&["--json", "/nonexistent/x.json"]).output().unwrap();
    refused(&output, "cannot write /nonexistent/x.json");
}

#[test]
fn other_json_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("record.json");
    let whole = fs::read_to_string(kept()).unwrap();
    let later = whole.replacen("\"schema\": 1", "\"schema\": 2", 1);
    for (text, message) in [
        (&whole[..whole.len() / 2], "is not the JSON of cargo vmm"),
        ("{}", "is not the JSON of cargo vmm"),
        (&later, "follows schema 2; this reads 1"),
    ] {
        fs::write(&path, text).unwrap();
        let output = vmm(&["--from"]).arg(&path).output().unwrap();
        refused(&output, message);
    }
}

#[test]
fn a_saved_record_is_shown() {
    let dir = TempDir::new().unwrap();
    let report = dir.path().join("report.html");
    let mut command = vmm(&["--from"]);
    let output = command.arg(kept()).arg("--report").arg(&report).output();
    let output = output.unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let html = fs::read_to_string(&report).unwrap();
    for work in Record::read(&kept()).unwrap().works {
        for figure in work.figures.values() {
            let value = figure.value().to_string();
            assert!(text.contains(&value) && html.contains(&value), "{value}");
        }
    }
}

/// Measures one work in the machine.
fn measured(name: &str, runs: u32) -> WorkRecord {
    let dir = TempDir::new().unwrap();
    let json = dir.path().join("record.json");
    let mut command = vmm(&["--filter", name, "--runs", &runs.to_string(), "--json"]);
    let output = command.arg(&json).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let mut works = Record::read(&json).unwrap().works;
    assert_eq!(works.len(), 1);
    works.remove(0)
}

/// QEMU boots Linux.
#[test]
fn qemu_is_handed_over() {
    let work = measured("qemu_user_irqchip", 1);
    for way in Way::ALL {
        let figure = &work.figures[&way];
        assert!(figure.exits() > 20_000, "{figure:?}");
        let share = figure.handed_over();
        assert_eq!(share > 0.95, way != Way::Ioctl, "{share}");
    }
    assert!(work.share(Way::Calls).unwrap() < 1.0);
    assert!(work.share(Way::Bound).unwrap() < 0.99);
}

/// A guest exits in loops.
#[test]
fn an_exit_costs_less_by_the_calls() {
    let work = measured("exits", 2);
    let figure = |way| &work.figures[&way];
    let [ioctl, calls, bound] = Way::ALL.map(figure);
    assert!(ioctl.exits() > 8000, "{ioctl:?}");
    for (figure, least) in [(ioctl, 0.0), (calls, 0.99), (bound, 0.99)] {
        assert_eq!((figure.exits(), figure.all()), (ioctl.exits(), ioctl.all()));
        assert_eq!(figure.runs.len(), 2);
        let share = figure.handed_over();
        assert!(share >= least && (least > 0.0 || share == 0.0), "{share}");
    }
    // The guest sees what an exit costs.
    let share = |name, way| {
        let of = |way| work.of_loop(name, way).unwrap();
        of(way) / of(Way::Ioctl)
    };
    for name in ["in_from_vmm", "out_to_vmm"] {
        assert!(share(name, Way::Calls) <= 1.0 && share(name, Way::Bound) <= 0.8);
    }
    let interface = work.interface().unwrap();
    assert!((0.05..0.5).contains(&interface), "{interface}");
}
