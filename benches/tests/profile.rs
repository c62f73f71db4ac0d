//! `cargo compare --profile`, from the machine to the browser.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};

use benches::cycles::{Costs, Model};
use benches::hosts;
use benches::parts::Part;
use benches::record::{Figure, Profile, Record, Run};
use headless_chrome::protocol::cdp::Network;
use headless_chrome::protocol::cdp::types::Event as PageEvent;
use headless_chrome::{Browser, LaunchOptions};
use nix::unistd::Uid;
use profile::Event;
use serde::Deserialize;
use tempfile::TempDir;

/// A run of two kinds of exit, for all tests.
static RUN: LazyLock<Comparison> = LazyLock::new(Comparison::new);

struct Comparison {
    dir: TempDir,
    shown: String,
}

impl Comparison {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let [json, report] = ["record.json", "report.html"].map(|name| dir.path().join(name));
        let shown = profile(&[], &json, &report);
        Self { dir, shown }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn record(&self) -> Record {
        Record::read(&self.path("record.json")).unwrap()
    }
}

/// Returns its output.
fn profile(args: &[&str], json: &Path, report: &Path) -> String {
    compare(
        Command::new(kernel_patch::beside("compare").unwrap())
            .args(["--profile", "--filter", "kvm_run_pio_out"])
            .args(args)
            .arg("--json")
            .arg(json)
            .arg("--report")
            .arg(report),
    )
}

fn compare(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_condition_and_every_interface_is_there() {
    let record = RUN.record();
    let conditions: Vec<_> = record.runs.iter().map(|run| run.condition()).collect();
    let expected = [
        "mitigations on, seccomp none",
        "mitigations on, seccomp allowlist",
        "mitigations off, seccomp none",
        "mitigations off, seccomp allowlist",
    ];
    assert_eq!(conditions, expected);
    for run in &record.runs {
        let names: Vec<_> = run.rows.iter().map(|row| &*row.name).collect();
        let expected = [
            "null_syscall",
            "kvm_run_pio_out",
            "kvm_run_pio_out_real_mode",
        ];
        assert_eq!(names, expected);
        for row in &run.rows[1..] {
            let interfaces: Vec<_> = row.figures.keys().collect();
            assert_eq!(
                interfaces,
                [
                    "bound",
                    "files",
                    "ioctl",
                    "kvm-ioctls",
                    "process",
                    "syscall"
                ]
            );
        }
        assert!(RUN.shown.contains(&run.condition()), "{}", RUN.shown);
    }
    // The usual run has criterion's estimates.
    let figures = record.runs[0]
        .rows
        .iter()
        .flat_map(|row| row.figures.values());
    assert!(figures.clone().all(|figure| figure.criterion.is_some()));
    assert!(figures.count() > 0);
}

#[test]
fn the_recorder_and_the_clock_agree() {
    for run in &RUN.record().runs {
        for row in &run.rows {
            for Figure { exact, profile, .. } in row.figures.values() {
                let counted = exact.as_ref().unwrap().mode;
                let profile = profile.as_ref().unwrap();
                let recorded = profile.instructions;
                let apart = recorded.abs_diff(counted) as f64 / counted as f64;
                assert!(apart <= 0.005, "{}: {recorded}, {counted}", row.name);
                assert_eq!(profile.stacks.values().sum::<u64>(), recorded);
                if row.name.starts_with("kvm_run") {
                    assert_eq!(profile.parts.values().sum::<u64>(), recorded);
                }
            }
        }
    }
}

/// The instructions of a function that this release calls by another name count for
/// another part.
#[test]
fn the_parts_know_their_functions() {
    let record = RUN.record();
    let row = record.runs[0].row("kvm_run_pio_out").unwrap();
    let stacks = &row.figures["ioctl"].profile.as_ref().unwrap().stacks;
    let found: BTreeSet<_> = stacks.keys().flat_map(|it| it.split(';')).collect();
    let functions = Part::ALL.into_iter().flat_map(Part::functions);
    let absent: Vec<_> = functions.filter(|it| !found.contains(**it)).collect();
    // Linux 6.12 has the first two, and does not make the third a part of its caller.
    let expected = [
        "kvm_load_guest_xsave_state",
        "kvm_load_host_xsave_state",
        "syscall_exit_to_user_mode",
    ];
    assert_eq!(absent, expected.iter().collect::<Vec<_>>());
}

#[test]
fn stacks_match_the_calls() {
    let record = RUN.record();
    let stacks = |run: usize, interface: &str| {
        let figure = &record.runs[run].row("kvm_run_pio_out").unwrap().figures[interface];
        figure.profile.as_ref().unwrap().stacks.clone()
    };
    let has = |stacks: &BTreeMap<String, u64>, functions: &str| {
        stacks.keys().any(|stack| stack.contains(functions))
    };
    let (ioctl, syscall) = (stacks(0, "ioctl"), stacks(0, "syscall"));
    assert!(has(
        &ioctl,
        "entry_SYSCALL_64;do_syscall_64;__x64_sys_ioctl;kvm_vcpu_ioctl;"
    ));
    assert!(has(
        &syscall,
        "entry_SYSCALL_64;do_syscall_64;__x64_sys_kvm_run;kvm_sys_run;"
    ));
    for stacks in [&ioctl, &syscall] {
        assert!(has(stacks, "svm_vcpu_enter_exit;__svm_vcpu_run;guest"));
        assert!(!has(stacks, "thunk"));
        assert!(!has(stacks, "BPF program"));
    }
    // The filter runs for the ioctl. The kernel has cached its result for the system call.
    assert!(has(&stacks(1, "ioctl"), "__seccomp_filter;BPF program"));
    assert!(has(&stacks(1, "syscall"), "__seccomp_permit_syscall"));
    assert!(!has(&stacks(1, "syscall"), "BPF program"));
}

/// What repeats of a record. In Bochs, interrupts come at other instructions in each run, so
/// that only the most common count of a case is the same.
fn repeating(mut record: Record) -> Record {
    record.time = 0;
    record.native = None;
    let other = record.others.iter_mut().chain(&mut record.hosts);
    let rows = other
        .filter(|run| run.is_bochs())
        .flat_map(|run| &mut run.rows);
    for figure in rows.flat_map(|row| row.figures.values_mut()) {
        let count = figure.exact.as_mut().unwrap();
        (count.at_mode, count.min, count.max) = (0, 0, 0);
    }
    record
}

#[test]
fn a_second_run_gives_the_same_figures_and_events() {
    let first = RUN.record();
    let dir = TempDir::new().unwrap();
    let json = dir.path().join("again.json");
    profile(&[], &json, &dir.path().join("again.html"));
    let again = Record::read(&json).unwrap();
    assert!(repeating(again) == repeating(first));
}

#[test]
fn events_and_other_processors_are_there() {
    let record = RUN.record();
    let events = |figure: &Figure| figure.profile.as_ref().unwrap().events.clone();
    let exit = |run: &Run| run.row("kvm_run_pio_out").unwrap().figures.clone();
    let figures = exit(&record.runs[0]);
    let once = Event::Instruction("vmrun".into());
    for figure in figures.values() {
        assert_eq!(events(figure)[&once], 1);
    }
    // A bound vCPU takes no lock and looks up no file.
    let locked = |interface: &str| events(&figures[interface])[&Event::Locked];
    assert!(locked("bound") < locked("ioctl"));

    let vendors: Vec<_> = record.others.iter().map(Run::vendor).collect();
    assert_eq!(vendors, ["Intel"]);
    assert_eq!(exit(&record.others[0]).len(), figures.len());
    let hosts = record.hosts.iter().map(|run| &run.measured_on);
    let hosts: Vec<_> = hosts
        .filter_map(|it| it.build.as_ref()?.host.clone())
        .collect();
    let expected: Vec<_> = hosts::all()
        .unwrap()
        .into_iter()
        .map(|it| it.name)
        .collect();
    assert_eq!(hosts, expected);
    // IBPB before the exit to user space.
    let barrier = Event::Instruction("wrmsr IA32_PRED_CMD".into());
    let zen = hosts.iter().position(|it| it == "AMD Zen 3").unwrap();
    assert_eq!(events(&exit(&record.hosts[zen])["ioctl"])[&barrier], 1);
    assert!(!events(&figures["ioctl"]).contains_key(&barrier));
}

/// The contents of the page in a browser.
#[derive(Debug, Deserialize)]
struct Seen {
    charts: usize,
    bars: Vec<String>,
    graphs: usize,
    differences: usize,
    invisible: usize,
    tables: usize,
    overflow: i64,
    text: String,
}

const LOOK: &str = r"(() => {
    document.querySelectorAll('details').forEach(it => it.open = true);
    const pictures = [...document.querySelectorAll('svg')];
    const visible = it => {
        const box = it.getBoundingClientRect();
        return box.width > 100 && box.height > 20 && it.querySelector('rect');
    };
    return JSON.stringify({
        charts: document.querySelectorAll('svg.chart').length,
        bars: [...document.querySelectorAll('svg.bars')].map(it => it.getAttribute('aria-label')),
        graphs: document.querySelectorAll('details.graph svg.flame').length,
        differences: document.querySelectorAll('details.difference svg.flame').length,
        invisible: pictures.filter(it => !visible(it)).length,
        tables: document.querySelectorAll('table').length,
        overflow: document.documentElement.scrollWidth - window.innerWidth,
        text: document.body.innerText,
    });
})()";

/// Opens a page in a window of this width. Fails if it prints to the console, or fetches
/// anything.
fn open(page: &Path, width: u32) -> Seen {
    let chromium = kernel_patch::browser().unwrap();
    let options = LaunchOptions::default_builder()
        .path(Some(chromium.into()))
        .sandbox(!Uid::effective().is_root())
        .window_size(Some((width, 900)))
        .build()
        .unwrap();
    let browser = Browser::new(options).unwrap();
    let tab = browser.new_tab().unwrap();
    tab.call_method(Network::Enable {
        max_total_buffer_size: None,
        max_resource_buffer_size: None,
        max_post_data_size: None,
        report_direct_socket_traffic: None,
        enable_durable_messages: None,
    })
    .unwrap();
    tab.enable_log().unwrap();
    tab.enable_runtime().unwrap();
    let happened = Arc::new(Mutex::new(Vec::new()));
    let events = happened.clone();
    tab.add_event_listener(Arc::new(move |event: &PageEvent| {
        let what = match event {
            PageEvent::NetworkRequestWillBeSent(it) => it.params.request.url.clone(),
            PageEvent::LogEntryAdded(it) => format!("log: {}", it.params.entry.text),
            PageEvent::RuntimeConsoleAPICalled(it) => format!("console: {:?}", it.params.args),
            PageEvent::RuntimeExceptionThrown(it) => format!("{:?}", it.params.exception_details),
            _ => return,
        };
        events.lock().unwrap().push(what);
    }))
    .unwrap();
    let url = format!("file://{}", page.display());
    tab.navigate_to(&url).unwrap();
    tab.wait_until_navigated().unwrap();
    let seen = tab.evaluate(LOOK, false).unwrap().value.unwrap();
    let happened = happened.lock().unwrap();
    let noise: Vec<_> = happened
        .iter()
        .filter(|it| **it != url && !it.starts_with("data:"))
        .collect();
    assert!(noise.is_empty(), "{noise:?}");
    assert!(happened.contains(&url), "the events are not seen");
    serde_json::from_str(seen.as_str().unwrap()).unwrap()
}

#[test]
fn the_report_shows_the_measurements_in_a_browser() {
    for width in [1280, 390] {
        let seen = open(&RUN.path("report.html"), width);
        // The shares, and the intervals of cycles.
        assert_eq!(seen.charts, 2);
        assert_eq!(seen.bars.len(), 2, "{:?}", seen.bars);
        for (bars, row) in seen.bars.iter().zip(&RUN.record().runs[0].rows[1..]) {
            let sums: Vec<_> = [
                "ioctl",
                "syscall",
                "files",
                "bound",
                "process",
                "kvm-ioctls",
            ]
            .map(|it| (it, row.figures[it].profile.as_ref().unwrap().instructions))
            .map(|(it, sum)| format!("{it} {sum}"))
            .into();
            assert_eq!(*bars, format!("{}: {}", row.name, sums.join(", ")));
        }
        // The floor has one interface, the exits have six and five differences,
        // each of them in two shapes.
        assert_eq!((seen.graphs, seen.differences), (1 + 2 * 6, 2 * 5 * 2));
        assert_eq!(seen.invisible, 0);
        assert!(seen.tables >= 6, "{}", seen.tables);
        assert!(seen.overflow <= 0, "{} pixels too wide", seen.overflow);
        for word in [
            "cargo compare --profile",
            "Firecracker",
            "not cycles",
            "kvm_vcpu_ioctl",
        ] {
            assert!(seen.text.contains(word), "{word}");
        }
    }
}

#[test]
fn a_run_without_the_system_calls_shows_the_rest() {
    let mut record = RUN.record();
    for run in record.runs.iter_mut().chain(&mut record.hosts) {
        run.no_syscalls = Some("this kernel lacks them".into());
        for row in &mut run.rows {
            row.figures
                .retain(|interface, _| ["ioctl", "kvm-ioctls"].contains(&&**interface));
        }
    }
    let dir = TempDir::new().unwrap();
    let [json, page] = ["part.json", "part.html"].map(|name| dir.path().join(name));
    fs::write(&json, serde_json::to_vec(&record).unwrap()).unwrap();
    let shown = compare(
        Command::new(kernel_patch::beside("compare").unwrap())
            .arg("--from")
            .arg(&json)
            .arg("--report")
            .arg(&page),
    );
    assert!(shown.contains("this kernel lacks them"), "{shown}");
    let seen = open(&page, 1280);
    assert!(
        seen.text
            .contains("The system calls are missing here: this kernel lacks them")
    );
    // No row compares anything.
    assert_eq!(seen.charts, 0);
    assert_eq!(
        (seen.bars.len(), seen.graphs, seen.differences),
        (2, 1 + 2 * 2, 2 * 2)
    );
    assert_eq!(seen.invisible, 0);
}

#[test]
fn the_cycles_of_hosts_are_modelled() {
    let record = RUN.record();
    let costs = Costs::read().unwrap();
    let hosts = record.hosts.iter();
    let modelled: Vec<_> = hosts.filter(|run| run.processor.is_some()).collect();
    let processors: Vec<_> = modelled
        .iter()
        .filter_map(|it| it.processor.as_deref())
        .collect();
    assert_eq!(processors, ["AMD Zen 2", "AMD Zen 3", "AMD Zen 4"]);
    for run in modelled {
        let row = run.row("kvm_run_pio_out").unwrap();
        let profile = |form: &str| row.figures[form].profile.clone().unwrap();
        let ioctl = profile("ioctl").plain.unwrap();
        for form in row.figures.keys() {
            let Profile {
                plain,
                events,
                instructions,
                ..
            } = profile(form);
            let plain = plain.unwrap();
            // Each is rounded by itself.
            assert!(
                ioctl.common.abs_diff(plain.common + plain.removed) <= 1,
                "{plain:?}"
            );
            // The pieces are most of the instructions, and llvm-mca knows them.
            assert!(
                plain.common > instructions / 8 && plain.unknown == 0,
                "{plain:?}"
            );
            let processor = run.processor.as_deref().unwrap();
            for event in events.keys().filter(|event| event.cuts()) {
                assert!(costs.of(event, processor).is_some(), "{event}");
            }
            let ratio = Model::new(row, form, &costs, processor).unwrap().ratio();
            // The crate makes the same ioctls.
            if ["ioctl", "kvm-ioctls"].contains(&&**form) {
                assert_eq!((ratio.low, ratio.high), (1.0, 1.0));
            } else {
                assert!(
                    0.0 < ratio.low && ratio.low < ratio.high,
                    "{form}: {ratio:?}"
                );
            }
        }
        // Before IBPB, a bound vCPU saves more than the one per cent that is nothing.
        let barrier = Event::Instruction("wrmsr IA32_PRED_CMD".into());
        let bound = Model::new(row, "bound", &costs, run.processor.as_deref().unwrap()).unwrap();
        assert!(bound.threshold(&barrier, 0.01).unwrap() > 0.0);
    }
    let html = fs::read_to_string(RUN.path("report.html")).unwrap();
    for text in [
        "Modelled cycles of kvm_run_pio_out",
        "Modelled shares of ioctl",
    ] {
        assert!(html.contains(text), "{text}");
    }
}
