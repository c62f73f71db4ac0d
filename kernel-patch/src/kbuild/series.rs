//! The patch series.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::digest;
use super::error::{BuildError, Result};
use crate::host::{HostError, IoContext, files, process};

/// The beginning of a file's diff in git's format.
const HEADER: &str = "diff --git a/";

/// Patches in the order of their numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    pub(crate) patches: Vec<Patch>,
}

#[derive(Clone, Debug)]
pub(crate) struct Patch {
    /// Its file name.
    pub(crate) name: String,
    diffs: Vec<Diff>,
}

/// The changes of one patch to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Diff {
    file: String,
    text: String,
}

impl Series {
    /// Reads the patches of a directory, without the cover letter.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let mut series = Self::default();
        for path in patch_files(dir)? {
            series.push(&path)?;
        }
        if series.patches.is_empty() {
            return Err(BuildError::NoPatches(dir.into()));
        }
        Ok(series)
    }

    /// Adds the patch in a file.
    pub(crate) fn push(&mut self, path: &Path) -> Result<()> {
        let text = files::text(path)?;
        let name = path.file_name().unwrap_or_default();
        self.patches.push(Patch {
            name: name.to_string_lossy().into_owned(),
            diffs: diffs(&text),
        });
        Ok(())
    }

    /// An identifier of the changes, regardless of messages and dates; `stock` for none.
    pub(crate) fn id(&self) -> String {
        if self.patches.is_empty() {
            return "stock".into();
        }
        let diffs = self.patches.iter().flat_map(|patch| &patch.diffs);
        digest::short(diffs.map(|diff| &diff.text))
    }

    /// The files that it changes, makes or removes.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let files = self.patches.iter().flat_map(Patch::files);
        files.map(String::from).collect()
    }

    /// Copies the files that it changes, as far as they exist.
    pub(crate) fn copy_files(&self, from: &Path, to: &Path) -> Result<()> {
        for file in self.files() {
            files::copy(&from.join(&file), &to.join(&file))?;
        }
        Ok(())
    }

    /// Applies the series in `dir`, which needs only the files that it changes. Applies one
    /// file at a time, to be able to name the one that fails.
    pub(crate) fn apply(&self, dir: &Path) -> Result<()> {
        let (input, output) = (dir.join(".diff"), dir.join(".log"));
        for patch in &self.patches {
            for diff in &patch.diffs {
                fs::write(&input, &diff.text).cannot("write", &input)?;
                let mut command = Command::new("patch");
                command
                    .args(["--strip=1", "--fuzz=0", "--batch", "--forward"])
                    .args(["--no-backup-if-mismatch", "--reject-file=-"])
                    .arg("--directory")
                    .arg(dir)
                    .arg("--input")
                    .arg(&input);
                match process::run(&mut command, "patch", &output) {
                    Err(HostError::ToolFailed { .. }) => {
                        return Err(BuildError::PatchFailed {
                            patch: patch.name.clone(),
                            file: diff.file.clone(),
                            detail: process::tail(&output, 10),
                        });
                    }
                    other => other?,
                }
                fs::remove_file(&output).cannot("remove", &output)?;
            }
        }
        Ok(())
    }
}

impl Patch {
    /// The files that it changes, makes or removes.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.diffs.iter().map(|diff| diff.file.as_str())
    }
}

/// The files of a directory with patches, in their order, without the cover letter.
pub(crate) fn patch_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = files::list(dir)?;
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".patch") && !name.starts_with("0000-")
    });
    Ok(paths)
}

/// Splits a patch into its files.
fn diffs(text: &str) -> Vec<Diff> {
    // The mail's signature is not part of the last file's diff.
    let text = text.rsplit_once("\n-- \n").map_or(text, |(body, _)| body);
    let mut diffs: Vec<Diff> = Vec::new();
    for line in text.lines() {
        let header = line.strip_prefix(HEADER);
        if let Some((_, file)) = header.and_then(|it| it.split_once(" b/")) {
            diffs.push(Diff {
                file: file.into(),
                text: String::new(),
            });
        }
        // The mail's text comes before the first file.
        if let Some(diff) = diffs.last_mut() {
            diff.text.push_str(line);
            diff.text.push('\n');
        }
    }
    diffs
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "\
From 0 Mon Sep 17 00:00:00 2001
Subject: [PATCH 1/2] KVM: Change two files

Prose.
---
 old | 2 +-
 new | 1 +

diff --git a/dir/old b/dir/old
--- a/dir/old
+++ b/dir/old
@@ -1,2 +1,2 @@
 one
-two
+zwei
diff --git a/new b/new
new file mode 100755
--- /dev/null
+++ b/new
@@ -0,0 +1 @@
+fresh
-- \n2.39.5
";

    const SECOND: &str = "\
diff --git a/dir/old b/dir/old
--- a/dir/old
+++ b/dir/old
@@ -1,2 +1,2 @@
-one
+eins
 zwei
";

    fn series(patches: &[(&str, &str)]) -> Series {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("0000-cover-letter.patch"), "prose").unwrap();
        for (name, text) in patches {
            fs::write(dir.path().join(name), text).unwrap();
        }
        Series::read(dir.path()).unwrap()
    }

    fn tree(old: &str) -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("dir")).unwrap();
        fs::write(tree.path().join("dir/old"), old).unwrap();
        tree
    }

    #[test]
    fn applies_in_order() {
        let series = series(&[("0002-b.patch", SECOND), ("0001-a.patch", FIRST)]);
        assert_eq!(series.files(), ["dir/old", "new"].map(String::from).into());
        let tree = tree("one\ntwo\n");
        series.apply(tree.path()).unwrap();
        let read = |name| fs::read_to_string(tree.path().join(name)).unwrap();
        assert_eq!(
            (read("dir/old").as_str(), read("new").as_str()),
            ("eins\nzwei\n", "fresh\n")
        );
    }

    #[test]
    fn a_failure_names_patch_and_file() {
        let series = series(&[("0001-a.patch", FIRST), ("0002-b.patch", SECOND)]);
        let error = series
            .apply(tree("one\ntwo and a half\n").path())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("0001-a.patch does not apply to dir/old:\n"),
            "{error}"
        );
        assert!(error.contains("Hunk #1 FAILED at 1."), "{error}");
        let empty = tempfile::tempdir().unwrap();
        let error = series.apply(empty.path()).unwrap_err().to_string();
        assert!(
            error.starts_with("0001-a.patch does not apply to dir/old:\n"),
            "{error}"
        );
    }

    #[test]
    fn the_id_depends_only_on_the_changes() {
        let id = series(&[("0001-a.patch", FIRST)]).id();
        assert_eq!(id.len(), 12);
        let prose = FIRST.replace("Prose.", "Other prose.");
        assert_eq!(id, series(&[("0001-a.patch", &prose)]).id());
        let change = FIRST.replace("zwei", "deux");
        assert_ne!(id, series(&[("0001-a.patch", &change)]).id());
        assert_eq!(Series::default().id(), "stock");
    }

    #[test]
    fn no_patches_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Series::read(dir.path()),
            Err(BuildError::NoPatches(_))
        ));
    }
}
