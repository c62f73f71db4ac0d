//! The device cgroup, in both versions: if it denies `/dev/kvm`, it also denies
//! the call.

use std::fs::{self, File};
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kvm_api::Errno;
use nix::mount::{MsFlags, mount, umount};

use super::NamedCase;
use super::creators::DONE;
use super::user::create_vm;
use crate::arguments::CallResult;
use crate::child;
use crate::requests::new_descriptor;

pub const CASES: &[NamedCase] = &[
    ("device cgroup, version 1", version_1),
    ("device cgroup, by a program", by_program),
];

/// A group of processes, until it is dropped.
struct Group;

const ROOT: &str = "/tmp/cgroup";
const GROUP: &str = "/tmp/cgroup/group";

impl Group {
    fn new(kind: &str, options: Option<&str>) -> Result<Self> {
        fs::create_dir(ROOT)?;
        mount(Some(kind), ROOT, Some(kind), MsFlags::empty(), options).context("mount")?;
        fs::create_dir(GROUP)?;
        Ok(Self)
    }

    /// Asserts the result of a member of the group.
    fn check(&self, rule: &str, admitted: bool) -> Result<()> {
        let found = child::run(|| {
            fs::write(Path::new(GROUP).join("cgroup.procs"), "0")?;
            create_vm()
        })?;
        let denied = CallResult::refused(Errno::EPERM);
        let expected = if admitted { DONE } else { denied };
        ensure!(found == expected, "with {rule}: {found:?}");
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir(GROUP).expect("the group is empty");
        umount(ROOT).expect("nothing is open there");
        fs::remove_dir(ROOT).expect("the directory is empty");
    }
}

fn version_1() -> Result<()> {
    let group = Group::new("cgroup", Some("devices"))?;
    group.check("no rule", true)?;
    for (file, rule, admitted) in [
        // Version 1 allows every access without a rule.
        ("devices.deny", "c 10:232 rwm", false),
        ("devices.allow", "c 10:232 r", false),
        ("devices.allow", "c 10:232 w", true),
        ("devices.deny", "c 10:232 w", false),
        // Now every access without a rule is denied.
        ("devices.deny", "a", false),
        ("devices.allow", "c 10:232 r", false),
        ("devices.allow", "c 10:* rw", true),
    ] {
        fs::write(Path::new(GROUP).join(file), rule).context(rule)?;
        group.check(&format!("{file}: {rule}"), admitted)?;
    }
    // Root is not in the group.
    ensure!(
        create_vm()? == DONE,
        "a process outside the group is denied"
    );
    Ok(())
}

/// The kinds of access to a device.
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

fn by_program() -> Result<()> {
    for (denied, admitted) in [
        (0, true),
        (MKNOD, true),
        (READ, false),
        (WRITE, false),
        (READ | WRITE, false),
    ] {
        let group = Group::new("cgroup2", None)?;
        deny(denied)?;
        group.check(&format!("access {denied} denied"), admitted)?;
    }
    Ok(())
}

/// One instruction of a program.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

/// Attaches a program to the group, which denies these kinds of access to
/// character device 10:232, and nothing else. The program is removed with the
/// group.
fn deny(access: i32) -> Result<()> {
    let i = |code, registers, offset, value| Instruction {
        code,
        registers,
        offset,
        value,
    };
    let program = [
        i(0x61, 0x12, 4, 0),      // r2 = the major number
        i(0x55, 0x02, 7, 10),     // if r2 != 10 goto allow
        i(0x61, 0x12, 8, 0),      // r2 = the minor number
        i(0x55, 0x02, 5, 232),    // if r2 != 232 goto allow
        i(0x61, 0x12, 0, 0),      // r2 = the access, above 16 bits for the type
        i(0x77, 0x02, 0, 16),     // r2 >>= 16
        i(0x57, 0x02, 0, access), // r2 &= access
        i(0x15, 0x02, 1, 0),      // if r2 == 0 goto allow
        i(0x05, 0x00, 2, 0),      // goto deny
        i(0xb7, 0x00, 0, 1),      // allow: r0 = 1
        i(0x95, 0x00, 0, 0),      // exit
        i(0xb7, 0x00, 0, 0),      // deny: r0 = 0
        i(0x95, 0x00, 0, 0),      // exit
    ];

    #[repr(C)]
    struct Load {
        kind: u32,
        length: u32,
        instructions: *const Instruction,
        license: *const libc::c_char,
    }
    const BPF_PROG_LOAD: i32 = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        length: program.len() as u32,
        instructions: program.as_ptr(),
        license: c"GPL".as_ptr(),
    };
    let size = size_of::<Load>();
    // SAFETY: the structure is the beginning of the structure of the call, and the kernel
    // takes missing fields as 0. The memory that it points to lives until the call
    // returns. The call returns a new descriptor.
    let loaded =
        unsafe { new_descriptor(libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &load, size)) };
    let loaded = loaded.context("loading the program")?;

    #[repr(C)]
    struct Attach {
        target: i32,
        program: i32,
        kind: u32,
        flags: u32,
    }
    const BPF_PROG_ATTACH: i32 = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    let group = File::open(GROUP)?;
    let attach = Attach {
        target: group.as_raw_fd(),
        program: loaded.as_raw_fd(),
        kind: BPF_CGROUP_DEVICE,
        flags: 0,
    };
    let size = size_of::<Attach>();
    // SAFETY: as above.
    let attached = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &attach, size) };
    Errno::result(attached).context("attaching the program")?;
    Ok(())
}
