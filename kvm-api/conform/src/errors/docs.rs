//! Compares the tables in docs/errors.md with the matrix. `UPDATE_DOCS=1 cargo
//! test -p conform errors` updates them.

use std::fmt::Write;

use super::expected::{Expectation, Expected, each_rule_counts};
use super::misuse::Misuse;
use super::{FAMILIES, circumstances, files, numbers};
use crate::generated;
use crate::tested_call::TestedCall;

const BEGIN: &str = "<!-- tables: made from the tables of the test, see docs.rs beside them -->\n";
const END: &str = "<!-- end of tables -->";

/// A row: the misuses of an argument that have the same result.
#[derive(PartialEq)]
struct DocRow {
    argument: String,
    misuses: Vec<String>,
    expected: Expected,
}

impl DocRow {
    fn of(family: &str, case: &Misuse) -> Self {
        let (argument, misuse) = match case.misuse.strip_prefix('`') {
            Some(named) if ["Pointers", "Numbers"].contains(&family) => {
                named.split_once('`').expect("a name has an end")
            }
            _ if family == "File descriptors" => ("fd", case.misuse.as_str()),
            _ => ("", case.misuse.as_str()),
        };
        Self {
            argument: argument.to_owned(),
            misuses: vec![misuse.trim_start_matches([',', ' ']).to_owned()],
            expected: case.expected,
        }
    }

    fn line(&self) -> String {
        let argument = match self.argument.as_str() {
            "" => String::new(),
            name => format!("`{name}`"),
        };
        let Expected { ioctl, flat, why } = self.expected;
        let misuses = self.misuses.join("; ");
        format!(
            "| {argument} | {misuses} | {} | {} | {why} |\n",
            answer(ioctl),
            answer(flat)
        )
    }

    fn differs(&self) -> bool {
        let Expected { ioctl, flat, .. } = self.expected;
        ioctl.is_some() && flat.is_some() && ioctl != flat
    }
}

fn answer(answer: Option<Expectation>) -> String {
    answer.map_or("-".into(), |answer| answer.to_string())
}

/// The rows of a call. Misuses of an argument with the same result share a row.
fn rows(call: TestedCall) -> Vec<DocRow> {
    let mut rows: Vec<DocRow> = Vec::new();
    for (family, cases) in FAMILIES {
        for case in cases().iter().filter(|it| it.call == call) {
            let row = DocRow::of(family, case);
            let like =
                |it: &&mut DocRow| it.argument == row.argument && it.expected == row.expected;
            match rows.iter_mut().find(like) {
                Some(like) => like.misuses.extend(row.misuses),
                None => rows.push(row),
            }
        }
    }
    rows
}

/// The rows whose routes differ, each with its calls.
fn differences() -> Vec<(DocRow, Vec<&'static str>)> {
    let mut found: Vec<(DocRow, Vec<_>)> = Vec::new();
    for call in TestedCall::all() {
        for row in rows(call).into_iter().filter(DocRow::differs) {
            match found.iter_mut().find(|it| it.0 == row) {
                Some((_, names)) => names.push(call.name),
                None => found.push((row, vec![call.name])),
            }
        }
    }
    found
}

const COLUMNS: &str = "argument | misuse | ioctl | system call | why |\n";
const RULE: &str = "--- | --- | --- | --- | --- |\n";

fn tables() -> String {
    let mut text = format!("\n## Where the two differ\n\n| calls | {COLUMNS}| --- | {RULE}");
    for (row, names) in differences() {
        let _ = write!(text, "| `{}` {}", names.join("`, `"), row.line());
    }
    for call in TestedCall::all() {
        let _ = write!(text, "\n## {}\n\n| {COLUMNS}| {RULE}", call.name);
        for row in rows(call) {
            text += &row.line();
        }
    }
    text + "\n"
}

#[test]
fn docs_have_the_matrix() {
    generated::check("docs/errors.md", [BEGIN, END], &tables(), "errors");
}

/// Each rule and each row must apply to a call, or it would never be tested.
#[test]
fn each_line_of_the_tables_counts() {
    each_rule_counts(files::RULES);
    each_rule_counts(circumstances::RULES);
    for row in numbers::NUMBERS {
        for &call in row.calls {
            let takes = numbers::numbers(call).iter().any(|it| it.0 == row.name);
            assert!(takes, "{} has no {}", call.name, row.name);
        }
    }
}
