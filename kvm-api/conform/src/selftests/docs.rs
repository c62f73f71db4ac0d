//! Compares the lists in docs/selftests.md with [`known`](super::known).
//! `UPDATE_DOCS=1 cargo test -p conform selftests` updates them.

use std::fmt::Write;

use super::known::{KNOWN, Known, SPECIALS, Special};
use crate::generated;

const BEGIN: &str = "<!-- lists: made from known.rs, see docs.rs beside it -->\n";
const END: &str = "<!-- end of lists -->";

fn lists() -> String {
    let mut text = String::from("\n| tests | result | reason |\n| --- | --- | --- |\n");
    for Known(verdict, why, tests) in KNOWN {
        let tests: Vec<_> = tests.iter().map(|it| format!("`{it}`")).collect();
        let _ = writeln!(text, "| {} | {verdict} | {why} |", tests.join(", "));
    }
    text += "\n| test | started with | reason |\n| --- | --- | --- |\n";
    for Special(test, start, why) in SPECIALS {
        let mut how = Vec::new();
        if !start.args.is_empty() {
            how.push(format!("`{}`", start.args.join(" ")));
        }
        for (file, value) in start.settings {
            how.push(format!("`{file}`: {value}"));
        }
        if how.is_empty() {
            how.push(format!("for {:?}", start.limit));
        }
        let _ = writeln!(text, "| `{test}` | {} | {why} |", how.join(", "));
    }
    text + "\n"
}

#[test]
fn docs_list_what_is_known() {
    generated::check("docs/selftests.md", [BEGIN, END], &lists(), "selftests");
}
