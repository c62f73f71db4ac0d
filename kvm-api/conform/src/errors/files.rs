//! File descriptors of the wrong kind.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail};
use kvm_sys::FlatCall::*;
use kvm_sys::{BindingCall, Fd, KVM_CREATE_DEVICE, KVM_CREATE_GUEST_MEMFD, KVM_GET_STATS_FD};
use libc::c_ulong;
use nix::errno::Errno::{self, *};

use self::Wrong::*;
use super::expected::Expectation::{Fails, Works};
use super::expected::Of::{All, On, These};
use super::expected::{Expected, Route, Rule, both, differs, flat_only, look_up, nothing};
use super::misuse::{Made, Misuse};
use super::signature::{Kind, arguments};
use super::testbed::Testbed;
use crate::requests::new_descriptor;
use crate::tested_call::TestedCall;

/// A descriptor in place of the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Closed,
    MinusOne,
    Lowest,
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

pub const ALL_WRONG: [(Wrong, &str); 21] = [
    (Closed, "closed"),
    (MinusOne, "-1"),
    (Lowest, "the lowest `int`"),
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
const MMAP: &str =
    "the call is mmap(), which maps any file that has memory; the library first checks the file";
const RIGHT: &str = "it is the right one";

/// mmap() of a file that is not open for writing.
const NOT_WRITABLE: Expected = differs(Fails(ENOTTY), Fails(EACCES), MMAP);

/// mmap() of a file that cannot be mapped.
const NOT_MAPPED: Expected = differs(Fails(ENOTTY), Fails(ENODEV), MMAP);

/// mmap() works on other files that have memory.
const ANY_MAPPED: Expected = differs(Fails(ENOTTY), Works, MMAP);

const MAP: &[TestedCall] = &[TestedCall::MapMemory];
const EXTENSION: &[TestedCall] = &[TestedCall::Flat(kvm_check_extension)];
const LISTS: &[TestedCall] = &[
    TestedCall::Flat(kvm_get_msr_index_list),
    TestedCall::Flat(kvm_get_vcpu_mmap_size),
];
const GET_MSRS: &[TestedCall] = &[TestedCall::Flat(kvm_get_msrs)];
const LIBRARY: &[TestedCall] = &[
    TestedCall::Flat(kvm_set_memory_region),
    TestedCall::Flat(kvm_get_memory_alias),
    TestedCall::Flat(kvm_set_memory_alias),
    TestedCall::MapMemory,
];
const KICK: &[TestedCall] = &[TestedCall::Binding(BindingCall::kvm_kick)];

const NO_PIDFD: Expected = both(Fails(EBADF));

#[rustfmt::skip]
pub const RULES: &[Rule<Wrong>] = &[
    Rule(All, &[Closed, MinusOne, Lowest, Path, DevicePath], both(Fails(EBADF))),
    Rule(These(EXTENSION), &[MinusOne], differs(Fails(EBADF), Works,
        "without a descriptor the call asks KVM itself, so that a program can find out whether \
         the calls exist")),

    Rule(All, &[Pipe, Event, Regular, Directory, KvmDevice, VmStats, VcpuStats, GuestMemory],
        both(Fails(ENOTTY))),
    Rule(These(MAP), &[Pipe, Directory, VmStats, VcpuStats], NOT_WRITABLE),
    Rule(These(MAP), &[Event, KvmDevice, GuestMemory], NOT_MAPPED),
    Rule(These(MAP), &[Regular], ANY_MAPPED),

    Rule(On(Fd::None), &[Device], nothing(RIGHT)),
    Rule(On(Fd::System), &[Device], both(Works)),
    Rule(On(Fd::Vm), &[Device], both(Fails(EINVAL))),
    Rule(On(Fd::Vcpu), &[Device], both(Fails(EINVAL))),
    Rule(These(GET_MSRS), &[Device], differs(Works, Fails(EINVAL), FEATURES)),
    Rule(These(MAP), &[Device], both(Fails(ENODEV))),

    Rule(On(Fd::None), &[Vm], both(Fails(ENOTTY))),
    Rule(These(LISTS), &[Vm], differs(Fails(ENOTTY), Works, DEVICE_ONLY)),
    Rule(These(EXTENSION), &[Vm], both(Works)),
    Rule(On(Fd::Vm), &[Vm], nothing(RIGHT)),
    Rule(On(Fd::Vcpu), &[Vm], both(Fails(ENOTTY))),

    Rule(All, &[Vcpu], both(Fails(EINVAL))),
    Rule(On(Fd::Vcpu), &[Vcpu], nothing(RIGHT)),
    Rule(These(MAP), &[Vcpu], differs(Fails(EINVAL), Works, MMAP)),

    Rule(All, &[OthersVm, OthersVcpu, DeadVm, DeadVcpu], both(Fails(EIO))),
    Rule(On(Fd::Vcpu), &[OthersVm, DeadVm], differs(Fails(EIO), Fails(ENOTTY), KIND_FIRST)),
    Rule(On(Fd::System), &[OthersVcpu, DeadVcpu],
        differs(Fails(EIO), Fails(EINVAL), KIND_FIRST)),
    Rule(On(Fd::Vm), &[OthersVcpu, DeadVcpu], differs(Fails(EIO), Fails(EINVAL), KIND_FIRST)),
    Rule(These(MAP), &[OthersVcpu, DeadVcpu], differs(Fails(EIO), Works, MMAP)),

    Rule(All, &[Garbage], both(Works)),
    Rule(These(LIBRARY), &[Garbage], flat_only(Works, BY_TYPE)),

    Rule(These(KICK), &[Closed, MinusOne, Lowest, Path, DevicePath, Pipe, Event, Regular,
        Directory, KvmDevice, VmStats, VcpuStats, GuestMemory, Device, Vm, Vcpu, OthersVm,
        OthersVcpu, DeadVm, DeadVcpu], NO_PIDFD),
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

/// A case for each call and each wrong descriptor.
pub fn cases() -> Vec<Misuse> {
    let each =
        TestedCall::all().flat_map(|call| ALL_WRONG.map(|(wrong, name)| (call, wrong, name)));
    each.map(|(call, wrong, name)| {
        Misuse::new(
            call,
            name,
            expected(call, wrong),
            move |testbed, mut invocation| {
                let good = invocation.words[0];
                let held;
                invocation.words[0] = match wrong {
                    Garbage => good | 0xdead_beef << 32,
                    Vm => testbed.machine.vm.as_raw_fd() as u64,
                    Vcpu => testbed.still.as_raw_fd() as u64,
                    OthersVm => testbed.both.others.vm.as_raw_fd() as u64,
                    OthersVcpu => testbed.both.others.vcpu.as_raw_fd() as u64,
                    DeadVm => testbed.both.dead.vm.as_raw_fd() as u64,
                    DeadVcpu => testbed.both.dead.vcpu.as_raw_fd() as u64,
                    Closed => c_int_of(RawFd::MAX),
                    MinusOne => c_int_of(-1),
                    Lowest => c_int_of(RawFd::MIN),
                    _ => {
                        held = open(wrong, testbed)?;
                        held.as_raw_fd() as u64
                    }
                };
                Ok(Made::of(&invocation, testbed))
            },
        )
    })
    .collect()
}

/// A descriptor as the C library would pass it.
fn c_int_of(fd: RawFd) -> u64 {
    i64::from(fd) as u64
}

const KVM_DEV_TYPE_VFIO: u32 = 4;
const KVM_X86_SW_PROTECTED_VM: c_ulong = 1;

fn open(wrong: Wrong, testbed: &Testbed<'_>) -> Result<OwnedFd> {
    let (vm, vcpu) = (&testbed.machine.vm, &testbed.still);
    // SAFETY: each call below returns a new descriptor.
    let made = |fd: libc::c_int| unsafe { new_descriptor(fd) }.map_err(anyhow::Error::from);
    let path = |path: &str| {
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        let path = std::ffi::CString::new(path).expect("the path has no zero byte");
        // SAFETY: it reads a string that ends.
        made(unsafe { libc::open(path.as_ptr(), flags) })
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
            let fd = vm.as_raw_fd();
            // SAFETY: the kernel reads and writes three words.
            Errno::result(unsafe { libc::ioctl(fd, KVM_CREATE_DEVICE, &raw mut device) })
                .context("KVM_CREATE_DEVICE")?;
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
