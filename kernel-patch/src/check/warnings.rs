//! The remarks of compilers and checkers, and which of them are new.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The marks by which a line is recognized as a remark. The build reports an error that
/// ends it, but the errors of sparse and of sphinx do not end it.
const MARKS: [&str; 5] = [
    "warning: ",
    "WARNING: ",
    "sparse: error: ",
    "ERROR: ",
    "SEVERE: ",
];

/// The prefix of sparse's remarks.
const SPARSE: &str = ": sparse: ";

/// The remarks of one run, by their text without the line numbers, because a patch moves
/// code that it does not change.
#[derive(Debug, Default)]
pub(super) struct Warnings(BTreeMap<String, BTreeSet<String>>);

/// How often each remark has occurred.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Known(BTreeMap<String, usize>);

impl Warnings {
    /// Finds the remarks in a tool's output.
    pub(super) fn read(output: &str) -> Self {
        let mut all = Self::default();
        for line in output.lines() {
            if MARKS.iter().any(|mark| line.contains(mark)) {
                let line = short(line.trim());
                // A remark about a header comes with each object that includes it.
                all.0.entry(placeless(&line)).or_default().insert(line);
            }
        }
        all
    }

    /// The remarks that are not known, or not as often.
    pub(super) fn new_to<'a>(&'a self, known: &'a Known) -> impl Iterator<Item = &'a str> {
        let new = self
            .0
            .iter()
            .filter(|(what, lines)| lines.len() > *known.0.get(*what).unwrap_or(&0));
        new.flat_map(|(_, lines)| lines).map(String::as_str)
    }
}

impl Known {
    /// Adds remarks.
    pub(super) fn learn(&mut self, warnings: &Warnings) {
        for (what, lines) in &warnings.0 {
            let count = self.0.entry(what.clone()).or_default();
            *count = lines.len().max(*count);
        }
    }
}

/// Whether a remark is from sparse.
pub(super) fn is_sparse(line: &str) -> bool {
    line.contains(SPARSE)
}

/// The line with the path of its file from the top of the source: a build below the
/// source calls `a/c.h` `../a/b/../c.h`.
fn short(line: &str) -> String {
    let (path, rest) = match line.split_once(':') {
        Some((path, rest)) if path.contains('/') && !path.contains(' ') => (path, rest),
        _ => return line.into(),
    };
    format!("{}:{rest}", without_parents(path))
}

/// The path without `..` and the directories that they cancel. Leading ones, which lead
/// from the build directory to the source, go too.
pub(super) fn without_parents(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

/// The line without line numbers, column numbers and offsets.
fn placeless(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find([':', '+']) {
        let (before, mark) = rest.split_at(at);
        text += before;
        let (after, is_digit): (_, fn(char) -> bool) = match mark.strip_prefix("+0x") {
            Some(offset) => (offset, |it| it.is_ascii_hexdigit()),
            None => (&mark[1..], |it| it.is_ascii_digit()),
        };
        let place = after.trim_start_matches(is_digit);
        if mark.starts_with('+') && !mark.starts_with("+0x") || place.len() == after.len() {
            text += &mark[..1];
            rest = &mark[1..];
        } else {
            rest = place;
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
  CC      arch/x86/kvm/../../../virt/kvm/kvm_main.o
../arch/x86/include/asm/vvar.h:61:1: sparse: warning: symbol '_vdso_data_offset' was not declared. Should it be static?
../arch/x86/kvm/../../../virt/kvm/kvm_main.c:669:25: sparse: warning: context imbalance in 'kvm_mmu_notifier_clear_young' - different lock contexts for basic block
../arch/arm64/kvm/arm.c:246:16: sparse: error: incompatible types in comparison expression (different address spaces):
../arch/arm64/kvm/arm.c:246:16: sparse:    int *
../arch/x86/entry/common.c:206: warning: Function parameter or struct member 'regs' not described in 'do_int80_emulation'
";

    fn new(after: &str) -> Vec<String> {
        let mut known = Known::default();
        known.learn(&Warnings::read(BEFORE));
        let after = Warnings::read(after);
        after.new_to(&known).map(String::from).collect()
    }

    #[test]
    fn moved_code_has_no_new_warnings() {
        assert_eq!(new(&BEFORE.replace(":669:25", ":701:9")), [""; 0]);
        assert_eq!(new(""), [""; 0]);
    }

    #[test]
    fn a_warning_in_a_header_counts_once() {
        assert_eq!(new(&BEFORE.repeat(2)), [""; 0]);
    }

    #[test]
    fn another_warning_is_new() {
        let line = "../virt/kvm/x.c:12:3: warning: unused variable 'x' [-Wunused-variable]";
        assert_eq!(new(&format!("{BEFORE}{line}\n")), [&line[3..]]);
    }

    #[test]
    fn a_warning_in_another_place_is_new() {
        let error = BEFORE.lines().nth(3).unwrap();
        let again = error.replace(":246:16", ":775:13");
        assert_eq!(
            new(&format!("{BEFORE}{again}\n")),
            [&error[3..], &again[3..]]
        );
    }

    #[test]
    fn the_linkers_and_objtools_warnings_count() {
        let before = "vmlinux.o: warning: objtool: kvm_run+0x1f: unreachable instruction\n";
        let mut known = Known::default();
        known.learn(&Warnings::read(before));
        let moved =
            Warnings::read("vmlinux.o: warning: objtool: kvm_run+0x2a: unreachable instruction\n");
        assert_eq!(moved.new_to(&known).count(), 0);
        let modpost = Warnings::read("WARNING: modpost: missing MODULE_DESCRIPTION() in a.o\n");
        assert_eq!(modpost.new_to(&known).count(), 1);
    }

    #[test]
    fn sparse_is_told_from_the_compiler() {
        let (sparse, compiler): (Vec<_>, Vec<_>) = BEFORE
            .lines()
            .filter(|line| line.contains("warning: "))
            .partition(|line| is_sparse(line));
        assert_eq!((sparse.len(), compiler.len()), (2, 1));
    }

    #[test]
    fn places_are_left_out() {
        assert_eq!(placeless("a.c:1:2: w: x (at b.h:3)"), "a.c: w: x (at b.h)");
        assert_eq!(placeless("f+0x1f/0x20: +1 a::b 7"), "f/0x20: +1 a::b 7");
    }
}
