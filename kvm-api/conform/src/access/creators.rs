//! By either interface, the users who may open `/dev/kvm` may create a virtual machine,
//! and no others.

use anyhow::{Result, ensure};
use caps::{CapSet, Capability, CapsHashSet};
use guests::DeviceNode;
use kvm_api::Errno;
use nix::sys::prctl::{set_keepcaps, set_no_new_privs};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::NamedCase;
use super::user::{NOBODY, become_user, create_vm};
use crate::arguments::CallResult;
use crate::child;

pub const CASES: &[NamedCase] = &[
    ("users and groups", users),
    ("permissions of the node", modes),
    ("the effective group counts", effective_group),
    ("capabilities", by_capability),
    ("no new privileges", no_new_privileges),
];

pub const GROUP: u32 = 1234;
pub const OTHER: u32 = 1235;
pub const DONE: CallResult = CallResult::DONE;
pub const REFUSED: CallResult = CallResult::refused(Errno::EACCES);

pub const FOR_GROUP: u32 = 0o660;

/// Asserts the result of a child that changes its identity by `becomes`.
pub fn answers(
    who: &str,
    expected: CallResult,
    becomes: impl FnOnce() -> Result<()>,
) -> Result<()> {
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

/// Asserts the result of the user `nobody` in these groups.
fn member(who: &str, expected: CallResult, group: u32, others: &[u32]) -> Result<()> {
    answers(who, expected, || become_user(NOBODY, group, others))
}

fn users() -> Result<()> {
    answers("root", DONE, || Ok(()))?;
    DeviceNode::with(0, 0o600, || {
        answers("root, the owner", DONE, || Ok(()))?;
        member("a user", REFUSED, GROUP, &[])?;
        member("a user in many groups", REFUSED, GROUP, &[0, 1, GROUP])
    })?;
    DeviceNode::with(GROUP, FOR_GROUP, || {
        member("the group", DONE, GROUP, &[])?;
        member("a supplementary member", DONE, OTHER, &[7, GROUP, 9])?;
        member("another group", REFUSED, OTHER, &[7])?;
        // A user's ID does not count as a group.
        answers("a user of that number", REFUSED, || {
            become_user(GROUP, OTHER, &[])
        })?;
        answers("root", DONE, || Ok(()))
    })?;
    // KVM refuses a process as soon as the node changes.
    DeviceNode::with(0, FOR_GROUP, || {
        member("the group of before", REFUSED, GROUP, &[])
    })
}

/// The call needs read and write permission, like opening the device.
fn modes() -> Result<()> {
    for (mode, expected) in [
        (0o666, DONE),
        (0o606, DONE),
        (0o664, REFUSED),
        (0o662, REFUSED),
        (0o660, REFUSED),
        (0o111, REFUSED),
    ] {
        DeviceNode::with(GROUP, mode, || {
            let who = format!("anybody, of mode {mode:o},");
            member(&who, expected, OTHER, &[])
        })?;
    }
    Ok(())
}

fn effective_group() -> Result<()> {
    let become_groups = |real, effective| {
        setgroups(&[])?;
        let [real, effective] = [real, effective].map(Gid::from_raw);
        setresgid(real, effective, real)?;
        let user = Uid::from_raw(NOBODY);
        Ok(setresuid(user, user, user)?)
    };
    DeviceNode::with(GROUP, FOR_GROUP, || {
        answers("the effective group", DONE, || become_groups(OTHER, GROUP))?;
        answers("the real group", REFUSED, || become_groups(GROUP, OTHER))
    })
}

/// Root owns the node. Others need the capability to open any file, and no
/// other capability.
fn by_capability() -> Result<()> {
    let user_with = |permitted: &CapsHashSet, effective: &CapsHashSet| {
        set_keepcaps(true)?;
        become_user(NOBODY, OTHER, &[])?;
        keep(permitted, effective)
    };
    let none = CapsHashSet::new();
    let admin = CapsHashSet::from([Capability::CAP_SYS_ADMIN]);
    let open_any = CapsHashSet::from([Capability::CAP_DAC_OVERRIDE]);
    let rest = &caps::read(None, CapSet::Permitted)? - &open_any;
    DeviceNode::with(0, 0o600, || {
        answers("root without capabilities", DONE, || keep(&none, &none))?;
        for (who, expected, permitted, effective) in [
            ("a user with CAP_SYS_ADMIN", REFUSED, &admin, &admin),
            ("a user with CAP_DAC_OVERRIDE", DONE, &open_any, &open_any),
            (
                "a user with CAP_DAC_OVERRIDE not in effect",
                REFUSED,
                &open_any,
                &none,
            ),
            ("a user with all other capabilities", REFUSED, &rest, &rest),
        ] {
            answers(who, expected, || user_with(permitted, effective))?;
        }
        Ok(())
    })
}

/// Drops all capabilities except these.
fn keep(permitted: &CapsHashSet, effective: &CapsHashSet) -> Result<()> {
    caps::set(None, CapSet::Effective, effective)?;
    Ok(caps::set(None, CapSet::Permitted, permitted)?)
}

/// The flag restricts the gain of privileges by execve(), not system calls.
fn no_new_privileges() -> Result<()> {
    DeviceNode::with(GROUP, FOR_GROUP, || {
        for (group, expected) in [(GROUP, DONE), (OTHER, REFUSED)] {
            answers("with no new privileges", expected, || {
                become_user(NOBODY, group, &[])?;
                Ok(set_no_new_privs()?)
            })?;
        }
        Ok(())
    })
}
