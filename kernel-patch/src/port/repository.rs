//! A git repository with a source, the series on top of it, and another source.

use std::fs;
use std::path::Path;

use super::error::{PortError, Result};
use crate::host::git::Git;
use crate::host::{IoContext, Progress, files, needs, packages, paths, process};
use crate::kbuild::{Series, Source, series, source};

/// The tag of the source that the series is for.
pub(super) const BASE: &str = "base";

/// The branch of the series.
pub(super) const SERIES: &str = "series";

/// The tag of the source to move to.
pub(super) const ONTO: &str = "onto";

/// The branch of the series as far as git can move it.
pub(super) const MOVED: &str = "moved";

/// The result of a commit that git applied on another one.
pub(super) enum Picked {
    /// The commit applies.
    Clean,
    /// The commit changes nothing any more.
    Empty,
    /// Files have conflicts, and contain their marks.
    Conflicts(Vec<String>),
}

pub(super) struct Repository {
    git: Git,
}

impl Repository {
    /// Makes a repository of the source, with each patch in `dir` as a commit. Leaves nothing
    /// behind if it fails.
    pub(super) fn import(root: &Path, source: &Source, dir: &Path) -> Result<Self> {
        if root.exists() {
            return Err(PortError::Exists(root.into()));
        }
        packages::ensure(needs::GIT)?;
        let this = Self::at(root)?;
        if let Err(error) = this.fill(source, dir) {
            files::remove(&this.git.root)?;
            return Err(error);
        }
        Ok(this)
    }

    fn fill(&self, source: &Source, dir: &Path) -> Result<()> {
        let series = Series::read(dir)?;
        source.unpack(&self.git.root)?;
        let _progress = Progress::ours("making a git repository of the source and the series");
        self.git.init(SERIES, BASE)?;
        self.git.run(&["tag", BASE])?;
        for patch in &series.patches {
            let path = dir.join(&patch.name);
            self.git.run(&["am", "--quiet", &path.to_string_lossy()])?;
        }
        Ok(())
    }

    /// Opens a repository that was imported.
    pub(super) fn open(root: &Path) -> Result<Self> {
        packages::ensure(needs::GIT)?;
        let this = Self::at(root)?;
        for commit in [BASE, SERIES] {
            let verify = ["rev-parse", "--quiet", "--verify", commit];
            if !this.git.succeeds(&verify)? {
                return Err(PortError::NotImported(root.into(), commit));
            }
        }
        Ok(this)
    }

    fn at(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).cannot("find", root)?;
        Ok(Self {
            git: Git::new(root, paths::new_log("port.log")?),
        })
    }

    /// Commits another source, a tree or a tarball, after the first one: git then knows
    /// which files were renamed in between. Checks it out as the branch [`MOVED`].
    pub(super) fn add_source(&self, path: &Path) -> Result<()> {
        let path = fs::canonicalize(path).cannot("find", path)?;
        let scratch = paths::scratch()?;
        let tree = scratch.path().join("linux");
        source::unpack(&path, &tree)?;
        let _progress = Progress::ours("adding the other source to the repository");
        let index = scratch.path().join("index");
        let on_tree = |args: &[&str]| {
            let mut command = self.git.command();
            command.env("GIT_INDEX_FILE", &index);
            command.arg("--work-tree").arg(&tree).args(args);
            process::stdout(&mut command, "git")
        };
        on_tree(&["add", "--all", "--force"])?;
        let content = on_tree(&["write-tree"])?;
        let commit = ["commit-tree", "-p", BASE, "-m", ONTO, content.trim()];
        let commit = self.git.output(&commit)?;
        self.git.run(&["tag", "--force", ONTO, &commit])?;
        let checkout = ["checkout", "--quiet", "--force", "-B", MOVED, ONTO];
        Ok(self.git.run(&checkout)?)
    }

    /// The commits of the series, with their subjects.
    pub(super) fn commits(&self) -> Result<Vec<(String, String)>> {
        let range = format!("{BASE}..{SERIES}");
        let log = ["log", "--reverse", "--format=%H %s", &range];
        let list = self.git.output(&log)?;
        let lines = list.lines().filter_map(|line| line.split_once(' '));
        Ok(lines
            .map(|(id, subject)| (id.into(), subject.into()))
            .collect())
    }

    /// Whether the commit's diff applies to the files as they are checked out.
    pub(super) fn applies(&self, commit: &str) -> Result<bool> {
        let scratch = paths::scratch()?;
        let diff = scratch.path().join("diff");
        let output = format!("--output={}", diff.display());
        self.git.run(&["show", "--format=", &output, commit])?;
        let diff = diff.to_string_lossy();
        Ok(self.git.succeeds(&["apply", "--check", "--index", &diff])?)
    }

    /// Applies a commit by a three-way merge, or leaves its conflicts in the files.
    pub(super) fn pick(&self, commit: &str) -> Result<Picked> {
        let pick = ["cherry-pick", "--allow-empty", commit];
        if self.git.succeeds(&pick)? {
            return Ok(Picked::Clean);
        }
        let unmerged = ["diff", "--name-only", "--diff-filter=U"];
        let files = self.git.output(&unmerged)?;
        let files: Vec<_> = files.lines().map(String::from).collect();
        if files.is_empty() {
            self.git.run(&["cherry-pick", "--skip"])?;
            return Ok(Picked::Empty);
        }
        Ok(Picked::Conflicts(files))
    }

    /// Applies a commit with the commit's side of each conflict, so that the next commits
    /// find the lines that they change.
    pub(super) fn force(&self, commit: &str) -> Result<()> {
        self.git.run(&["cherry-pick", "--abort"])?;
        let pick = ["cherry-pick", "-X", "theirs", commit];
        if !self.git.succeeds(&pick)? {
            // A file was removed on one side.
            self.git.run(&["add", "--all"])?;
            let go_on = ["-c", "core.editor=true", "cherry-pick", "--continue"];
            self.git.run(&go_on)?;
        }
        Ok(())
    }

    /// A file as it is checked out; empty if there is none.
    pub(super) fn text(&self, file: &str) -> Result<String> {
        Ok(files::text_or_empty(&self.git.root.join(file))?)
    }

    /// The files of the other source that contain a line, apart from blanks at its ends.
    pub(super) fn files_with(&self, line: &str, below: &[&str]) -> Result<Vec<String>> {
        // git grep fails if it finds nothing.
        let grep = ["grep", "--fixed-strings", "--files-with-matches", "-e"];
        let grep = [&grep[..], &[line, ONTO, "--"], below].concat();
        let output = self.git.output(&grep)?;
        let files = output.lines().filter_map(|it| it.split_once(':'));
        Ok(files.map(|(_, file)| file.into()).collect())
    }

    /// Writes the commits since the source into `dir`, in the form that patches are kept
    /// in, in place of those that are there. The cover letter stays.
    pub(super) fn export(&self, dir: &Path) -> Result<()> {
        for path in series::patch_files(dir)? {
            fs::remove_file(&path).cannot("remove", &path)?;
        }
        let dir = dir.to_string_lossy();
        Ok(self.git.run(&[
            "format-patch",
            "--quiet",
            "--zero-commit",
            "--no-signature",
            "--abbrev=9",
            "--output-directory",
            &dir,
            BASE,
        ])?)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;
    use crate::kbuild::base::Base;

    fn run(root: &Path, args: &[&str]) {
        let mut git = process::git();
        let output = git.arg("-C").arg(root).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    fn lines(range: std::ops::RangeInclusive<u32>) -> String {
        range
            .map(|n| format!("a line with the number {n}\n"))
            .collect()
    }

    /// A repository as `import` makes it: three commits that change `moving`, `steady` and
    /// `rewritten`.
    fn imported(dir: &Path) -> Repository {
        let root = dir.join("linux");
        fs::create_dir(&root).unwrap();
        run(&root, &["init", "--quiet", "--initial-branch", SERIES]);
        for name in ["moving", "steady", "rewritten"] {
            fs::write(root.join(name), lines(1..=30)).unwrap();
        }
        run(&root, &["add", "--all"]);
        run(&root, &["commit", "--quiet", "--message", BASE]);
        run(&root, &["tag", BASE]);
        for name in ["moving", "steady", "rewritten"] {
            let changed = lines(1..=30).replace("number 15\n", "number 15, changed\n");
            fs::write(root.join(name), changed).unwrap();
            run(&root, &["commit", "--quiet", "--all", "--message", name]);
        }
        Repository::open(&root).unwrap()
    }

    /// Another source: `moving` is renamed, and `rewritten` has line 15 elsewhere.
    fn other(dir: &Path) -> PathBuf {
        let other = dir.join("other.tar");
        let tree = dir.join("linux-9");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("renamed"), lines(1..=30)).unwrap();
        fs::write(tree.join("steady"), lines(1..=30)).unwrap();
        let rewritten = lines(1..=30).replace("number 15\n", "number 15, rewritten\n");
        fs::write(tree.join("rewritten"), rewritten).unwrap();
        let mut tar = Command::new("tar");
        tar.arg("--create").arg("--file").arg(&other);
        tar.arg("--directory").arg(dir).arg("linux-9");
        assert!(tar.status().unwrap().success());
        other
    }

    #[test]
    fn each_patch_is_tried_on_the_other_source() {
        let dir = tempfile::tempdir().unwrap();
        let repository = imported(dir.path());
        repository.add_source(&other(dir.path())).unwrap();
        let commits = repository.commits().unwrap();
        let subjects: Vec<_> = commits
            .iter()
            .map(|(_, subject)| subject.as_str())
            .collect();
        assert_eq!(subjects, ["moving", "steady", "rewritten"]);
        let [moving, steady, rewritten] = [0, 1, 2].map(|n: usize| commits[n].0.as_str());

        assert!(!repository.applies(moving).unwrap());
        assert!(matches!(repository.pick(moving).unwrap(), Picked::Clean));
        assert!(repository.text("renamed").unwrap().contains("15, changed"));

        assert!(repository.applies(steady).unwrap());
        assert!(matches!(repository.pick(steady).unwrap(), Picked::Clean));
        assert!(matches!(repository.pick(steady).unwrap(), Picked::Empty));

        match repository.pick(rewritten).unwrap() {
            Picked::Conflicts(files) => assert_eq!(files, ["rewritten"]),
            _ => panic!("there are conflicts"),
        }
        repository.force(rewritten).unwrap();
        assert!(
            repository
                .text("rewritten")
                .unwrap()
                .contains("15, changed")
        );
        let found = repository.files_with("number 14", &["."]).unwrap();
        assert_eq!(found, ["renamed", "rewritten", "steady"]);
    }

    #[test]
    fn the_commits_become_patches() {
        let dir = tempfile::tempdir().unwrap();
        let repository = imported(dir.path());
        let patches = dir.path().join("patches");
        fs::create_dir(&patches).unwrap();
        fs::write(patches.join("0000-cover-letter.patch"), "kept").unwrap();
        fs::write(patches.join("0009-gone.patch"), "old").unwrap();
        repository.export(&patches).unwrap();
        let names: Vec<_> = files::list(&patches).unwrap();
        let names: Vec<_> = names.iter().map(|it| it.file_name().unwrap()).collect();
        let expected = [
            "0000-cover-letter.patch",
            "0001-moving.patch",
            "0002-steady.patch",
            "0003-rewritten.patch",
        ];
        assert_eq!(names, expected);
        let first = fs::read_to_string(patches.join("0001-moving.patch")).unwrap();
        assert!(first.starts_with("From 0000000000"), "{first}");
        assert!(!first.contains("\n-- \n"), "{first}");
    }

    #[test]
    fn an_import_that_fails_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("source");
        fs::create_dir(&tree).unwrap();
        let makefile = "VERSION = 6\nPATCHLEVEL = 12\nmrproper:\n";
        fs::write(tree.join("Makefile"), makefile).unwrap();
        let patches = dir.path().join("patches");
        fs::create_dir(&patches).unwrap();
        let patch = "From 0 Mon Sep 17 00:00:00 2001\nFrom: A <a@b.example>\nSubject: [PATCH] A\n\n\
                     ---\ndiff --git a/gone b/gone\n--- a/gone\n+++ b/gone\n@@ -1 +1 @@\n-a\n+b\n";
        fs::write(patches.join("0001-a.patch"), patch).unwrap();
        let source = Source::find(&tree, Base::V6_12).unwrap();
        let root = dir.path().join("linux");
        assert!(Repository::import(&root, &source, &patches).is_err());
        assert!(!root.exists());
    }

    #[test]
    fn a_directory_that_was_not_imported_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), &["init", "--quiet"]);
        let error = Repository::open(dir.path()).err().unwrap().to_string();
        assert!(
            error.ends_with("make the repository with kernel-patch import"),
            "{error}"
        );
    }
}
