//! The calls of the other forms. Each asks about the ioctls that it replaces: the
//! binding about all that the calls on a bound vCPU replace.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use anyhow::{Result, anyhow};
use guests::TestVm;
use kvm_api::bound::BoundVcpu;
use kvm_api::files::File;
use kvm_api::kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_api::kvm_sys::state::*;
use kvm_api::kvm_sys::*;
use kvm_api::process::BoundVm;
use kvm_api::ranges::{RangeMemory, range};
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, GuestMemory, Kvm};
use libc::c_ulong;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::attempts::{VCPU, VM};
use super::tomoyo::Rules;
use crate::outcome::Outcome;

/// The parts of a vCPU's state that have no flat call.
const PARTS: [(u64, c_ulong, c_ulong); 11] = [
    (KVM_STATE_DEBUGREGS, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS),
    (
        KVM_STATE_VCPU_EVENTS,
        KVM_GET_VCPU_EVENTS,
        KVM_SET_VCPU_EVENTS,
    ),
    (KVM_STATE_XCRS, KVM_GET_XCRS, KVM_SET_XCRS),
    (KVM_STATE_SREGS2, KVM_GET_SREGS2, KVM_SET_SREGS2),
    (KVM_STATE_XSAVE, KVM_GET_XSAVE2, KVM_SET_XSAVE),
    (KVM_STATE_LAPIC, KVM_GET_LAPIC, KVM_SET_LAPIC),
    (KVM_STATE_MP_STATE, KVM_GET_MP_STATE, KVM_SET_MP_STATE),
    (
        KVM_STATE_NESTED_STATE,
        KVM_GET_NESTED_STATE,
        KVM_SET_NESTED_STATE,
    ),
    (KVM_STATE_CPUID, KVM_GET_CPUID2, KVM_SET_CPUID2),
    (KVM_STATE_TSC_KHZ, KVM_GET_TSC_KHZ, KVM_SET_TSC_KHZ),
    (
        KVM_STATE_TSC_OFFSET,
        KVM_GET_DEVICE_ATTR,
        KVM_SET_DEVICE_ATTR,
    ),
];

/// The files of parts that have no flat call.
const FILES: [(File, c_ulong, c_ulong); 6] = [
    (File::Xcrs, KVM_GET_XCRS, KVM_SET_XCRS),
    (File::Debugregs, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS),
    (File::Events, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS),
    (File::MpState, KVM_GET_MP_STATE, KVM_SET_MP_STATE),
    (File::Lapic, KVM_GET_LAPIC, KVM_SET_LAPIC),
    (File::Xsave, KVM_GET_XSAVE2, KVM_SET_XSAVE),
];

/// Guest memory that no test uses otherwise.
const ADDRESS: u64 = 1 << 30;
const PAGE: u64 = 0x1000;

/// A file, a command about which the module is asked, and the call that asks.
type Attempt = (String, c_ulong, Call);

#[derive(Clone, Copy, Debug)]
enum Call {
    Bind,
    GetState(u64),
    SetState(u64),
    OpenToRead(File),
    OpenToWrite(File),
    MapRange,
    UnmapRange,
    GetDirtyRange,
    ClearDirtyRange,
    ProtectRange,
    SetMemoryAttributes,
    OnBoundVm,
    CreateBoundVcpu,
}

/// Denies each command in turn, and allows it again.
pub fn test(rules: &mut Rules, machine: &TestVm<'_>, outcome: &mut Outcome) -> Result<()> {
    let attempts = all();
    for (path, command, _) in &attempts {
        rules.allow(path, *command)?;
    }
    for &(ref path, command, call) in &attempts {
        let allowed = call.make(machine);
        rules.forbid(path, command)?;
        let denied = call.make(machine);
        rules.allow(path, command)?;
        let again = call.make(machine);
        let result = match [allowed, denied, again] {
            [Ok(()), Err(Errno::EPERM), Ok(())] => Ok(()),
            found => Err(anyhow!("allowed, denied, and allowed again: {found:?}")),
        };
        let name = format!("{call:?}, {command:#x} on {path}");
        outcome.case(&name, result);
    }
    Ok(())
}

fn all() -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut add = |path: &str, command, call| attempts.push((path.to_owned(), command, call));
    for call in FlatCall::ALL {
        let Some(command) = call.request else {
            continue;
        };
        let gets = call.name.starts_with("kvm_get_");
        if call.bound.is_some() {
            add(VCPU, command, Call::Bind);
        }
        if let Some(part) = call.merged {
            let (get, set) = (Call::GetState(part), Call::SetState(part));
            add(VCPU, command, if gets { get } else { set });
        }
        if let Some(file) = File::of(&call) {
            let path = path(file);
            let (read, write) = (Call::OpenToRead(file), Call::OpenToWrite(file));
            add(&path, command, if gets { read } else { write });
        }
    }
    for (file, get, set) in FILES {
        add(&path(file), get, Call::OpenToRead(file));
        add(&path(file), set, Call::OpenToWrite(file));
    }
    for (part, get, set) in PARTS {
        add(VCPU, get, Call::Bind);
        add(VCPU, set, Call::Bind);
        add(VCPU, get, Call::GetState(part));
        add(VCPU, set, Call::SetState(part));
    }
    add(VM, KVM_SET_USER_MEMORY_REGION2, Call::MapRange);
    add(VM, KVM_SET_USER_MEMORY_REGION, Call::UnmapRange);
    add(VM, KVM_GET_DIRTY_LOG, Call::GetDirtyRange);
    add(VM, KVM_CLEAR_DIRTY_LOG, Call::ClearDirtyRange);
    add(VM, KVM_SET_USER_MEMORY_REGION, Call::ProtectRange);
    add(VM, KVM_SET_MEMORY_ATTRIBUTES, Call::SetMemoryAttributes);
    add(VM, KVM_CHECK_EXTENSION, Call::OnBoundVm);
    // It binds the vCPU, and asks for this as well.
    add(VM, KVM_CREATE_VCPU, Call::CreateBoundVcpu);
    add(VCPU, KVM_RUN, Call::CreateBoundVcpu);
    attempts
}

/// The name that the kernel gives a file.
fn path(file: File) -> String {
    format!("{VCPU}/{}", file.name().to_string_lossy())
}

impl Call {
    fn make(self, machine: &TestVm<'_>) -> kvm_api::Result<()> {
        let flat = Syscall::open().expect("the calls are there");
        let (vm, vcpu) = (machine.vm(), machine.vcpu());
        match self {
            Self::Bind => BoundVcpu::bind(flat, vcpu).map(drop),
            Self::GetState(part) => state(__NR_kvm_get_state, vcpu, part, &mut [0; BUFFER]),
            Self::SetState(part) => {
                let mut buffer = [0; BUFFER];
                state(__NR_kvm_get_state, vcpu, part, &mut buffer)?;
                state(__NR_kvm_set_state, vcpu, part, &mut buffer)
            }
            Self::OpenToRead(file) => open(vcpu, file, OFlag::O_RDONLY),
            Self::OpenToWrite(file) => open(vcpu, file, OFlag::O_WRONLY),
            Self::MapRange => with_range(flat, vm, |_| Ok(())),
            Self::UnmapRange => RangeMemory::new(flat, vm).kvm_unmap_range(0, ADDRESS, PAGE),
            Self::GetDirtyRange => with_range(flat, vm, |ranges| {
                // SAFETY: the bitmap has a bit for the page.
                unsafe { ranges.kvm_get_dirty_range(0, ADDRESS, PAGE, &mut [0], 0) }
            }),
            Self::ClearDirtyRange => with_range(flat, vm, |ranges| {
                // SAFETY: the bitmap has a bit for the page.
                unsafe { ranges.kvm_clear_dirty_range(0, ADDRESS, PAGE, &[1]) }
            }),
            Self::ProtectRange => {
                let ranges = RangeMemory::new(flat, vm);
                // SAFETY: nothing is mapped there.
                match unsafe { ranges.kvm_protect_range(0, ADDRESS, PAGE, 0) } {
                    Err(Errno::ENOMEM) => Ok(()),
                    other => other,
                }
            }
            Self::SetMemoryAttributes => {
                RangeMemory::new(flat, vm).kvm_set_memory_attributes(ADDRESS, PAGE, 0)
            }
            Self::OnBoundVm => {
                let vm = BoundVm::bind(flat, vm)?;
                let slots = flat.kvm_check_extension(vm.as_fd(), KVM_CAP_NR_MEMSLOTS);
                slots.map(drop)
            }
            // The rules name the first vCPU of a VM.
            Self::CreateBoundVcpu => BoundVm::create(flat)?.create_vcpu().map(drop),
        }
    }
}

/// More words than any part of the state has.
const BUFFER: usize = 0x800;
/// The size of the buffer in bytes, without its first word.
const ROOM: u64 = 8 * (BUFFER as u64 - 1);

/// Moves one part of the state from or to the buffer, and no MSR.
fn state(
    number: libc::c_long,
    vcpu: BorrowedFd<'_>,
    part: u64,
    buffer: &mut [u64; BUFFER],
) -> kvm_api::Result<()> {
    let address = buffer.as_mut_ptr().expose_provenance() as u64;
    if number == __NR_kvm_get_state {
        // The room for what follows.
        buffer[0] = match part {
            KVM_STATE_XSAVE => ROOM,
            KVM_STATE_NESTED_STATE => ROOM << 32,
            KVM_STATE_CPUID => KVM_MAX_CPUID_ENTRIES as u64,
            _ => 0,
        };
    }
    let state = kvm_vcpu_state {
        parts: part,
        regs: address,
        sregs: address,
        fpu: address,
        msrs: address,
        debugregs: address,
        vcpu_events: address,
        xcrs: address,
        sregs2: address,
        xsave: address,
        lapic: address,
        mp_state: address,
        nested_state: address,
        cpuid: address,
        tsc_khz: address,
        tsc_offset: address,
    };
    let size = size_of_val(&state);
    // SAFETY: the buffer is longer than each part. Its first word is the number of MSRs.
    let answer = unsafe { libc::syscall(number, vcpu.as_raw_fd(), &raw const state, size) };
    Errno::result(answer).map(drop)
}

fn open(vcpu: BorrowedFd<'_>, file: File, mode: OFlag) -> kvm_api::Result<()> {
    openat(vcpu, file.name(), mode | OFlag::O_CLOEXEC, Mode::empty()).map(drop)
}

/// Maps a page while `act` runs.
fn with_range(
    flat: Syscall,
    vm: BorrowedFd<'_>,
    act: impl FnOnce(&RangeMemory<BorrowedFd<'_>>) -> kvm_api::Result<()>,
) -> kvm_api::Result<()> {
    let memory = GuestMemory::anonymous(PAGE as usize).expect("there is memory");
    let ranges = RangeMemory::new(flat, vm.as_fd());
    let address = memory.as_ptr().expose_provenance() as u64;
    // SAFETY: the memory stays until it is unmapped from the guest.
    unsafe { ranges.kvm_map_range(&range(ADDRESS, PAGE, address, KVM_MEM_LOG_DIRTY_PAGES)) }?;
    let result = act(&ranges);
    ranges.kvm_unmap_range(0, ADDRESS, PAGE)?;
    result
}
