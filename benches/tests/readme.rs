//! The figures in README.md are those of a run: of the one whose record is kept
//! in docs/results.json.
//!
//! To show another run: `cargo compare --profile --json docs/results.json`, then
//! `UPDATE_DOCS=1 cargo test -p benches --test readme`, which also takes the
//! stacks of functions out of the record: they are most of it.

use std::fs;
use std::path::{Path, PathBuf};

use benches::record::Record;
use benches::table;

const BEGIN: &str = "<!-- results: made from docs/results.json, see benches/tests/readme.rs -->\n";
const END: &str = "<!-- end of results -->";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

#[test]
fn readme_shows_the_kept_results() {
    let update = std::env::var_os("UPDATE_DOCS").is_some();
    let kept = file("docs/results.json");
    let mut record = Record::read(&kept).expect("docs/results.json is a record");
    let rows = record.runs.iter_mut().flat_map(|run| &mut run.rows);
    let figures = rows.flat_map(|row| row.figures.values_mut());
    for profile in figures.filter_map(|figure| figure.profile.as_mut()) {
        assert!(
            update || profile.stacks.is_empty(),
            "the record has its stacks"
        );
        profile.stacks.clear();
    }
    if update {
        let json = serde_json::to_string_pretty(&record).expect("a record becomes JSON");
        fs::write(&kept, json + "\n").expect("docs/results.json can be written");
    }
    let (tables, legend) = (table::tables(&record), table::legend(&record));
    let shown = format!("\n{tables}\n```text\n{legend}\n```\n");

    let readme = fs::read_to_string(file("README.md")).expect("README.md is there");
    let (before, rest) = readme
        .split_once(BEGIN)
        .expect("README.md has a place for results");
    let (is, after) = rest.split_once(END).expect("the place has an end");
    if update {
        fs::write(
            file("README.md"),
            [before, BEGIN, &shown, END, after].concat(),
        )
        .expect("README.md can be written");
    } else {
        assert_eq!(
            is, shown,
            "README.md shows something else; UPDATE_DOCS=1 mends it"
        );
    }
}
