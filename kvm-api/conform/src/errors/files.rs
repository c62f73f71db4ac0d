//! File descriptors of the wrong kind.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, bail};
use kvm_sys::FlatCall::*;
use kvm_sys::{
    Fd, KVM_BOUND_VM, KVM_CREATE_DEVICE, KVM_CREATE_GUEST_MEMFD, KVM_GET_STATS_FD, ProcessCall,
};
use libc::c_ulong;
use nix::errno::Errno::*;

use self::Wrong::*;
use super::expected::Expectation::{Fails, Works};
use super::expected::Of::{All, On, These};
use super::expected::{Expected, LIBRARY, LISTS, Route, Rule};
use super::expected::{both, differs, flat_only, look_up, nothing};
use super::invocation::Invocation;
use super::misuse::{Made, Misuse};
use super::signature::{Kind, arguments};
use super::testbed::Testbed;
use crate::requests::{new_descriptor, request};
use crate::tested_call::TestedCall::{self, Flat, Process};

/// A descriptor in place of the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Closed,
    MinusOne,
    Lowest,
    BoundVm,
    Pipe,
    Event,
    Regular,
    Directory,
    Path,
    DevicePath,
    Device,
    Vm,
    Vcpu,
    KvmDevice,
    VmStats,
    VcpuStats,
    GuestMemory,
    OthersVm,
    OthersVcpu,
    DeadVm,
    DeadVcpu,
    Garbage,
}

pub const ALL_WRONG: [(Wrong, &str); 22] = [
    (Closed, "closed"),
    (MinusOne, "-1"),
    (Lowest, "the lowest `int`"),
    (BoundVm, "`KVM_BOUND_VM`, without a bound VM"),
    (Pipe, "a pipe"),
    (Event, "an eventfd (an anonymous inode, as KVM's are)"),
    (Regular, "a regular file"),
    (Directory, "a directory"),
    (Path, "a regular file, opened with `O_PATH`"),
    (DevicePath, "`/dev/kvm`, opened with `O_PATH`"),
    (Device, "`/dev/kvm`"),
    (Vm, "a VM"),
    (Vcpu, "a vCPU"),
    (KvmDevice, "a device of KVM's (`KVM_CREATE_DEVICE`)"),
    (VmStats, "a VM's statistics (`KVM_GET_STATS_FD`)"),
    (VcpuStats, "a vCPU's statistics (`KVM_GET_STATS_FD`)"),
    (GuestMemory, "a `guest_memfd`"),
    (OthersVm, "a VM that another process has made"),
    (OthersVcpu, "a vCPU that another process has made"),
    (DeadVm, "a VM that is dead"),
    (DeadVcpu, "a vCPU whose VM is dead"),
    (Garbage, "the right one, the register's upper half not 0"),
];

const DEVICE_ONLY: &str = "only `/dev/kvm` has the ioctl; the call also takes a VM, because \
                           `kvm_create_vm` leaves no other descriptor";
const KIND_FIRST: &str = "the call first checks the kind of the file, in the built-in entry \
                          point; the ioctl reaches the handler of the file, which first checks \
                          the owner";
const FEATURES: &str = "on `/dev/kvm` this code is another request, which reads MSRs with features";
const NO_FD: &str = "the call takes none";
const RIGHT: &str = "it is the right one";

const MAP: &[TestedCall] = &[Process(ProcessCall::kvm_map_memory)];
const EXTENSION: &[TestedCall] = &[Flat(kvm_check_extension)];
const GET_MSRS: &[TestedCall] = &[Flat(kvm_get_msrs)];

#[rustfmt::skip]
pub const RULES: &[Rule<Wrong>] = &[
    Rule(All, &[Closed, MinusOne, Lowest, BoundVm, Path, DevicePath], both(Fails(EBADF))),
    Rule(These(EXTENSION), &[MinusOne], differs(Fails(EBADF), Works,
        "without a descriptor the call asks KVM itself, so that a program can find out whether \
         the calls exist")),

    Rule(All, &[Pipe, Event, Regular, Directory, KvmDevice, VmStats, VcpuStats, GuestMemory],
        both(Fails(ENOTTY))),

    Rule(On(Fd::None), &[Device], nothing(RIGHT)),
    Rule(On(Fd::System), &[Device], both(Works)),
    Rule(On(Fd::Vm), &[Device], both(Fails(EINVAL))),
    Rule(On(Fd::Vcpu), &[Device], both(Fails(EINVAL))),
    Rule(These(GET_MSRS), &[Device], differs(Works, Fails(EINVAL), FEATURES)),
    Rule(These(MAP), &[Device], differs(Fails(ENODEV), Fails(EINVAL),
        "the library looks for memory of this VM, and finds none")),

    Rule(On(Fd::None), &[Vm], both(Fails(ENOTTY))),
    Rule(These(LISTS), &[Vm], differs(Fails(ENOTTY), Works, DEVICE_ONLY)),
    Rule(These(EXTENSION), &[Vm], both(Works)),
    Rule(On(Fd::Vm), &[Vm], nothing(RIGHT)),
    Rule(On(Fd::Vcpu), &[Vm], both(Fails(ENOTTY))),

    Rule(All, &[Vcpu], both(Fails(EINVAL))),
    Rule(On(Fd::Vcpu), &[Vcpu], nothing(RIGHT)),

    Rule(All, &[OthersVm, OthersVcpu, DeadVm, DeadVcpu], both(Fails(EIO))),
    Rule(On(Fd::Vcpu), &[OthersVm, DeadVm], differs(Fails(EIO), Fails(ENOTTY), KIND_FIRST)),
    Rule(On(Fd::System), &[OthersVcpu, DeadVcpu],
        differs(Fails(EIO), Fails(EINVAL), KIND_FIRST)),
    Rule(On(Fd::Vm), &[OthersVcpu, DeadVcpu], differs(Fails(EIO), Fails(EINVAL), KIND_FIRST)),

    Rule(All, &[Garbage], both(Works)),
    Rule(These(LIBRARY), &[Garbage], flat_only(Works, BY_TYPE)),

    Rule(On(Fd::VcpuOrTask), &[Pipe, Event, Regular, Directory, KvmDevice, VmStats, VcpuStats,
        GuestMemory, Device, Vm, OthersVm, DeadVm], both(Fails(EBADF))),
    Rule(On(Fd::VcpuOrTask), &[Vcpu], both(Works)),
];

const BY_TYPE: &str = "the library's types rule it out";

/// The expected result of a call with a wrong descriptor.
fn expected(call: TestedCall, wrong: Wrong) -> Expected {
    let expected = look_up(RULES, call, wrong);
    let takes = arguments(call, Route::Flat)
        .iter()
        .any(|it| it.kind == Kind::Fd);
    match (takes, call.has_ioctl()) {
        (true, _) => expected,
        (false, true) if expected.flat.is_none() => expected,
        (false, true) => expected.but_for(Route::Flat, NO_FD),
        (false, false) => nothing(NO_FD),
    }
}

pub fn cases() -> Vec<Misuse> {
    let mut cases = Vec::new();
    for call in TestedCall::all() {
        for (wrong, name) in ALL_WRONG {
            let expected = expected(call, wrong);
            cases.push(Misuse::new(call, name, expected, move |testbed, it| {
                attempt(testbed, it, wrong)
            }));
        }
    }
    cases
}

fn attempt(testbed: &mut Testbed<'_>, mut invocation: Invocation, wrong: Wrong) -> Result<Made> {
    let (others, dead) = (&testbed.both.others, &testbed.both.dead);
    let held;
    let fd = match wrong {
        // All others are sign-extended, as the C library passes them.
        Garbage => {
            invocation.words[0] |= 0xdead_beef << 32;
            return Ok(Made::of(&invocation, testbed));
        }
        Vm => testbed.machine.vm.as_raw_fd(),
        Vcpu => testbed.still.as_raw_fd(),
        OthersVm => others.vm.as_raw_fd(),
        OthersVcpu => others.vcpu.as_raw_fd(),
        DeadVm => dead.vm.as_raw_fd(),
        DeadVcpu => dead.vcpu.as_raw_fd(),
        Closed => RawFd::MAX,
        MinusOne => -1,
        Lowest => RawFd::MIN,
        BoundVm => KVM_BOUND_VM,
        _ => {
            held = open(wrong, testbed)?;
            held.as_raw_fd()
        }
    };
    invocation.words[0] = fd as u64;
    Ok(Made::of(&invocation, testbed))
}

const KVM_DEV_TYPE_VFIO: u32 = 4;
const KVM_X86_SW_PROTECTED_VM: c_ulong = 1;

fn open(wrong: Wrong, testbed: &Testbed<'_>) -> Result<OwnedFd> {
    let (vm, vcpu) = (&testbed.machine.vm, &testbed.still);
    // SAFETY: each call below returns a new descriptor.
    let made = |fd: libc::c_int| unsafe { new_descriptor(fd) }.map_err(anyhow::Error::from);
    let path = |path: &str| -> Result<OwnedFd> {
        let mut options = File::options();
        Ok(options
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path)?
            .into())
    };
    match wrong {
        Pipe => Ok(std::io::pipe()?.0.into()),
        // SAFETY: the call touches no memory.
        Event => made(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }),
        Regular => Ok(regular()?.into()),
        Directory => Ok(File::open("/proc")?.into()),
        Path => {
            drop(regular()?);
            path(REGULAR)
        }
        DevicePath => path("/dev/kvm"),
        Device => {
            let device = File::options().read(true).write(true).open("/dev/kvm")?;
            Ok(device.into())
        }
        KvmDevice => {
            let mut device = [KVM_DEV_TYPE_VFIO, 0, 0];
            let words = device.as_mut_ptr().expose_provenance();
            request(vm.as_fd(), KVM_CREATE_DEVICE, words)?;
            made(device[1] as RawFd)
        }
        // SAFETY: the request touches no memory.
        VmStats => made(unsafe { libc::ioctl(vm.as_raw_fd(), KVM_GET_STATS_FD, 0) }),
        // SAFETY: as above.
        VcpuStats => made(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD, 0) }),
        GuestMemory => {
            let device = testbed.both.ioctl.as_fd().as_raw_fd();
            let kind = KVM_X86_SW_PROTECTED_VM;
            // SAFETY: the request touches no memory.
            let vm = made(unsafe { libc::ioctl(device, kvm_sys::KVM_CREATE_VM, kind) })?;
            let mut memory = [0x1000_u64, 0, 0, 0, 0, 0, 0, 0];
            let fd = vm.as_raw_fd();
            // SAFETY: the kernel reads eight words.
            made(unsafe { libc::ioctl(fd, KVM_CREATE_GUEST_MEMFD, &raw mut memory) })
        }
        other => bail!("{other:?} is not opened"),
    }
}

const REGULAR: &str = "/tmp-errors";

/// A file that is not empty.
fn regular() -> Result<File> {
    fs::write(REGULAR, [0; 0x1000]).context(REGULAR)?;
    Ok(File::options().read(true).write(true).open(REGULAR)?)
}
