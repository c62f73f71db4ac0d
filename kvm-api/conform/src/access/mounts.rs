//! The call uses the node that a process finds at `/dev/kvm`, below its root
//! and in its mount namespace.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use anyhow::{Context, Result, ensure};
use guests::NODE;
use kvm_api::Errno;
use kvm_api::kvm_sys::FlatCall;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::chroot;

use super::NamedCase;
use super::creators::{DONE, OTHER, REFUSED, answers};
use super::user::{NOBODY, become_user};
use crate::arguments::{Arguments, CallResult};
use crate::child;

pub const CASES: &[NamedCase] = &[
    ("no /dev/kvm", none),
    ("a private node", private),
    ("a link to a node", link),
    ("a mount without devices", no_devices),
    ("another root", roots),
    ("another file by this name", another_file),
];

const ABSENT: CallResult = CallResult::refused(Errno::ENOENT);

/// Gives this process an empty /dev of its own.
fn empty_dev(flags: MsFlags) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&str>;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(nothing, "/", nothing, private, nothing).context("/")?;
    mount(Some("tmpfs"), "/dev", Some("tmpfs"), flags, nothing).context("/dev")
}

/// Creates a node of KVM that anybody may open.
fn make_node(path: &str) -> Result<()> {
    mknod(path, SFlag::S_IFCHR, Mode::empty(), makedev(10, 232)).context("mknod")?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o666))?)
}

fn none() -> Result<()> {
    answers("root", ABSENT, || empty_dev(MsFlags::empty()))
}

/// The permissions of this node decide.
fn private() -> Result<()> {
    answers("nobody", DONE, || {
        empty_dev(MsFlags::empty())?;
        make_node(NODE)?;
        become_user(NOBODY, OTHER, &[])
    })
}

fn link() -> Result<()> {
    answers("nobody", DONE, || {
        empty_dev(MsFlags::empty())?;
        make_node("/dev/node")?;
        symlink("node", NODE)?;
        become_user(NOBODY, OTHER, &[])
    })
}

fn no_devices() -> Result<()> {
    answers("root", REFUSED, || {
        empty_dev(MsFlags::MS_NODEV)?;
        make_node(NODE)
    })
}

fn roots() -> Result<()> {
    for (has_node, expected) in [(false, ABSENT), (true, DONE)] {
        answers("a process with another root", expected, || {
            empty_dev(MsFlags::empty())?;
            fs::create_dir_all("/dev/root/dev")?;
            if has_node {
                make_node("/dev/root/dev/kvm")?;
            }
            Ok(chroot("/dev/root")?)
        })?;
    }
    Ok(())
}

/// A file that cannot create a VM. Requests on it go to another driver.
fn another_file() -> Result<()> {
    type Make = fn() -> Result<()>;
    let file = || Ok(File::create(NODE).map(drop)?);
    let null = || Ok(mknod(NODE, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3))?);
    let directory = || Ok(fs::create_dir(NODE)?);
    let makes: [(&str, Make, Errno); 3] = [
        ("a file", file, Errno::ENODEV),
        ("another device", null, Errno::ENODEV),
        ("a directory", directory, Errno::EISDIR),
    ];
    for (what, make, errno) in makes {
        let answer = child::run(|| {
            empty_dev(MsFlags::empty())?;
            make()?;
            Ok(Arguments::new()?.flat(FlatCall::kvm_create_vm, 0))
        })?;
        ensure!(
            answer == CallResult::refused(errno),
            "{what} gives {answer:?}, not {errno:?}"
        );
    }
    Ok(())
}
