//! User namespaces: root in a namespace has no privileges outside, and a group
//! counts by its ID outside.

use std::fs;

use anyhow::{Context, Result};
use guests::DeviceNode;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::NamedCase;
use super::creators::{DONE, FOR_GROUP, GROUP, OTHER, REFUSED, answers};
use super::user::{NOBODY, become_user};
use crate::arguments::CallResult;

pub const CASES: &[NamedCase] = &[
    ("root of a user namespace", roots),
    ("groups of a user namespace", groups),
];

/// Enters a new user namespace, in which the user is `user`, and the group is
/// `group` or unmapped.
fn enter(user: u32, group: Option<u32>) -> Result<()> {
    let (outer_user, outer_group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    let write = |file: &str, text: String| {
        let file = format!("/proc/self/{file}");
        fs::write(&file, text).context(file)
    };
    write("uid_map", format!("{user} {outer_user} 1"))?;
    if let Some(group) = group {
        // Without privileges outside, a group can be mapped only after this.
        write("setgroups", "deny".into())?;
        write("gid_map", format!("{group} {outer_group} 1"))?;
    }
    Ok(())
}

/// Asserts the result of the user `nobody` in these groups, who is root of a new user
/// namespace. The group is `inside` there, or unmapped.
fn member(
    who: &str,
    expected: CallResult,
    group: u32,
    others: &[u32],
    inside: Option<u32>,
) -> Result<()> {
    answers(who, expected, || {
        become_user(NOBODY, group, others)?;
        enter(0, inside)
    })
}

/// Root outside owns the node, whatever its ID is inside. Root inside gains
/// nothing.
fn roots() -> Result<()> {
    DeviceNode::with(0, 0o600, || {
        member("a user who is root inside", REFUSED, OTHER, &[], Some(0))?;
        answers("root who is root inside", DONE, || enter(0, Some(0)))?;
        answers("root who is a user inside", DONE, || {
            enter(1000, Some(1000))
        })?;
        answers("root in a nested namespace", DONE, || {
            enter(0, Some(0))?;
            enter(0, Some(0))
        })
    })
}

fn groups() -> Result<()> {
    DeviceNode::with(GROUP, FOR_GROUP, || {
        member("a member by another number", DONE, GROUP, &[], Some(5000))?;
        member("a member without a number", DONE, GROUP, &[], None)?;
        let others = &[GROUP];
        member(
            "a supplementary member without a number",
            DONE,
            OTHER,
            others,
            Some(OTHER),
        )?;
        member(
            "another group with the number of this group",
            REFUSED,
            OTHER,
            &[],
            Some(GROUP),
        )
    })?;
    // An unmapped group is shown as 65534.
    DeviceNode::with(65534, FOR_GROUP, || {
        member(
            "a group that is shown as this number",
            REFUSED,
            OTHER,
            &[],
            None,
        )
    })
}
