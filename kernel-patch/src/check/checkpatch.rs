//! `checkpatch.pl --strict`, and the remarks that stay, each with its reason.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::host::error::{Error, Result};
use crate::host::files;
use crate::host::process::{self, run};

/// The exceptions' file, beside the patches.
pub(super) const EXCEPTIONS: &str = "checkpatch.exceptions";

/// What a remark is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Remark {
    kind: String,
    /// The kernel's file; `-` when it is about the message.
    file: String,
}

/// A remark that may stay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Exception {
    patch: String,
    remark: Remark,
}

/// The remarks that may stay.
#[derive(Debug, Default)]
pub(super) struct Exceptions(BTreeSet<Exception>);

/// What checkpatch says of one patch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Remarks that no exception covers, and exceptions that cover nothing.
    pub(super) wrong: Vec<String>,
    /// How many remarks are covered.
    pub(super) excepted: usize,
}

/// Has checkpatch look at a patch, with its output in `log`.
pub(super) fn check(
    tree: &Path,
    patch: &Path,
    exceptions: &Exceptions,
    log: &Path,
) -> Result<Verdict> {
    let mut command = Command::new("perl");
    process::clean(&mut command)
        // It runs scripts of Python, whose modules are Debian's.
        .env("PATH", "/usr/bin:/bin")
        .current_dir(tree)
        .args(["scripts/checkpatch.pl", "--strict", "--no-summary"])
        .args(["--terse", "--show-types", "--showfile", "--color=never"])
        .arg(patch);
    match run(command, "checkpatch", log) {
        // Its status says that there are remarks, which is no failure as yet.
        Ok(()) | Err(Error::ToolFailed { .. }) => {}
        Err(error) => return Err(error),
    }
    let output = files::read(log)?.unwrap_or_default();
    let name = patch.file_name().unwrap_or_default().to_string_lossy();
    Ok(exceptions.judge(&name, &String::from_utf8_lossy(&output)))
}

impl Exceptions {
    /// Reads those of a directory of patches; none without the file.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(EXCEPTIONS);
        let content = files::read(&path)?.unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&content)).map_err(|line| Error::BadException {
            path: path.clone(),
            line,
        })
    }

    /// Each line names a patch by its number, the remark's type, the file that
    /// it is about, and then gives the reason. Fails with a line that does not.
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

    fn judge(&self, patch: &str, output: &str) -> Verdict {
        let mut stale: BTreeSet<_> = self.0.iter().filter(|it| it.is_of(patch)).collect();
        let mut verdict = Verdict {
            wrong: Vec::new(),
            excepted: 0,
        };
        for line in output.lines().filter(|line| !line.trim().is_empty()) {
            let remark = parse(line);
            let covers = |it: &&Exception| it.is_of(patch) && remark.as_ref() == Some(&it.remark);
            match self.0.iter().find(covers) {
                Some(exception) => {
                    stale.remove(exception);
                    verdict.excepted += 1;
                }
                None => verdict.wrong.push(line.into()),
            }
        }
        verdict.wrong.extend(stale.into_iter().map(|it| {
            format!(
                "{EXCEPTIONS}: patch {} has no remark {} about {} any more",
                it.patch, it.remark.kind, it.remark.file
            )
        }));
        verdict
    }

    /// Those of patches that there are not.
    pub(super) fn homeless(&self, patches: &[&str]) -> Vec<String> {
        let homeless = self.0.iter();
        let homeless = homeless.filter(|it| !patches.iter().any(|patch| it.is_of(patch)));
        homeless
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

/// A line `FILE:LINE: LEVEL:TYPE: text`; one about the message has no file.
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

    fn judge(exceptions: &str, output: &str) -> Verdict {
        let exceptions = Exceptions::parse(exceptions).unwrap();
        exceptions.judge("0003-KVM-Add.patch", output)
    }

    #[test]
    fn what_is_listed_may_stay() {
        let expected = Verdict {
            wrong: vec![],
            excepted: 4,
        };
        assert_eq!(judge(EXCEPTIONS, OUTPUT), expected);
    }

    #[test]
    fn what_is_not_listed_is_wrong() {
        let line = "virt/kvm/syscalls.c:9: ERROR:TRAILING_WHITESPACE: trailing whitespace";
        let more = format!("{OUTPUT}{line}\n");
        assert_eq!(judge(EXCEPTIONS, &more).wrong, [line]);
        // The same remark about another file, or of another patch.
        let other = OUTPUT.replace("syscalls.c:110", "kvm_main.c:110");
        assert_eq!(judge(EXCEPTIONS, &other).wrong.len(), 1);
        let exceptions = Exceptions::parse(EXCEPTIONS).unwrap();
        assert_eq!(exceptions.judge("0013-x.patch", OUTPUT).wrong.len(), 4);
    }

    #[test]
    fn what_is_no_remark_is_wrong() {
        let line = "ModuleNotFoundError: No module named 'ply'";
        assert_eq!(
            judge(EXCEPTIONS, &format!("{OUTPUT}{line}\n")).wrong,
            [line]
        );
    }

    #[test]
    fn a_stale_exception_is_wrong() {
        let fewer: String = OUTPUT.lines().take(2).map(|it| format!("{it}\n")).collect();
        assert_eq!(
            judge(EXCEPTIONS, &fewer).wrong,
            [
                "checkpatch.exceptions: patch 3 has no remark ENOSYS about virt/kvm/syscalls.c any more"
            ]
        );
        let exceptions = Exceptions::parse(EXCEPTIONS).unwrap();
        assert_eq!(
            exceptions.homeless(&["0003-a.patch"]),
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
