//! The setting that names the administrator's group.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use kvm_api::Errno;

use super::Case;
use super::child::{self, NOBODY, become_user};
use super::namespace;

pub const CASES: &[Case] = &[
    ("kvm_group: nobody's by default", default),
    ("kvm_group: values", values),
    ("kvm_group: permissions", permissions),
];

const FILE: &str = "/proc/sys/kernel/kvm_group";
/// The setting of old that is one like it.
const PRECEDENT: &str = "/proc/sys/vm/hugetlb_shm_group";

/// The group that is no group.
pub const NONE: u32 = u32::MAX;

fn read() -> Result<u32> {
    let text = fs::read_to_string(FILE).context(FILE)?;
    Ok(text.trim().parse()?)
}

/// Puts the setting back to nobody.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        fs::write(FILE, NONE.to_string()).expect("root may write the setting");
    }
}

/// Tests with the setting at `group`.
pub fn with<T>(group: u32, test: impl FnOnce() -> Result<T>) -> Result<T> {
    let _restore = Restore;
    fs::write(FILE, group.to_string()).context(FILE)?;
    test()
}

fn default() -> Result<()> {
    ensure!(read()? == NONE, "it is {}", read()?);
    Ok(())
}

fn values() -> Result<()> {
    let _restore = Restore;
    for good in [0, 1, 1234, 65534, u32::MAX - 1, u32::MAX] {
        fs::write(FILE, good.to_string()).with_context(|| good.to_string())?;
        ensure!(read()? == good, "{good} becomes {}", read()?);
    }
    fs::write(FILE, "77\n")?;
    for bad in ["-1", "4294967296", "99999999999999999999", "kvm", "7x"] {
        let refusal = fs::write(FILE, bad).err().and_then(|it| it.raw_os_error());
        ensure!(
            refusal == Some(Errno::EINVAL as i32),
            "{bad:?} gives {refusal:?}"
        );
        ensure!(read()? == 77, "{bad:?} makes it {}", read()?);
    }
    Ok(())
}

/// Root's to write and anybody's to read, as the precedent is.
fn permissions() -> Result<()> {
    let rights = |it: Metadata| (it.mode() & 0o7777, it.uid(), it.gid());
    let [this, precedent] = [FILE, PRECEDENT].map(|file| fs::metadata(file).map(rights));
    let this = this?;
    ensure!(this == (0o644, 0, 0) && this == precedent?, "{this:?}");

    let nobody = child::run(|| {
        become_user(NOBODY, NOBODY, &[])?;
        Ok([FILE, PRECEDENT].map(opens))
    })?;
    let eacces = Some(Errno::EACCES as i32);
    ensure!(nobody == [eacces; 2], "a user gets {nobody:?}");

    // A user who is root in a namespace of the user's own.
    let own_root = child::run(|| {
        become_user(NOBODY, NOBODY, &[])?;
        namespace::enter(0, Some(0))?;
        let group = fs::read_to_string(FILE)?;
        ensure!(group.trim() == NONE.to_string(), "it reads {group}");
        Ok([FILE, PRECEDENT].map(opens))
    })?;
    ensure!(own_root == [eacces; 2], "own root gets {own_root:?}");

    // The file is that of the user who is root outside, wherever that one is.
    let same_root = child::run(|| {
        namespace::enter(0, Some(0))?;
        Ok([FILE, PRECEDENT].map(opens))
    })?;
    ensure!(same_root == [None; 2], "root gets {same_root:?}");
    Ok(())
}

/// With which errno a file does not open for writing, if it does not.
fn opens(file: &str) -> Option<i32> {
    let opened = File::options().write(true).open(file);
    opened.err().and_then(|error| error.raw_os_error())
}
