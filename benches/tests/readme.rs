//! The figures in README.md are those of a run: of the one whose record is kept
//! in docs/results.json.
//!
//! To show another run: `cargo compare --json docs/results.json`, then
//! `UPDATE_DOCS=1 cargo test -p benches --test readme`.

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
    let record = fs::read(file("docs/results.json")).expect("docs/results.json is there");
    let record: Record = serde_json::from_slice(&record).expect("it is a record");
    let (tables, legend) = (table::tables(&record), table::legend(&record));
    let shown = format!("\n{tables}\n```text\n{legend}\n```\n");

    let readme = fs::read_to_string(file("README.md")).expect("README.md is there");
    let (before, rest) = readme
        .split_once(BEGIN)
        .expect("README.md has a place for results");
    let (is, after) = rest.split_once(END).expect("the place has an end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
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
