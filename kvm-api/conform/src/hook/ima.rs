//! IMA hashes the files that a process opens, and keeps a list. The files of a vCPU are on
//! it, but IMA reads no state of the vCPU. A policy leaves them out by the magic number of
//! their file system.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kvm_api::files::{File, FileVcpu};
use kvm_api::ioctl::Ioctl;
use kvm_api::kvm_sys::kvm_regs;
use kvm_api::syscall::Syscall;
use kvm_api::{Kvm, Vcpu};
use nix::unistd::{Uid, setfsuid};

use super::securityfs::{SECURITYFS, mount_securityfs};
use crate::cli::Options;
use crate::outcome::Outcome;
use crate::property::{Kernels, Property, Test};

pub const PROPERTY: Property = Property {
    name: "ima",
    about: "IMA lists the files of a vCPU and reads no state",
    backends: "files",
    kernels: Kernels::Debug,
    test: Test::Inside {
        machine: |kernel| Ok(kernel.machine()),
        test,
    },
};

/// The user whose files the policy leaves out.
const LEFT_OUT: Uid = Uid::from_raw(1);

/// All files with this magic number, that of anonymous inodes, except one user's.
const POLICY: &str = "dont_measure fsmagic=0x09041934 fowner=1\n\
                      measure func=FILE_CHECK mask=^MAY_READ fsmagic=0x09041934\n";

/// What IMA lists in place of a hash of a file that it cannot read.
const UNREADABLE: &str = "sha1:0000000000000000000000000000000000000000";
/// The hash of nothing, for a file whose inode has the size 0.
const EMPTY: &str = "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709";

fn test(_: &Options) -> Result<Outcome> {
    mount_securityfs()?;
    fs::write(ima("policy"), POLICY).context("the policy of IMA")?;
    let mut outcome = Outcome::default();
    // IMA lists a file with the same name and hash once, so these come first.
    outcome.case("files that the policy leaves out", {
        with_open_files(LEFT_OUT).and_then(|()| listed(|_| None))
    });
    outcome.case("files that the policy measures", {
        with_open_files(Uid::from_raw(0)).and_then(|()| listed(hash))
    });
    Ok(outcome)
}

/// The hash that IMA lists for a file.
fn hash(file: File) -> Option<&'static str> {
    match file {
        File::Regs
        | File::Sregs
        | File::Fpu
        | File::Xcrs
        | File::Debugregs
        | File::Events
        | File::MpState => Some(UNREADABLE),
        File::Msrs | File::Cpuid | File::Lapic | File::Xsave | File::ChosenMsrs => Some(EMPTY),
        File::Sigmask | File::Debug | File::Interrupt => None,
    }
}

/// Opens the files of a vCPU that a user has made, and reads registers by one of them.
fn with_open_files(user: Uid) -> Result<()> {
    let (flat, ioctl) = (Syscall::open()?, Ioctl::open()?);
    let vm = flat.kvm_create_vm()?;
    let root = setfsuid(user);
    let opened = flat
        .kvm_create_vcpu(vm.as_fd())
        .and_then(|vcpu| FileVcpu::open(flat, vcpu));
    setfsuid(root);
    let vcpu = opened?;
    let [mut by_file, mut by_ioctl] = [kvm_regs::default(); 2];
    ioctl.kvm_get_regs(vcpu.as_fd(), &mut by_ioctl)?;
    by_ioctl.rax = 0x1234;
    ioctl.kvm_set_regs(vcpu.as_fd(), &by_ioctl)?;
    vcpu.kvm_get_regs(&mut by_file)?;
    ensure!(
        by_file == by_ioctl,
        "the file has {by_file:?}, the ioctl {by_ioctl:?}"
    );
    Ok(())
}

/// Asserts that IMA lists the files with these hashes.
fn listed(expected: impl Fn(File) -> Option<&'static str>) -> Result<()> {
    let list = fs::read_to_string(ima("ascii_runtime_measurements"))?;
    let entries: BTreeMap<_, _> = list.lines().filter_map(entry).collect();
    for file in File::ALL {
        let name = file.name().to_str()?;
        let (found, expected) = (entries.get(name).copied(), expected(file));
        ensure!(
            found == expected,
            "IMA lists {name} as {found:?}, not {expected:?}"
        );
    }
    Ok(())
}

/// The name of a file, and its hash. The line begins with the PCR, the hash of the rest,
/// and the name of the template.
fn entry(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace().skip(3);
    let hash = words.next()?;
    Some((words.next()?, hash))
}

fn ima(name: &str) -> PathBuf {
    Path::new(SECURITYFS).join("ima").join(name)
}
