//! Compares the lists in docs/selftests.md with [`known`](super::known).
//! `UPDATE_DOCS=1 cargo test -p conform selftests` updates them.

use std::fmt::Write;

use super::known::{KNOWN, SPECIALS};
use crate::generated;

const BEGIN: &str = "<!-- lists: made from known.rs, see docs.rs beside it -->\n";
const END: &str = "<!-- end of lists -->";

fn lists() -> String {
    let mut text = String::from("\n| tests | result | reason |\n| --- | --- | --- |\n");
    for known in KNOWN {
        let tests: Vec<_> = known.tests.iter().map(|it| format!("`{it}`")).collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            tests.join(", "),
            known.verdict,
            known.why
        );
    }
    text += "\n| test | started with | reason |\n| --- | --- | --- |\n";
    for special in SPECIALS {
        let mut how = Vec::new();
        if !special.start.args.is_empty() {
            how.push(format!("`{}`", special.start.args.join(" ")));
        }
        for (file, value) in special.start.settings {
            how.push(format!("`{file}`: {value}"));
        }
        if how.is_empty() {
            how.push(format!("for {:?}", special.start.limit));
        }
        let _ = writeln!(
            text,
            "| `{}` | {} | {} |",
            special.test,
            how.join(", "),
            special.why
        );
    }
    text + "\n"
}

#[test]
fn docs_list_what_is_known() {
    generated::check("docs/selftests.md", [BEGIN, END], &lists(), "selftests");
}
