//! The unpacked source with a series applied.
//!
//! A change of the series writes only the files that differ, so that make rebuilds only
//! those. The next run repairs an interrupted change: the tree lists the files before it
//! changes them, and names the series after that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use similar::{ChangeTag, TextDiff};
use tempfile::TempDir;

use super::error::Result;
use crate::host::{IoContext, files, paths, process};
use crate::kbuild::base::Base;
use crate::kbuild::series::Series;
use crate::kbuild::source::Source;

/// A source tree. It contains its build directories, whose names begin with [`BUILD`]:
/// the kernel's make then calls the sources `..`, and a build does not depend on the path
/// of the tree.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
}

/// The beginning of a build directory's name.
pub(crate) const BUILD: &str = "build";

/// The directory, at the top of the tree, of the files that describe it.
const STATE: &str = ".kernel-patch";
const SOURCE: &str = "source";
const SERIES: &str = "series";
const TOUCHED: &str = "touched";
const PRISTINE: &str = "pristine";

impl Tree {
    /// The tree `name` of a base, unpacked or not.
    pub(crate) fn of(base: Base, name: &str) -> Result<Self> {
        let dir = format!("linux-{}-{name}", base.version());
        let root = paths::work_dir()?.join(dir);
        Ok(Self { root })
    }

    /// The source that the tree was made from, if it exists.
    pub(crate) fn source(&self) -> Result<Option<Source>> {
        let content = files::read(&self.state(SOURCE))?;
        Ok(content.and_then(|json| serde_json::from_slice(&json).ok()))
    }

    /// Makes the tree from a source.
    pub(crate) fn unpack(&self, source: &Source) -> Result<()> {
        files::remove(&self.root)?;
        source.unpack(&self.root)?;
        self.set_source(source)
    }

    /// Makes the tree from another one. The files are hard links until one is changed.
    pub(crate) fn link(&self, other: &Self, source: &Source) -> Result<()> {
        files::remove(&self.root)?;
        let skip = |name: &str| name.starts_with(BUILD);
        let scratch = paths::scratch()?;
        let tree = scratch.path().join("linux");
        files::replicate(&other.root, &tree, skip, |from, to| fs::hard_link(from, to))?;
        let state = tree.join(STATE);
        fs::remove_file(state.join(SOURCE)).cannot("remove", &state)?;
        fs::rename(&tree, &self.root).cannot("make", &self.root)?;
        self.set_source(source)
    }

    /// Gives the tree the source with `series` applied.
    pub(crate) fn apply(&self, series: &Series) -> Result<()> {
        let id = series.id();
        if files::has(&self.state(SERIES), id.as_bytes())? {
            return Ok(());
        }
        let before = self.touched()?;
        let after = series.files();
        for file in after.difference(&before) {
            self.save(file)?;
        }
        let scratch = self.patched(series)?;

        let both: BTreeSet<_> = before.union(&after).cloned().collect();
        self.set_touched(&both)?;
        for file in &both {
            let wanted = if after.contains(file) {
                scratch.path().join(file)
            } else {
                self.pristine(file)
            };
            self.put(file, &wanted)?;
        }
        files::write(&self.state(SERIES), id.as_bytes())?;
        self.set_touched(&after)
    }

    /// Applies `series` to copies of the source's files.
    pub(crate) fn patched(&self, series: &Series) -> Result<TempDir> {
        let scratch = paths::scratch()?;
        let touched = self.touched()?;
        for file in series.files() {
            // The tree still has a file as in the source unless it has applied a change.
            let from = if touched.contains(&file) {
                self.pristine(&file)
            } else {
                self.root.join(&file)
            };
            files::copy(&from, &scratch.path().join(&file))?;
        }
        series.apply(scratch.path())?;
        Ok(scratch)
    }

    /// The lines of each file that the source does not have.
    pub(crate) fn added_lines(&self) -> Result<BTreeMap<PathBuf, BTreeSet<u32>>> {
        let mut added = BTreeMap::new();
        for file in self.touched()? {
            let old = files::text_or_empty(&self.pristine(&file))?;
            let new = files::text_or_empty(&self.root.join(&file))?;
            let diff = TextDiff::from_lines(&old, &new);
            let lines = diff.iter_all_changes().filter_map(|change| {
                let index = change
                    .new_index()
                    .filter(|_| change.tag() == ChangeTag::Insert);
                Some(index? as u32 + 1)
            });
            added.insert(file.into(), lines.collect());
        }
        Ok(added)
    }

    fn state(&self, name: &str) -> PathBuf {
        self.root.join(STATE).join(name)
    }

    /// The path of the source's version of a file that a series can have changed. It does
    /// not exist if the source has no such file.
    fn pristine(&self, file: &str) -> PathBuf {
        self.state(PRISTINE).join(file)
    }

    fn set_source(&self, source: &Source) -> Result<()> {
        let json = serde_json::to_vec(source).expect("a path and a text become JSON");
        Ok(files::write(&self.state(SOURCE), &json)?)
    }

    fn touched(&self) -> Result<BTreeSet<String>> {
        let touched = files::text_or_empty(&self.state(TOUCHED))?;
        Ok(touched.lines().map(String::from).collect())
    }

    fn set_touched(&self, touched: &BTreeSet<String>) -> Result<()> {
        let lines: String = touched.iter().map(|file| format!("{file}\n")).collect();
        Ok(files::write(&self.state(TOUCHED), lines.as_bytes())?)
    }

    fn save(&self, file: &str) -> Result<()> {
        Ok(files::copy(&self.root.join(file), &self.pristine(file))?)
    }

    /// Gives a file of the tree the content of `wanted`, or removes it.
    fn put(&self, file: &str, wanted: &Path) -> Result<()> {
        let path = self.root.join(file);
        let (old, new) = (files::read(&path)?, files::read(wanted)?);
        if old == new {
            return Ok(());
        }
        let Some(new) = new else {
            return Ok(fs::remove_file(&path).cannot("remove", &path)?);
        };
        files::write(&path, &new)?;
        if old.is_none() {
            // Scripts of the series are executable.
            let permissions = fs::metadata(wanted).map(|it| it.permissions());
            let set = permissions.and_then(|it| fs::set_permissions(&path, it));
            set.cannot("write", &path)?;
        }
        Ok(())
    }
}

/// The file in a build directory that describes the last complete build.
pub(crate) fn stamp(build: &Path) -> PathBuf {
    build.join(STATE)
}

/// Copies a build directory to `to`, which does not exist before it is complete, so that
/// make builds only what differs.
pub(crate) fn seed(from: &Path, to: &Path, scratch: &Path) -> Result<()> {
    let copy = scratch.join(BUILD);
    let mut cp = Command::new("cp");
    cp.args(["--archive", "--reflink=auto"]);
    process::run(
        cp.arg(from).arg(&copy),
        "cp",
        &paths::logs()?.join("seed.log"),
    )?;
    Ok(fs::rename(&copy, to).cannot("make", to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(diff: &str) -> Series {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("0001-a.patch"), diff).unwrap();
        Series::read(dir.path()).unwrap()
    }

    fn change(file: &str, to: &str) -> String {
        format!(
            "diff --git a/{file} b/{file}\n--- a/{file}\n+++ b/{file}\n@@ -1 +1 @@\n-old\n+{to}\n"
        )
    }

    fn make(file: &str) -> String {
        format!(
            "diff --git a/{file} b/{file}\nnew file mode 100644\n--- /dev/null\n+++ b/{file}\n@@ -0,0 +1 @@\n+made\n"
        )
    }

    fn tree(dir: &tempfile::TempDir) -> Tree {
        for file in ["a", "b", "c"] {
            fs::write(dir.path().join(file), "old\n").unwrap();
        }
        let root = dir.path().into();
        Tree { root }
    }

    fn contents(dir: &tempfile::TempDir) -> Vec<String> {
        ["a", "b", "c", "d/e"]
            .map(|file| fs::read_to_string(dir.path().join(file)).unwrap_or_default())
            .map(|text| text.trim().to_owned())
            .into()
    }

    #[test]
    fn from_one_series_to_another_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let tree = tree(&dir);
        tree.apply(&series(&(change("a", "new") + &make("d/e"))))
            .unwrap();
        assert_eq!(contents(&dir), ["new", "old", "old", "made"]);
        let untouched = fs::metadata(dir.path().join("a"))
            .unwrap()
            .modified()
            .unwrap();
        tree.apply(&series(&(change("a", "new") + &change("b", "new"))))
            .unwrap();
        assert_eq!(contents(&dir), ["new", "new", "old", ""]);
        let now = fs::metadata(dir.path().join("a"))
            .unwrap()
            .modified()
            .unwrap();
        assert_eq!(untouched, now);
        tree.apply(&Series::default()).unwrap();
        assert_eq!(contents(&dir), ["old", "old", "old", ""]);
    }

    #[test]
    fn added_lines_are_those_that_the_source_lacks() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "old\n2\n3\n4\n5\n").unwrap();
        let root = dir.path().into();
        let tree = Tree { root };
        let diff = "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1,5 +1,6 @@\n\
            -old\n+first\n+second\n 2\n-3\n 4\n 5\n+last\n";
        tree.apply(&series(&(diff.to_owned() + &make("d/e"))))
            .unwrap();
        let expected = [("a".into(), [1, 2, 6].into()), ("d/e".into(), [1].into())];
        assert_eq!(tree.added_lines().unwrap(), expected.into());
    }

    #[test]
    fn an_interrupted_change_is_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let tree = tree(&dir);
        tree.apply(&series(&change("a", "new"))).unwrap();
        // As if the next series had been interrupted between two files.
        tree.save("b").unwrap();
        tree.set_touched(&["a", "b", "d/e"].map(String::from).into())
            .unwrap();
        fs::write(dir.path().join("b"), "half").unwrap();
        files::write(&dir.path().join("d/e"), b"half").unwrap();
        tree.apply(&series(&change("c", "new"))).unwrap();
        assert_eq!(contents(&dir), ["old", "old", "new", ""]);
    }

    #[test]
    fn a_series_that_fails_leaves_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        let tree = tree(&dir);
        tree.apply(&series(&change("a", "new"))).unwrap();
        tree.apply(&series(&(change("b", "new") + &make("c"))))
            .unwrap_err();
        assert_eq!(contents(&dir), ["new", "old", "old", ""]);
    }
}
