//! The machine's only file system: a reproducible `newc` archive.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use cpio::newc::{self, Builder};

use crate::host::IoContext;
use crate::host::error::Result;

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;

/// An archive.
///
/// It is not compressed, because the machine would count the instructions of decompressing
/// it. Times are 0, owners are root, inode numbers are consecutive.
pub struct Initramfs {
    path: PathBuf,
    file: BufWriter<File>,
    inode: u32,
    directories: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// Begins an archive in the file at `path`.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).cannot("write", path)?;
        let mut this = Self {
            path: path.into(),
            file: BufWriter::new(file),
            inode: 0,
            directories: BTreeSet::new(),
        };
        // The first process writes to it before it mounts /dev.
        this.directory(Path::new("/dev"))?;
        this.entry("dev/console", CONSOLE, b"", (5, 1))?;
        Ok(this)
    }

    /// Copies a file of the host to an absolute path inside.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or the archive cannot be written.
    pub fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        let data = fs::read(from).cannot("read", from)?;
        self.write(&data, to)
    }

    /// Makes an executable file at an absolute path inside.
    ///
    /// # Errors
    ///
    /// The archive cannot be written.
    pub fn write(&mut self, data: &[u8], to: &Path) -> Result<()> {
        if let Some(parent) = to.parent() {
            self.directory(parent)?;
        }
        self.entry(&name(to), EXECUTABLE, data, (0, 0))
    }

    /// Completes the archive.
    ///
    /// # Errors
    ///
    /// The archive cannot be written.
    pub fn finish(self) -> Result<()> {
        newc::trailer(self.file)
            .and_then(|mut file| file.flush())
            .cannot("write", &self.path)
    }

    /// Makes a directory and its parents, which the kernel does not make itself.
    fn directory(&mut self, path: &Path) -> Result<()> {
        if path == Path::new("/") || !self.directories.insert(path.into()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.entry(&name(path), DIRECTORY, b"", (0, 0))
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(data.len())
            .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
            .cannot("put into the machine", Path::new(name))?;
        let mut entry = Builder::new(name)
            .ino(self.inode)
            .mode(mode)
            .nlink(1)
            .rdev_major(device.0)
            .rdev_minor(device.1)
            .write(&mut self.file, size);
        entry
            .write_all(data)
            .and_then(|()| entry.finish().map(drop))
            .cannot("write", &self.path)
    }
}

fn name(path: &Path) -> String {
    let path = path.strip_prefix("/").unwrap_or(path);
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn archive() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initramfs");
        let mut initramfs = Initramfs::create(&path).unwrap();
        initramfs.write(b"one", Path::new("/a/b/c")).unwrap();
        initramfs.write(b"second", Path::new("/a/b/d")).unwrap();
        initramfs.finish().unwrap();
        fs::read(path).unwrap()
    }

    #[test]
    fn parents_come_first_and_once() {
        let mut data = &archive()[..];
        let mut seen = Vec::new();
        loop {
            let mut entry = newc::Reader::new(data).unwrap();
            if entry.entry().is_trailer() {
                break;
            }
            let (name, mode) = (entry.entry().name().to_owned(), entry.entry().mode());
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            seen.push((name, mode, text));
            data = entry.finish().unwrap();
        }
        let expected = [
            ("dev", DIRECTORY, ""),
            ("dev/console", CONSOLE, ""),
            ("a", DIRECTORY, ""),
            ("a/b", DIRECTORY, ""),
            ("a/b/c", EXECUTABLE, "one"),
            ("a/b/d", EXECUTABLE, "second"),
        ];
        assert_eq!(
            seen,
            expected.map(|(name, mode, text)| (name.to_owned(), mode, text.to_owned()))
        );
    }

    #[test]
    fn the_same_bytes_each_time() {
        let bytes = archive();
        assert_eq!(bytes, archive());
        // Magic, inode, mode, owner, group, links, time of the first entry.
        let head = "070701 00000001 000041ed 00000000 00000000 00000001 00000000";
        assert_eq!(bytes[..54], *head.replace(' ', "").as_bytes());
        assert_eq!(bytes.len() % 4, 0);
    }
}
