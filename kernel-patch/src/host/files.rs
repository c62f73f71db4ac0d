//! Directory trees, and files that are written completely or not at all.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::error::{IoContext, Result};
use crate::host::interrupt;

/// Walks a tree: calls `visit` with each path relative to `root`, directories before their
/// entries. Leaves out the entries of `root` whose names `skip` accepts.
pub(crate) fn walk(
    root: &Path,
    skip: impl Fn(&str) -> bool,
    visit: &mut impl FnMut(&Path, &Metadata) -> Result<()>,
) -> Result<()> {
    let mut pending = vec![root.to_path_buf()];
    while let Some(dir) = pending.pop() {
        interrupt::check()?;
        for entry in fs::read_dir(&dir).cannot("read", &dir)? {
            let entry = entry.cannot("read", &dir)?;
            if dir == root && skip(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let path = entry.path();
            let metadata = entry.metadata().cannot("read", &path)?;
            let relative = path.strip_prefix(root).expect("it lies below the root");
            visit(relative, &metadata)?;
            if metadata.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(())
}

/// Copies a tree. Calls `file` to copy each file.
pub(crate) fn replicate<T>(
    from: &Path,
    to: &Path,
    skip: impl Fn(&str) -> bool,
    file: impl Fn(&Path, &Path) -> io::Result<T>,
) -> Result<()> {
    fs::create_dir_all(to).cannot("make", to)?;
    walk(from, skip, &mut |relative, metadata| {
        let (from, to) = (from.join(relative), to.join(relative));
        let done = if metadata.is_dir() {
            fs::create_dir(&to)
        } else if metadata.is_symlink() {
            fs::read_link(&from).and_then(|target| symlink(target, &to))
        } else {
            file(&from, &to).map(drop)
        };
        done.cannot("make", &to)
    })
}

/// Returns the paths in a directory, sorted.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).cannot("read", dir)?;
    let paths = entries.map(|entry| Ok(entry.cannot("read", dir)?.path()));
    let mut paths = paths.collect::<Result<Vec<_>>>()?;
    paths.sort_unstable();
    Ok(paths)
}

/// Replaces a file's content at once, and keeps its permissions. A hard link to the file
/// keeps the old content.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).cannot("make", dir)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::write(&new, content).cannot("write", &new)?;
    if let Ok(old) = fs::metadata(path) {
        fs::set_permissions(&new, old.permissions()).cannot("write", &new)?;
    }
    fs::rename(&new, path).cannot("write", path)
}

/// Copies a file, if it exists.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    read(from)?.map_or(Ok(()), |content| write(to, &content))
}

/// Removes a tree, if it exists.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.cannot("remove", path),
    }
}

/// Returns the text of a file.
pub(crate) fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).cannot("read", path)
}

/// Returns the text of a file, with invalid characters replaced. A missing file is empty.
pub(crate) fn text_or_empty(path: &Path) -> Result<String> {
    let content = read(path)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// Whether a file exists and has this content.
pub(crate) fn has(path: &Path, content: &[u8]) -> Result<bool> {
    Ok(read(path)?.is_some_and(|it| it == content))
}

/// Returns the content of a file, if it exists.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        content => content.map(Some).cannot("read", path),
    }
}
