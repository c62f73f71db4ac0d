//! `checkpatch.pl --strict`, and the remarks that are accepted, each with its reason.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::{CheckError, Result, finding};
use crate::host::{files, process};

/// The exceptions' file, beside the patches.
pub(super) const EXCEPTIONS: &str = "checkpatch.exceptions";

/// The type and the place of a remark.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Remark {
    kind: String,
    /// The kernel's file; `-` if the remark is about the message.
    file: String,
}

/// A remark that is accepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Exception {
    patch: String,
    remark: Remark,
}

/// The remarks that are accepted.
#[derive(Debug, Default)]
pub(super) struct Exceptions(BTreeSet<Exception>);

/// The remarks of checkpatch about one patch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Remarks {
    /// The remarks that no exception covers, and the exceptions that cover none.
    pub(super) unexpected: Vec<String>,
    /// The number of covered remarks.
    pub(super) excepted: usize,
}

/// Runs checkpatch on a patch, with its output in `log`.
pub(super) fn check(
    tree: &Path,
    patch: &Path,
    exceptions: &Exceptions,
    log: &Path,
) -> Result<Remarks> {
    let mut command = process::tool("perl");
    command
        // It runs Python scripts with Debian's modules.
        .env("PATH", "/usr/bin:/bin")
        .current_dir(tree)
        .args(["scripts/checkpatch.pl", "--strict", "--no-summary"])
        .args(["--terse", "--show-types", "--showfile", "--color=never"])
        .arg(patch);
    // It fails if it has remarks, which exceptions may cover.
    finding(process::run(&mut command, "checkpatch", log))?;
    let name = patch.file_name().unwrap_or_default().to_string_lossy();
    Ok(exceptions.apply(&name, &files::text_or_empty(log)?))
}

impl Exceptions {
    /// Reads the exceptions of a directory of patches. Without the file there are none.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(EXCEPTIONS);
        let text = files::text_or_empty(&path)?;
        Self::parse(&text).map_err(|line| CheckError::BadException(path, line))
    }

    /// Each line contains the number of a patch, the type of a remark, its file, and the
    /// reason. An incomplete line is the error.
    fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let exceptions = lines.map(|line| {
            let mut words = line.split_whitespace();
            let mut word = || words.next().ok_or(line).map(String::from);
            let exception = Exception {
                patch: word()?,
                remark: Remark {
                    kind: word()?,
                    file: word()?,
                },
            };
            word().map(|_| exception)
        });
        Ok(Self(exceptions.collect::<Result<_, &str>>()?))
    }

    fn apply(&self, patch: &str, output: &str) -> Remarks {
        let mut stale: BTreeSet<_> = self.0.iter().filter(|it| it.is_of(patch)).collect();
        let mut remarks = Remarks::default();
        for line in output.lines().filter(|line| !line.trim().is_empty()) {
            let remark = parse(line);
            let covers = |it: &&Exception| it.is_of(patch) && remark.as_ref() == Some(&it.remark);
            match self.0.iter().find(covers) {
                Some(exception) => {
                    stale.remove(exception);
                    remarks.excepted += 1;
                }
                None => remarks.unexpected.push(line.into()),
            }
        }
        remarks.unexpected.extend(stale.into_iter().map(|it| {
            format!(
                "{EXCEPTIONS}: patch {} has no remark {} about {} any more",
                it.patch, it.remark.kind, it.remark.file
            )
        }));
        remarks
    }

    /// The exceptions for patches that do not exist.
    pub(super) fn of_missing_patches(&self, patches: &[&str]) -> Vec<String> {
        let all = self.0.iter();
        all.filter(|it| !patches.iter().any(|patch| it.is_of(patch)))
            .map(|it| format!("{EXCEPTIONS}: there is no patch {}", it.patch))
            .collect()
    }
}

impl Exception {
    fn is_of(&self, patch: &str) -> bool {
        let number = patch.split_once('-').map_or(patch, |(number, _)| number);
        number.trim_start_matches('0') == self.patch
    }
}

/// Parses a line `FILE:LINE: LEVEL:TYPE: text`. A remark about the message has no file.
fn parse(line: &str) -> Option<Remark> {
    let levels = ["ERROR:", "WARNING:", "CHECK:"];
    let (at, level) = levels
        .into_iter()
        .filter_map(|level| Some((line.find(level)?, level)))
        .min()?;
    let (kind, _) = line[at + level.len()..].split_once(": ")?;
    let file = line[..at].split(':').next().unwrap_or_default().trim();
    Some(Remark {
        kind: kind.into(),
        file: if file.is_empty() { "-" } else { file }.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
include/linux/kvm_syscall_ops.h:583: WARNING:FILE_PATH_CHANGES: added, moved or deleted file(s), does MAINTAINERS need updating?
virt/kvm/syscalls.c:43: CHECK:MACRO_ARG_PRECEDENCE: Macro argument 'name' may be better as '(name)' to avoid precedence issues
virt/kvm/syscalls.c:110: WARNING:ENOSYS: ENOSYS means 'invalid syscall nr' and nothing else
virt/kvm/syscalls.c:233: WARNING:ENOSYS: ENOSYS means 'invalid syscall nr' and nothing else
";

    const EXCEPTIONS: &str = "\
# prose
3 ENOSYS               virt/kvm/syscalls.c  the calls do not exist then
3 FILE_PATH_CHANGES    include/linux/kvm_syscall_ops.h  has an entry

3 MACRO_ARG_PRECEDENCE virt/kvm/syscalls.c  becomes part of an identifier
4 ENOSYS               virt/kvm/syscall_ops.c  of another patch
";

    fn judge(exceptions: &str, output: &str) -> Remarks {
        let exceptions = Exceptions::parse(exceptions).unwrap();
        exceptions.apply("0003-KVM-Add.patch", output)
    }

    #[test]
    fn listed_remarks_are_accepted() {
        let expected = Remarks {
            unexpected: vec![],
            excepted: 4,
        };
        assert_eq!(judge(EXCEPTIONS, OUTPUT), expected);
    }

    #[test]
    fn unlisted_remarks_are_findings() {
        let line = "virt/kvm/syscalls.c:9: ERROR:TRAILING_WHITESPACE: trailing whitespace";
        let more = format!("{OUTPUT}{line}\n");
        assert_eq!(judge(EXCEPTIONS, &more).unexpected, [line]);
        // The same remark about another file, or of another patch.
        let other = OUTPUT.replace("syscalls.c:110", "kvm_main.c:110");
        assert_eq!(judge(EXCEPTIONS, &other).unexpected.len(), 1);
        let exceptions = Exceptions::parse(EXCEPTIONS).unwrap();
        assert_eq!(exceptions.apply("0013-x.patch", OUTPUT).unexpected.len(), 4);
    }

    #[test]
    fn other_output_is_a_finding() {
        let line = "ModuleNotFoundError: No module named 'ply'";
        assert_eq!(
            judge(EXCEPTIONS, &format!("{OUTPUT}{line}\n")).unexpected,
            [line]
        );
    }

    #[test]
    fn a_stale_exception_is_a_finding() {
        let fewer: String = OUTPUT.lines().take(2).map(|it| format!("{it}\n")).collect();
        assert_eq!(
            judge(EXCEPTIONS, &fewer).unexpected,
            [
                "checkpatch.exceptions: patch 3 has no remark ENOSYS about virt/kvm/syscalls.c any more"
            ]
        );
        let exceptions = Exceptions::parse(EXCEPTIONS).unwrap();
        assert_eq!(
            exceptions.of_missing_patches(&["0003-a.patch"]),
            ["checkpatch.exceptions: there is no patch 4"]
        );
    }

    #[test]
    fn an_exception_without_a_reason_is_refused() {
        let line = "3 ENOSYS virt/kvm/syscalls.c";
        assert_eq!(Exceptions::parse(line).unwrap_err(), line);
    }

    #[test]
    fn remarks_about_the_message_have_no_file() {
        for line in [
            ":0: WARNING:TYPO_SPELLING: 'teh' may be misspelled",
            "ERROR:MISSING_SIGN_OFF: Missing Signed-off-by: line(s)",
        ] {
            assert_eq!(parse(line).unwrap().file, "-");
        }
        let text = "a.c:1: CHECK:SPACING: no space before 'ERROR: x'";
        assert_eq!(parse(text).unwrap().kind, "SPACING");
    }
}
