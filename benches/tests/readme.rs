//! The figures in README.md and docs/forms.md are those of a run: of the one
//! whose record is kept in docs/results.json.
//!
//! To show another run: `cargo compare --profile --json docs/results.json`, then
//! `UPDATE_DOCS=1 cargo test -p benches --test readme`, which also takes the
//! stacks of functions out of the record: they are most of it.

use std::fs;
use std::path::PathBuf;

use benches::record::Record;
use benches::{report, table};

const BEGIN: &str = "<!-- results: made from docs/results.json, see benches/tests/readme.rs -->\n";
const END: &str = "<!-- end of results -->";

fn file(name: &str) -> PathBuf {
    kernel_patch::workspace_dir().unwrap().join(name)
}

fn update() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some()
}

/// The kept record, without stacks of functions.
fn kept() -> Record {
    let kept = file("docs/results.json");
    let mut record = Record::read(&kept).expect("docs/results.json is a record");
    let rows = record.runs.iter_mut().flat_map(|run| &mut run.rows);
    let figures = rows.flat_map(|row| row.figures.values_mut());
    let profiles: Vec<_> = figures
        .filter_map(|figure| figure.profile.as_mut())
        .filter(|profile| !profile.stacks.is_empty())
        .collect();
    assert!(update() || profiles.is_empty(), "the record has its stacks");
    if !profiles.is_empty() {
        for profile in profiles {
            profile.stacks.clear();
        }
        let json = serde_json::to_string_pretty(&record).expect("a record becomes JSON");
        fs::write(&kept, json + "\n").expect("docs/results.json can be written");
    }
    record
}

/// Holds a document to what it shows of the record, or mends it.
fn shows(name: &str, shown: &str) {
    let text = fs::read_to_string(file(name)).expect("the document is there");
    let (before, rest) = text
        .split_once(BEGIN)
        .expect("the document has a place for results");
    let (is, after) = rest.split_once(END).expect("the place has an end");
    if update() {
        fs::write(file(name), [before, BEGIN, shown, END, after].concat())
            .expect("the document can be written");
    } else {
        assert_eq!(
            is, shown,
            "{name} shows something else; UPDATE_DOCS=1 mends it"
        );
    }
}

#[test]
fn documents_show_the_kept_results() {
    let record = kept();
    let (tables, legend) = (table::tables(&record), table::legend(&record));
    shows(
        "README.md",
        &format!("\n{tables}\n```text\n{legend}\n```\n"),
    );

    let answer = report::answer(&record).into_iter();
    let list: String = answer.map(|paragraph| format!("- {paragraph}\n")).collect();
    shows("docs/forms.md", &format!("\n{list}\n"));
}
