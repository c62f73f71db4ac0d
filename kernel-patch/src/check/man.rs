//! The manual pages of the calls. They are not part of the series.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{Result, finding};
use crate::host::{files, paths, process};

/// Runs `man` and `mandoc` on each page of a directory, with their remarks in `log`. Each
/// finds faults that the other misses.
pub(super) fn lint(dir: &Path, log: &Path) -> Result<Vec<String>> {
    let _ = fs::remove_file(log);
    let pages = files::list(dir)?;
    if pages.is_empty() {
        return Ok(vec![format!("no pages in {}", dir.display())]);
    }
    let mut found = Vec::new();
    for page in pages {
        // Drop the formatted page.
        let mut man = process::tool("sh");
        man.args(["-c", "exec man --warnings --local-file \"$1\" >/dev/null"])
            .arg("man")
            .arg(&page)
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "80");
        let mut mandoc = process::tool("mandoc");
        mandoc.args(["-T", "lint", "-W", "warning"]).arg(&page);
        for (what, mut command) in [("man", man), ("mandoc", mandoc)] {
            let before = files::text_or_empty(log)?.len();
            let error = finding(process::run(&mut command, what, log))?;
            let output = files::text_or_empty(log)?;
            let mut remarks: Vec<_> = output[before..].lines().map(String::from).collect();
            if remarks.is_empty() {
                remarks.extend(error);
            }
            let name = page.file_name().unwrap_or_default().to_string_lossy();
            found.extend(remarks.iter().map(|remark| format!("{name}: {remark}")));
        }
    }
    Ok(found)
}

/// The directory of this project's pages.
pub(super) fn directory() -> Result<PathBuf> {
    Ok(paths::workspace_dir()?.join("docs/man"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{needs, packages};

    /// The findings in the page of the bound vCPUs with `more` lines at its end.
    fn found(more: &str) -> Vec<String> {
        packages::ensure(needs::MAN).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let page = fs::read_to_string(directory().unwrap().join("kvm_bind.2")).unwrap();
        let pages = dir.path().join("pages");
        fs::create_dir(&pages).unwrap();
        fs::write(pages.join("kvm_bind.2"), page + more).unwrap();
        lint(&pages, &dir.path().join("log")).unwrap()
    }

    #[test]
    fn the_pages_have_no_remarks() {
        packages::ensure(needs::MAN).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let found = lint(&directory().unwrap(), &dir.path().join("log")).unwrap();
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn man_finds_an_undefined_string() {
        let found = found("\\*[none]\n");
        assert!(
            found.iter().any(|it| it.contains("'none' not defined")),
            "{found:?}"
        );
    }

    #[test]
    fn mandoc_finds_an_invalid_font() {
        let found = found("\\fZtext\n");
        assert!(
            found.iter().any(|it| it.contains("invalid escape")),
            "{found:?}"
        );
    }

    #[test]
    fn no_pages_are_a_finding() {
        let dir = tempfile::tempdir().unwrap();
        let pages = dir.path().join("pages");
        fs::create_dir(&pages).unwrap();
        let found = lint(&pages, &dir.path().join("log")).unwrap();
        assert_eq!(found, [format!("no pages in {}", pages.display())]);
    }
}
