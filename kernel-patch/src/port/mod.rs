//! Moves the series to another version of Linux: makes a git repository of it, tries each
//! patch on the other source, and writes the result back.

mod conflicts;
mod error;
mod repository;

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

pub use self::conflicts::{FileConflicts, Found};
pub use self::error::{PortError, Result};
use self::repository::{BASE, MOVED, Picked, Repository, SERIES};
use crate::host::{Lock, Progress, paths};
use crate::kbuild::{Base, kernel};

/// The result of a patch on another source.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It applies as it is.
    Applies,
    /// A three-way merge applies it.
    Merges,
    /// The source has all of it already.
    Empty,
    /// It has conflicts.
    Conflicts,
}

/// A patch on another source.
#[derive(Debug, Serialize)]
pub struct Moved {
    /// The number of the patch, from 1.
    pub number: usize,
    /// Its subject.
    pub subject: String,
    /// The result.
    pub fate: Fate,
    /// Its conflicts by file.
    pub conflicts: Vec<FileConflicts>,
}

/// Makes the repository `root` of the base's source and series.
///
/// # Errors
///
/// `root` exists, there is no source, or a patch does not apply.
pub fn import(root: &Path, base: Base, source: Option<&Path>) -> Result<()> {
    let _lock = Lock::exclusive(&paths::work_dir()?, false)?;
    let source = kernel::find_source(base, source)?;
    Repository::import(root, &source, &base.patches()?)?;
    Ok(())
}

/// Tries each patch of the repository `root` on another source, a tree or a tarball of any
/// version. The branch `moved` then has the patches on that source, with the patch's side
/// of each conflict.
///
/// # Errors
///
/// `root` is not a repository that [`import`] made, or the source cannot be read. A patch
/// that does not apply is not an error.
pub fn rebase(root: &Path, onto: &Path) -> Result<Vec<Moved>> {
    let repository = Repository::open(root)?;
    repository.add_source(onto)?;
    let commits = repository.commits()?;
    let progress = Progress::ours("applying the patches to the other source");
    let mut moved = Vec::new();
    for (number, (commit, subject)) in (1..).zip(&commits) {
        progress.at(&format!("patch {number} of {}", commits.len()));
        let (fate, conflicts) = try_commit(&repository, commit)?;
        moved.push(Moved {
            number,
            subject: subject.clone(),
            fate,
            conflicts,
        });
    }
    Ok(moved)
}

fn try_commit(repository: &Repository, commit: &str) -> Result<(Fate, Vec<FileConflicts>)> {
    let applies = repository.applies(commit)?;
    match repository.pick(commit)? {
        Picked::Clean if applies => Ok((Fate::Applies, Vec::new())),
        Picked::Clean => Ok((Fate::Merges, Vec::new())),
        Picked::Empty => Ok((Fate::Empty, Vec::new())),
        Picked::Conflicts(files) => {
            let conflicts = files.iter().map(|it| FileConflicts::find(repository, it));
            let conflicts = conflicts.collect::<Result<_>>()?;
            repository.force(commit)?;
            Ok((Fate::Conflicts, conflicts))
        }
    }
}

/// Writes the commits of the repository `root` since its source back as the series of
/// `base`.
///
/// # Errors
///
/// `root` is not a repository that [`import`] made, or the patches cannot be written.
pub fn export(root: &Path, base: Base) -> Result<()> {
    Repository::open(root)?.export(&base.patches()?)
}

/// The table of a move.
#[must_use]
pub fn table(moved: &[Moved]) -> String {
    let mut text = String::new();
    for it in moved {
        let fate = match it.fate {
            Fate::Applies => "applies",
            Fate::Merges => "merges",
            Fate::Empty => "empty",
            Fate::Conflicts => "CONFLICTS",
        };
        let _ = writeln!(text, "{:3}  {fate:9}  {}", it.number, it.subject);
        for file in &it.conflicts {
            let _ = match file.places {
                0 => writeln!(text, "                  {}: removed or renamed", file.file),
                places => writeln!(text, "                  {}: {places}", file.file),
            };
            for found in file.found_in.iter().filter(|it| it.file != file.file) {
                let Found { file, lines, of } = found;
                let _ = writeln!(
                    text,
                    "                      {lines} of {of} lines are in {file}"
                );
            }
        }
    }
    let count = |fate: Fate| moved.iter().filter(|it| it.fate == fate).count();
    let _ = write!(
        text,
        "{} patches: {} apply, {} merge, {} are empty, {} have conflicts (the number of places \
         follows each file)\nbranch {SERIES}: the series on the tag {BASE}; branch {MOVED}: on \
         the other source, with the patch's side of each conflict",
        moved.len(),
        count(Fate::Applies),
        count(Fate::Merges),
        count(Fate::Empty),
        count(Fate::Conflicts),
    );
    text
}
