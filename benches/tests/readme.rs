//! The documents show the figures of one run, whose record is docs/results.json, and
//! compare them with those of a run on the release before, docs/results-6.12.json. The figures
//! of VMMs are those of docs/vmm.json.
//!
//! To show another run: `cargo compare --profile --json docs/results.json`, `cargo vmm --json docs/vmm.json`, then
//! `UPDATE_DOCS=1 cargo test -p benches --test readme`. The test also removes the stacks
//! of functions, the events and the estimates that no document shows from the record, because they are
//! most of it.

use std::fs;
use std::path::PathBuf;

use benches::INTERFACES;
use benches::grid::SCREEN;
use benches::record::{CaseRow, Record};
use benches::report::documents;
use benches::vmm;

/// The lines that begin and end a generated part. The first goes on with its name.
const BEGIN: &str = "<!-- results: ";
const END: &str = "<!-- end of results -->";

/// What a reader takes in at once: lines of the README, and characters of its tables.
const README_LINES: usize = 150;
const README_TABLE: usize = 100;

fn file(name: &str) -> PathBuf {
    kernel_patch::workspace_dir().unwrap().join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn update() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some()
}

/// The kept record of the release before, and of the default one.
const BEFORE: &str = "docs/results-6.12.json";
const NOW: &str = "docs/results.json";
/// The kept record of the work of VMMs.
const VMMS: &str = "docs/vmm.json";

/// A kept record, with the stacks of functions and the events that the documents show.
fn kept(name: &str) -> Record {
    let kept = file(name);
    let whole = Record::read(&kept).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    let mut record = whole.clone();
    let runs = record.runs.iter_mut().chain(&mut record.hosts);
    for (nth, run) in runs.enumerate() {
        let condition = run.condition();
        let build = run.measured_on.build.as_ref();
        let is_host = build.is_some_and(|build| build.host.is_some());
        for row in &mut run.rows {
            for (interface, figure) in &mut row.figures {
                let Some(profile) = &mut figure.profile else {
                    continue;
                };
                if !documents::shows_functions(&condition, &row.name, interface) {
                    profile.stacks.clear();
                }
                let is_modelled =
                    profile.plain.is_some() && documents::shows_cycles(is_host, interface);
                if !is_modelled {
                    profile.plain = None;
                }
                if !is_modelled && (nth > 0 || !documents::shows_events(&row.name)) {
                    profile.events.clear();
                }
            }
        }
    }
    if let Some(native) = &mut record.native {
        // Of the machine, only what is relevant to the times.
        let here = &mut native.run.measured_on;
        here.kernel = here.release().to_owned();
        here.version.clear();
        native.run.no_syscalls = None;
    }
    if record != whole {
        assert!(update(), "{name} has what no document shows");
        let json = serde_json::to_string_pretty(&record).expect("a record becomes JSON");
        fs::write(&kept, json + "\n").expect("the record can be written");
    }
    record
}

/// Fails if a generated file differs from the record, or updates it.
#[track_caller]
fn whole(name: &str, expected: &str) {
    if update() {
        fs::write(file(name), expected).expect("the document can be written");
    } else {
        assert!(
            read(name) == expected,
            "{name} is out of date; run this test with UPDATE_DOCS=1"
        );
    }
}

/// Fails if a generated part of a document differs from the record, or updates it.
#[track_caller]
fn part(name: &str, part: &str, expected: &str) {
    let begin = format!("{BEGIN}{part}, by benches/tests/readme.rs -->\n");
    let text = read(name);
    let (before, rest) = text
        .split_once(&begin)
        .unwrap_or_else(|| panic!("{name} has no line {begin}"));
    let (found, after) = rest
        .split_once(END)
        .unwrap_or_else(|| panic!("{name}: {part} has no end"));
    let expected = format!("\n{}\n\n", expected.trim());
    if update() {
        let new = [before, &begin, &expected, END, after].concat();
        fs::write(file(name), new).expect("the document can be written");
    } else {
        assert_eq!(
            found, expected,
            "{name}, {part} is out of date; run this test with UPDATE_DOCS=1"
        );
    }
}

/// The lines of a document that belong to tables.
fn table_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| line.starts_with('|'))
}

#[track_caller]
fn tables_fit(name: &str, text: &str, width: usize) {
    assert!(table_lines(text).count() > 2, "{name} has no table");
    for line in table_lines(text) {
        let is = line.chars().count();
        assert!(is <= width, "{name}: {is} characters, {width} fit: {line}");
    }
}

/// One test for all: they update the same files.
#[test]
fn documents_show_the_kept_results() {
    let (record, before) = (kept(NOW), kept(BEFORE));
    let results = documents::results(&record, &before).unwrap();
    whole("docs/results.md", &results);
    let releases = documents::releases(&record, &before).unwrap();
    tables_fit("docs/releases.md", &releases, SCREEN);
    whole("docs/releases.md", &releases);
    whole("docs/chart.svg", &documents::chart(&record).unwrap());
    whole("docs/cycles.svg", &documents::intervals(&record).unwrap());
    let vmms = vmm::record::Record::read(&file(VMMS)).unwrap();
    let readme = documents::readme(&record, &vmms).unwrap();
    part("README.md", "answer", &readme);
    let work = vmm::documents::part(&vmms);
    tables_fit("docs/vmm.md", &work, SCREEN);
    part("docs/vmm.md", "work", &work);
    let forms = INTERFACES.into_iter();
    let forms = forms.filter(|name| !["ioctl", "kvm-ioctls"].contains(name));
    for form in forms.clone() {
        let table = documents::form(&record, form);
        let table = table.unwrap_or_else(|| panic!("{form} has no figures"));
        tables_fit("docs/forms.md", &table, SCREEN);
        part("docs/forms.md", form, &table);
    }
    let cycles = documents::cycles(&record).unwrap();
    part("docs/hardware.md", "cycles", &cycles);
    let remains = documents::remains(&record).expect("the record has profiles");
    part("docs/forms.md", "remains", &remains);
    let change = documents::thread_change(&record).expect("the record has both rows");
    part("docs/forms.md", "thread change", &change);
    part("docs/forms.md", "message", &documents::message(&record));
    assert_eq!(
        read("docs/forms.md").matches(BEGIN).count(),
        forms.count() + 3
    );

    let lines = read("README.md").lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines");
    tables_fit("README.md", &read("README.md"), README_TABLE);
    tables_fit("docs/results.md", &read("docs/results.md"), SCREEN);
}

/// The figures of the record are in docs/results.md, in the rows of their cases.
#[test]
fn results_have_every_figure() {
    let record = kept(NOW);
    let text = documents::results(&record, &record).unwrap();
    let cells = |name: &str| -> Vec<String> {
        let rows = table_lines(&text).map(|line| line.split('|').map(str::trim));
        let rows = rows.filter(|cells| cells.clone().nth(1) == Some(name));
        rows.flatten().map(String::from).collect()
    };
    for run in &record.runs {
        let everywhere =
            |row: &&CaseRow| record.runs.iter().all(|run| run.row(&row.name).is_some());
        let first = run == &record.runs[0];
        // Only the first condition has a table of the calls that no vCPU's thread makes.
        for row in run.rows.iter().filter(|row| first || everywhere(row)) {
            let cells = cells(&row.name);
            for (interface, figure) in &row.figures {
                let count = figure.exact.as_ref().expect("instructions were counted");
                let share = 100 * count.at_mode / count.calls;
                let mut texts = vec![count.mode.to_string()];
                if first && share < 100 {
                    texts[0] += &format!(" ({share} %)");
                }
                if interface != "ioctl" {
                    texts.extend(row.share(interface, "ioctl").map(|it| format!("{it:.3}")));
                }
                for text in texts {
                    let name = &row.name;
                    assert!(cells.contains(&text), "{name} by {interface}: no {text}");
                }
            }
            if let Some(work) = &row.own_work {
                assert!(cells.contains(work), "{}: no {work}", row.name);
            }
        }
    }
}
