//! The conflicts of a patch, and where the lines that it changes have gone.

use std::collections::BTreeMap;

use serde::Serialize;

use super::error::Result;
use super::repository::Repository;

/// The lines of a conflict that are looked for in the other source.
const SOUGHT: usize = 8;

/// A shorter line is in too many files.
const LEAST: usize = 20;

/// The parts of the source that the series changes.
const WHERE: [&str; 7] = [
    "arch",
    "virt",
    "include",
    "kernel",
    "fs",
    "Documentation/virt",
    "tools/testing/selftests/kvm",
];

/// The conflicts of a patch in one file.
#[derive(Debug, Serialize)]
pub struct FileConflicts {
    /// The file.
    pub file: String,
    /// The number of places with a conflict; 0 if the file was removed or renamed.
    pub places: usize,
    /// The files of the other source with lines that the patch expects, those with most
    /// lines first.
    pub found_in: Vec<Found>,
}

/// A file with lines that a patch expects elsewhere.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The file.
    pub file: String,
    /// The number of the lines.
    pub lines: usize,
    /// The number of lines that were looked for.
    pub of: usize,
}

impl FileConflicts {
    /// Describes the conflicts that a merge has left in `file`.
    pub(super) fn find(repository: &Repository, file: &str) -> Result<Self> {
        let text = repository.text(file)?;
        let expected = expected(&text);
        let mut counts = BTreeMap::<String, usize>::new();
        let lines: Vec<_> = expected.iter().flat_map(|it| telling(it)).collect();
        for line in &lines {
            for found in repository.files_with(line, &WHERE)? {
                *counts.entry(found).or_default() += 1;
            }
        }
        let mut found: Vec<_> = counts.into_iter().collect();
        found.sort_by_key(|(_, lines)| std::cmp::Reverse(*lines));
        found.truncate(3);
        let of = lines.len();
        Ok(Self {
            file: file.into(),
            places: expected.len(),
            found_in: found
                .into_iter()
                .map(|(file, lines)| Found { file, lines, of })
                .collect(),
        })
    }
}

/// The lines that the patch expects at each conflict: the middle part of the three.
fn expected(text: &str) -> Vec<Vec<&str>> {
    let mut places = Vec::new();
    let mut inside = None;
    for line in text.lines() {
        if line.starts_with("||||||| ") {
            inside = Some(Vec::new());
        } else if line == "=======" {
            places.extend(inside.take());
        } else if let Some(lines) = &mut inside {
            lines.push(line);
        }
    }
    places
}

/// The lines that are most likely to be in one place only: the longest that are code.
fn telling<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let mut lines: Vec<_> = lines.iter().map(|it| it.trim()).collect();
    lines.retain(|it| it.len() >= LEAST && !it.starts_with(['*', '/', '#']));
    lines.sort_by_key(|it| std::cmp::Reverse(it.len()));
    lines.dedup();
    lines.truncate(SOUGHT);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_conflict_is_expected() {
        let text = "a\n<<<<<<< HEAD\nours\n||||||| parent of 1\nbase\n=======\ntheirs\n\
                    >>>>>>> 1\nb\n<<<<<<< HEAD\n||||||| parent of 1\n=======\nx\n>>>>>>> 1\n";
        assert_eq!(expected(text), [vec!["base"], vec![]]);
    }

    #[test]
    fn long_lines_of_code_tell_most() {
        let lines = [
            "\t * A comment that is long enough to be taken.",
            "\tif (!kvm)",
            "\tr = kvm_vcpu_ioctl_get_msrs(vcpu, argp);",
            "static long kvm_arch_vcpu_ioctl(struct file *filp)",
        ];
        assert_eq!(
            telling(&lines),
            [
                "static long kvm_arch_vcpu_ioctl(struct file *filp)",
                "r = kvm_vcpu_ioctl_get_msrs(vcpu, argp);"
            ]
        );
    }
}
