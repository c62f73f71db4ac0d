//! The root of the host: a layer of the machine's own over a file system that the emulator
//! serves read-only.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, fchdir};

use crate::wire::job::{HOST_OUT, HOST_TAG, OUT};

/// Where the root is put together.
pub(crate) const ROOT: &str = "/host";

/// The root as the emulator serves it, and the layer that takes the changes.
const LOWER: &str = "/lower";
const LAYER: &str = "/layer";

/// The file is what the emulator has opened, and nobody else changes it: keep it in memory.
const NINEP: &str = "trans=virtio,version=9p2000.L,cache=loose,msize=262144,access=any";

/// The file systems of the machine's own in the root, each with its options.
const MOUNTS: [(&str, &str, &str); 6] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("debugfs", "/sys/kernel/debug", ""),
    ("devtmpfs", "/dev", ""),
    ("devpts", "/dev/pts", "mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", ""),
];

/// What udev makes on other machines.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// Mounts the root at [`ROOT`], and copies `files` into it. Needs the modules.
pub(crate) fn prepare(files: &[PathBuf]) -> Result<()> {
    for dir in [LOWER, LAYER, ROOT] {
        fs::create_dir(dir).context(dir)?;
    }
    mount_one("9p", HOST_TAG, LOWER, MsFlags::MS_RDONLY, NINEP)?;
    mount_one("tmpfs", "tmpfs", LAYER, MsFlags::empty(), "mode=755")?;
    let (upper, work) = (format!("{LAYER}/upper"), format!("{LAYER}/work"));
    for dir in [&upper, &work] {
        fs::create_dir(dir).with_context(|| dir.clone())?;
    }
    let layers = format!("lowerdir={LOWER},upperdir={upper},workdir={work}");
    mount_one("overlay", "overlay", ROOT, MsFlags::empty(), &layers)?;
    for file in files {
        let to = Path::new(ROOT).join(file.strip_prefix("/")?);
        let parent = to.parent().context("a file needs a name")?;
        fs::create_dir_all(parent)
            .and_then(|()| fs::copy(file, &to))
            .with_context(|| format!("copy {}", file.display()))?;
    }
    for (kind, at, options) in MOUNTS {
        let at = format!("{ROOT}{at}");
        fs::create_dir_all(&at).with_context(|| at.clone())?;
        mount_one(kind, kind, &at, MsFlags::empty(), options)?;
    }
    for (to, name) in LINKS {
        let link = Path::new(ROOT).join("dev").join(name);
        symlink(to, &link).with_context(|| link.display().to_string())?;
    }
    let out = format!("{ROOT}{HOST_OUT}");
    fs::create_dir_all(&out).with_context(|| out.clone())?;
    mount_one("the output", OUT, &out, MsFlags::MS_BIND, "")
}

/// Puts the root on top of the first one, because a process in a root elsewhere may not
/// make namespaces, and returns it. This process stays in the first one, which has the
/// job's files.
pub(crate) fn put() -> Result<File> {
    let root = File::open(ROOT).context(ROOT)?;
    let none = None::<&str>;
    let moved = mount(Some(ROOT), "/", none, MsFlags::MS_MOVE, none);
    moved.context("move the root of the host")?;
    Ok(root)
}

/// Makes a command start in `directory` of the root.
pub(crate) fn enter(command: &mut Command, root: File, directory: PathBuf) {
    let enter = move || {
        fchdir(&root)?;
        chroot(".")?;
        Ok(chdir(&directory)?)
    };
    // SAFETY: between fork and exec the closure makes three system calls, and copies a path
    // to the stack.
    unsafe { command.pre_exec(enter) };
}

fn mount_one(kind: &str, source: &str, at: &str, flags: MsFlags, options: &str) -> Result<()> {
    mount(Some(source), at, Some(kind), flags, Some(options))
        .with_context(|| format!("mount {kind} at {at}"))
}
