//! Which users may make a virtual machine: by system call those whom the
//! setting or a capability admits, by ioctl those who may open `/dev/kvm`.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use anyhow::{Result, ensure};
use kvm_api::Errno;
use kvm_api::Kvm;
use kvm_api::ioctl::Ioctl;
use nix::sys::prctl::{set_keepcaps, set_no_new_privs};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::Case;
use super::capabilities::{self, SYS_ADMIN};
use super::child::{self, NOBODY, become_user, create_vm};
use super::setting::{self, NONE};
use crate::arguments::Answer;

pub const CASES: &[Case] = &[
    ("users and groups", users),
    ("the effective group counts", effective_group),
    ("capabilities", by_capability),
    ("no new privileges", no_new_privileges),
    ("the node's permissions are for the ioctl", node),
];

pub const GROUP: u32 = 1234;
pub const OTHER: u32 = 1235;
pub const REFUSED: Answer = Answer::refused(Errno::EPERM);

/// Asserts what `kvm_create_vm` answers to a child that `becomes` somebody.
pub fn answers(who: &str, expected: Answer, becomes: impl FnOnce() -> Result<()>) -> Result<()> {
    let answer = child::run(|| {
        becomes()?;
        create_vm()
    })?;
    ensure!(
        answer == expected,
        "{who} gets {answer:?}, not {expected:?}"
    );
    Ok(())
}

fn users() -> Result<()> {
    answers("root", Answer::DONE, || Ok(()))?;
    for setting in [NONE, OTHER] {
        setting::with(setting, || {
            answers("a user", REFUSED, || become_user(NOBODY, GROUP, &[]))?;
            answers("a user in many groups", REFUSED, || {
                become_user(NOBODY, GROUP, &[0, 1, GROUP])
            })
        })?;
    }
    // The number that stands for no group is none that anybody is in.
    answers("root's group", REFUSED, || become_user(NOBODY, 0, &[]))?;
    setting::with(GROUP, || {
        answers("the group", Answer::DONE, || {
            become_user(NOBODY, GROUP, &[])
        })?;
        answers("a supplementary member", Answer::DONE, || {
            become_user(NOBODY, OTHER, &[7, GROUP, 9])
        })?;
        answers("another group", REFUSED, || {
            become_user(NOBODY, OTHER, &[7])
        })?;
        // A user's number is no group's.
        answers("a user of that number", REFUSED, || {
            become_user(GROUP, OTHER, &[])
        })?;
        answers("root", Answer::DONE, || Ok(()))
    })?;
    setting::with(0, || {
        answers("root's group", Answer::DONE, || become_user(NOBODY, 0, &[]))?;
        answers("another group", REFUSED, || become_user(NOBODY, OTHER, &[]))
    })?;
    // What was admitted once is refused as soon as the setting changes.
    answers("the group", REFUSED, || become_user(NOBODY, GROUP, &[]))
}

fn effective_group() -> Result<()> {
    let become_groups = |real, effective| {
        setgroups(&[])?;
        let [real, effective] = [real, effective].map(Gid::from_raw);
        setresgid(real, effective, real)?;
        let user = Uid::from_raw(NOBODY);
        Ok(setresuid(user, user, user)?)
    };
    setting::with(GROUP, || {
        answers("the effective group", Answer::DONE, || {
            become_groups(OTHER, GROUP)
        })?;
        answers("the real group", REFUSED, || become_groups(GROUP, OTHER))
    })
}

fn by_capability() -> Result<()> {
    answers("root without CAP_SYS_ADMIN", REFUSED, || {
        let rest = capabilities::permitted()? & !SYS_ADMIN;
        capabilities::keep(rest, rest)
    })?;
    answers("root with CAP_SYS_ADMIN not in effect", REFUSED, || {
        let all = capabilities::permitted()?;
        capabilities::keep(all, all & !SYS_ADMIN)
    })?;
    let user_with = |permitted, effective| {
        set_keepcaps(true)?;
        become_user(NOBODY, OTHER, &[])?;
        capabilities::keep(permitted, effective)
    };
    answers("a user with CAP_SYS_ADMIN", Answer::DONE, || {
        user_with(SYS_ADMIN, SYS_ADMIN)
    })?;
    answers("a user with CAP_SYS_ADMIN not in effect", REFUSED, || {
        user_with(SYS_ADMIN, 0)
    })?;
    answers("a user with all other capabilities", REFUSED, || {
        let rest = capabilities::permitted()? & !SYS_ADMIN;
        user_with(rest, rest)
    })
}

/// That says what a program may gain when it is executed, not what it may do.
fn no_new_privileges() -> Result<()> {
    setting::with(GROUP, || {
        for (group, expected) in [(GROUP, Answer::DONE), (OTHER, REFUSED)] {
            answers("with no new privileges", expected, || {
                become_user(NOBODY, group, &[])?;
                Ok(set_no_new_privs()?)
            })?;
        }
        Ok(())
    })
}

const NODE: &str = "/dev/kvm";

/// Gives the node back to root alone.
struct Restore(Permissions);

impl Drop for Restore {
    fn drop(&mut self) {
        let owned = chown(NODE, Some(0), Some(0));
        owned
            .and_then(|()| fs::set_permissions(NODE, self.0.clone()))
            .expect("root may change the node");
    }
}

/// Neither interface's rule is the other's: the node says who may open it, and
/// the setting who needs not.
fn node() -> Result<()> {
    let _restore = Restore(fs::metadata(NODE)?.permissions());
    chown(NODE, Some(0), Some(GROUP))?;
    fs::set_permissions(NODE, Permissions::from_mode(0o660))?;
    let by_node = |group| {
        child::run(move || {
            become_user(NOBODY, group, &[])?;
            let opened = File::options().read(true).write(true).open(NODE);
            let errno = opened.err().and_then(|error| error.raw_os_error());
            if errno.is_none() {
                Ioctl::open()?.kvm_create_vm()?;
            }
            Ok((errno, create_vm()?))
        })
    };
    let refused = Some(Errno::EACCES as i32);
    for (setting, node, flat) in [
        (NONE, [None, refused], [REFUSED; 2]),
        (OTHER, [None, refused], [REFUSED, Answer::DONE]),
    ] {
        setting::with(setting, || {
            let [member, other] = [by_node(GROUP)?, by_node(OTHER)?];
            ensure!(
                [member.0, other.0] == node && [member.1, other.1] == flat,
                "with the node at {GROUP} and the setting at {setting}, members of {GROUP} get \
                 {member:?}, of {OTHER} {other:?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}
