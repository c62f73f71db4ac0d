//! The documentation: sphinx on the files that the series changes, and kernel-doc on their
//! comments.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::{Result, finding};
use super::warnings::{Known, Warnings};
use crate::host::{IoContext, Progress, files, process};
use crate::kbuild::{BUILD, Make, Patch};

/// The directory of the documentation in the source.
const DOCUMENTATION: &str = "Documentation/";

/// The documentation of a series.
pub(super) struct Docs {
    /// The directories that sphinx reads.
    books: String,
    build: PathBuf,
    known: Known,
}

impl Docs {
    /// Finds the documentation that the patches change.
    pub(super) fn new(tree: &Path, patches: &[Patch]) -> Self {
        let files = patches.iter().flat_map(Patch::files);
        let books: BTreeSet<_> = files.filter_map(book).collect();
        Self {
            books: Vec::from_iter(books).join(" "),
            build: tree.join(format!("{BUILD}-docs")),
            known: Known::default(),
        }
    }

    /// Reads the files that `patch` changes. Returns the remarks that were not there when
    /// they were last read.
    pub(super) fn read(
        &mut self,
        tree: &Path,
        patch: &Patch,
        log: &Path,
        what: &str,
    ) -> Result<Vec<String>> {
        let _ = fs::remove_file(log);
        let mut error = None;
        if patch.files().any(|file| book(file).is_some()) {
            error = finding(self.sphinx(tree, log, what))?;
        }
        let sources = patch
            .files()
            .filter(|it| it.ends_with(".c") || it.ends_with(".h"));
        let sources: Vec<_> = sources.filter(|it| tree.join(it).exists()).collect();
        if !sources.is_empty() {
            let mut command = process::tool("perl");
            command.args(["scripts/kernel-doc", "-none"]).args(sources);
            let result = process::run(command.current_dir(tree), "kernel-doc", log);
            error = error.or(finding(result)?);
        }
        let warnings = Warnings::read(&files::text_or_empty(log)?);
        let new = warnings.new_to(&self.known).map(String::from);
        let found = error.into_iter().chain(new).collect();
        self.known.learn(&warnings);
        Ok(found)
    }

    fn sphinx(&self, tree: &Path, log: &Path, what: &str) -> Result<()> {
        // sphinx does not repeat remarks about a file.
        files::remove(&self.build)?;
        fs::create_dir(&self.build).cannot("make", &self.build)?;
        let args = [
            format!("SPHINXDIRS={}", self.books),
            "SPHINXBUILD=/usr/bin/sphinx-build".into(),
            "PYTHON3=/usr/bin/python3".into(),
        ];
        let make = Make {
            tree,
            build: &self.build,
            arch: "x86_64",
            args: &args,
            log: log.into(),
            progress: Progress::ours(format!("{what}: building the documentation")),
        };
        Ok(make.run("htmldocs")?)
    }
}

/// The directory that sphinx has to read for a file: the file's own, which has an index.
fn book(file: &str) -> Option<&str> {
    let inside = file.strip_prefix(DOCUMENTATION)?.strip_suffix(".rst")?;
    Some(inside.rsplit_once('/')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_book_is_its_directory() {
        assert_eq!(
            book("Documentation/virt/kvm/syscalls.rst"),
            Some("virt/kvm")
        );
        assert_eq!(book("Documentation/virt/kvm/x.txt"), None);
        assert_eq!(book("tools/x.rst"), None);
    }
}
