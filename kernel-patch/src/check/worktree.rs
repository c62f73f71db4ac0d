//! A git repository with the source, and the patches as commits on top of it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::error::{Result, finding};
use crate::host::git::Git;
use crate::host::{IoContext, Progress, files, needs, packages, process};
use crate::kbuild::{BUILD, Series, Source};

/// The file that marks a complete repository.
const STAMP: &str = ".git/kernel-patch";

/// The first commit.
const PRISTINE: &str = "pristine";

/// The file with the options of the calls.
const KCONFIG: &str = "virt/kvm/Kconfig";

/// The option that an architecture selects if it has numbers for the calls.
const OFFER: &str = "config HAVE_KVM_SYSCALLS\n       bool\n";

/// The same option, set for x86-64 before a patch selects it.
const OFFERED: &str = "config HAVE_KVM_SYSCALLS\n       def_bool X86_64\n";

/// The option that builds the calls.
const SYSCALLS: &str = "config KVM_SYSCALLS\n";

/// A git repository with the source.
pub(super) struct Worktree {
    git: Git,
}

impl Worktree {
    /// Opens the repository at `root`, at the first commit. Makes it again if it has another
    /// source, or if git cannot restore it.
    pub(super) fn prepare(root: PathBuf, source: &Source, log: PathBuf) -> Result<Self> {
        packages::ensure(needs::GIT)?;
        let this = Self {
            git: Git::new(root, log),
        };
        let wanted = format!("{source:?}");
        if files::has(&this.root().join(STAMP), wanted.as_bytes())?
            && finding(this.restore())?.is_none()
        {
            return Ok(this);
        }
        files::remove(this.root())?;
        source.unpack(this.root())?;
        let _progress = Progress::ours("making a git repository of the source");
        this.git.init(PRISTINE, PRISTINE)?;
        let exclude = format!("/{BUILD}-*\n");
        files::write(&this.root().join(".git/info/exclude"), exclude.as_bytes())?;
        files::write(&this.root().join(STAMP), wanted.as_bytes())?;
        Ok(this)
    }

    pub(super) fn root(&self) -> &Path {
        &self.git.root
    }

    /// Removes what an interrupted run has left, and checks the first commit out.
    fn restore(&self) -> Result<()> {
        // The process that made it is dead, because this one holds the directory's lock.
        let _ = fs::remove_file(self.root().join(".git/index.lock"));
        files::remove(&self.root().join(".git/rebase-apply"))?;
        let _progress = Progress::ours("restoring the source");
        self.git
            .run(&["checkout", "--quiet", "--force", PRISTINE])?;
        let builds = format!("/{BUILD}-*");
        Ok(self.git.run(&["clean", "-ffdxq", "--exclude", &builds])?)
    }

    /// Applies the patches with git am, as a maintainer would, until one does not apply.
    /// Returns the commits, the source's first.
    pub(super) fn apply(
        &self,
        patches: &[PathBuf],
        log: impl Fn(usize) -> PathBuf,
    ) -> Result<Vec<String>> {
        let _progress = Progress::ours("applying the patches with git am");
        self.checkout(PRISTINE)?;
        let mut commits = vec![self.head()?];
        for (patch, number) in patches.iter().zip(1..) {
            let mut command = self.git.command();
            command.args(["am", "--quiet"]).arg(patch);
            if finding(process::run(&mut command, "git am", &log(number)))?.is_some() {
                self.git.run(&["am", "--abort"])?;
                break;
            }
            commits.push(self.head()?);
        }
        Ok(commits)
    }

    /// The times at which those of `files` that the source has were written.
    pub(super) fn written(&self, files: BTreeSet<String>) -> Result<Vec<(PathBuf, SystemTime)>> {
        let mut written = Vec::new();
        for path in files.iter().map(|file| self.root().join(file)) {
            match fs::metadata(&path).and_then(|it| it.modified()) {
                Ok(time) => written.push((path, time)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).cannot("read", &path)?,
            }
        }
        Ok(written)
    }

    /// Checks the first commit out again. With the times from before the patches, make
    /// compiles nothing again that it has compiled from the same files.
    pub(super) fn rewind(&self, written: Vec<(PathBuf, SystemTime)>) -> Result<()> {
        self.checkout(PRISTINE)?;
        self.set_times(&written)
    }

    /// Checks a commit out. The headers that it changes keep their times, so that make does
    /// not compile for their sake. It compiles `code`.
    pub(super) fn checkout_quietly(
        &self,
        commit: &str,
        headers: BTreeSet<String>,
        code: BTreeSet<String>,
    ) -> Result<()> {
        let headers = self.written(headers)?;
        self.checkout(commit)?;
        self.set_times(&headers)?;
        self.touch(code)
    }

    /// Gives the time of now to those of `files` that exist.
    pub(super) fn touch(&self, files: BTreeSet<String>) -> Result<()> {
        let mut written = self.written(files)?;
        for (_, time) in &mut written {
            *time = SystemTime::now();
        }
        self.set_times(&written)
    }

    fn set_times(&self, written: &[(PathBuf, SystemTime)]) -> Result<()> {
        for (path, time) in written {
            let file = File::options().append(true).open(path);
            let set = file.and_then(|file| file.set_modified(*time));
            set.cannot("write", path)?;
        }
        // Otherwise git takes the files for changed, and the next checkout writes all again.
        Ok(self.git.run(&["update-index", "-q", "--refresh"])?)
    }

    /// The identifiers of the trees of `commits`, which are the same in every check of the
    /// same patches.
    pub(super) fn trees(&self, commits: &[String]) -> Result<Vec<String>> {
        let trees = commits.iter().map(|commit| format!("{commit}^{{tree}}"));
        let trees: Vec<_> = trees.collect();
        let args = ["rev-parse"]
            .into_iter()
            .chain(trees.iter().map(String::as_str));
        let output = self.git.output(&args.collect::<Vec<_>>())?;
        Ok(output.lines().map(String::from).collect())
    }

    /// Checks a commit out.
    pub(super) fn checkout(&self, commit: &str) -> Result<()> {
        let checkout = ["checkout", "--quiet", "--force", "--detach", commit];
        Ok(self.git.run(&checkout)?)
    }

    /// Enables the calls on x86-64 from the patch on that adds them, not only from the one
    /// that assigns their numbers. Returns whether the calls exist.
    pub(super) fn offer(&self) -> Result<bool> {
        let path = self.root().join(KCONFIG);
        let text = files::text(&path)?;
        let x86 = files::text(&self.root().join("arch/x86/kvm/Kconfig"))?;
        if text.contains(OFFER) && !x86.contains("select HAVE_KVM_SYSCALLS") {
            files::write(&path, text.replace(OFFER, OFFERED).as_bytes())?;
        }
        Ok(text.contains(SYSCALLS))
    }

    /// The files of the series that differ from those that `patch`, which the other builds
    /// use, makes from the first commit.
    pub(super) fn differences(&self, series: &Series, pristine: &Path) -> Result<Vec<String>> {
        series.apply(pristine)?;
        let mut differ = Vec::new();
        for file in series.files() {
            if files::read(&self.root().join(&file))? != files::read(&pristine.join(&file))? {
                differ.push(file);
            }
        }
        Ok(differ)
    }

    fn head(&self) -> Result<String> {
        Ok(files::text(&self.root().join(".git/HEAD"))?.trim().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kbuild::base::Base;

    const PATCH: &str = "\
From 0 Mon Sep 17 00:00:00 2001
From: A <a@b.example>
Date: Mon, 23 Nov 2026 00:00:00 +0000
Subject: [PATCH 1/1] KVM: Change a file

Prose.
---
diff --git a/virt/kvm/Kconfig b/virt/kvm/Kconfig
--- a/virt/kvm/Kconfig
+++ b/virt/kvm/Kconfig
@@ -1 +1,5 @@
 # KVM
+config HAVE_KVM_SYSCALLS
+       bool
+
+config KVM_SYSCALLS
-- 
2.1
";

    struct Fixture {
        dir: tempfile::TempDir,
        worktree: Worktree,
        series: Series,
    }

    fn fixture(patch: &str) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        for (file, text) in [
            ("Makefile", "VERSION = 6\nPATCHLEVEL = 12\nmrproper:\n"),
            ("virt/kvm/Kconfig", "# KVM\n"),
            ("arch/x86/kvm/Kconfig", "# x86\n"),
            (".gitignore", "ignored\n"),
            ("ignored", "and there\n"),
        ] {
            files::write(&source.join(file), text.as_bytes()).unwrap();
        }
        let patches = dir.path().join("patches");
        files::write(&patches.join("0001-a.patch"), patch.as_bytes()).unwrap();
        let source = Source::find(&source, Base::V6_12).unwrap();
        let (root, log) = (dir.path().join("linux"), dir.path().join("log"));
        Fixture {
            worktree: Worktree::prepare(root, &source, log).unwrap(),
            series: Series::read(&patches).unwrap(),
            dir,
        }
    }

    impl Fixture {
        fn apply(&self) -> Vec<String> {
            let patch = self.dir.path().join("patches/0001-a.patch");
            let log = |_| self.dir.path().join("am.log");
            self.worktree.apply(&[patch], log).unwrap()
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.worktree.root().join(file)).unwrap_or_default()
        }
    }

    #[test]
    fn git_am_and_patch_agree() {
        let it = fixture(PATCH);
        let pristine = tempfile::tempdir().unwrap();
        it.series
            .copy_files(it.worktree.root(), pristine.path())
            .unwrap();
        let commits = it.apply();
        assert_eq!(commits.len(), 2);
        let differ = it.worktree.differences(&it.series, pristine.path());
        assert_eq!(differ.unwrap(), [""; 0]);

        it.worktree.checkout(&commits[0]).unwrap();
        assert_eq!(it.read(KCONFIG), "# KVM\n");
        assert_eq!(it.read("ignored"), "and there\n");
        assert!(!it.worktree.offer().unwrap());
        it.worktree.checkout(&commits[1]).unwrap();
        assert!(it.worktree.offer().unwrap());
        assert!(it.read(KCONFIG).contains(OFFERED));
        it.worktree.checkout(&commits[0]).unwrap();
        assert_eq!(it.read(KCONFIG), "# KVM\n");
    }

    #[test]
    fn the_same_patches_make_the_same_trees() {
        let it = fixture(PATCH);
        let trees = it.worktree.trees(&it.apply()).unwrap();
        assert_eq!(trees.len(), 2);
        assert_ne!(trees[0], trees[1]);
        assert_eq!(it.worktree.trees(&it.apply()).unwrap(), trees);
        let other = fixture(&PATCH.replace("bool", "int "));
        let others = other.worktree.trees(&other.apply()).unwrap();
        assert_eq!(others[0], trees[0]);
        assert_ne!(others[1], trees[1]);
    }

    #[test]
    fn the_source_is_as_old_after_the_patches_as_before() {
        let it = fixture(PATCH);
        let before = it.worktree.written(it.series.files()).unwrap();
        assert_eq!(before.len(), 1);
        let moment = |it: &Fixture| it.worktree.written(it.series.files()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        it.apply();
        assert_ne!(moment(&it), before);
        it.worktree.rewind(before.clone()).unwrap();
        assert_eq!(it.read(KCONFIG), "# KVM\n");
        assert_eq!(moment(&it), before);
        it.worktree.checkout(PRISTINE).unwrap();
        assert_eq!(moment(&it), before);
        // What an interrupted check has left is written anew.
        it.apply();
        it.worktree.restore().unwrap();
        assert_ne!(moment(&it), before);
    }

    #[test]
    fn a_header_keeps_its_time_and_code_does_not() {
        let it = fixture(PATCH);
        let files = |file: &str| BTreeSet::from([file.to_owned()]);
        let moment = |file| it.worktree.written(files(file)).unwrap();
        let commits = it.apply();
        it.worktree.checkout(&commits[0]).unwrap();
        let before = [KCONFIG, "Makefile"].map(moment);
        std::thread::sleep(std::time::Duration::from_millis(20));
        let quietly = it
            .worktree
            .checkout_quietly(&commits[1], files(KCONFIG), files("Makefile"));
        quietly.unwrap();
        assert!(it.read(KCONFIG).contains("KVM_SYSCALLS"));
        assert_eq!(moment(KCONFIG), before[0]);
        assert_ne!(moment("Makefile"), before[1]);
    }

    #[test]
    fn a_patch_that_does_not_apply_leaves_nothing() {
        let it = fixture(&PATCH.replace(" # KVM", " # Xen"));
        assert_eq!(it.apply().len(), 1);
        assert_eq!(it.read(KCONFIG), "# KVM\n");
    }

    #[test]
    fn an_interrupted_or_broken_tree_is_restored() {
        let it = fixture(PATCH);
        let source = Source::find(&it.dir.path().join("source"), Base::V6_12).unwrap();
        let again = || {
            let (root, log) = (it.worktree.root().to_owned(), it.dir.path().join("log"));
            Worktree::prepare(root, &source, log).unwrap();
        };
        it.apply();
        for (file, text) in [
            (".git/index.lock", ""),
            (".git/rebase-apply/next", "1"),
            ("Makefile", "edited"),
            ("left", "over"),
            ("build-module/kept", "kept"),
        ] {
            files::write(&it.worktree.root().join(file), text.as_bytes()).unwrap();
        }
        again();
        assert_eq!(it.read(KCONFIG), "# KVM\n");
        assert!(it.read("Makefile").starts_with("VERSION"));
        assert_eq!(it.read("left"), "");
        assert_eq!(it.read("build-module/kept"), "kept");

        fs::remove_dir_all(it.worktree.root().join(".git/objects")).unwrap();
        again();
        assert_eq!(it.read("build-module/kept"), "");
        assert_eq!(it.apply().len(), 2);
    }
}
