//! The virtual machine that is misused.

use std::cell::Cell;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use anyhow::{Context, Result, ensure};
use guests::msr::SYSENTER_CS;
use guests::{MEMORY, SLOT, TestVm, programs};
use kvm_api::ioctl::Ioctl;
use kvm_api::syscall::Syscall;
use kvm_api::{GuestMemory, Kvm};
use kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_sys::*;
use libc::c_ulong;
use nix::errno::Errno;

use super::expected::Route;
use super::others::{Others, dead};

/// Guest memory that the kernel has allocated: its slot, address and size.
pub const KERNEL_SLOT: u32 = 1;
pub const KERNEL_MEMORY: u64 = 0x10_0000;
pub const KERNEL_SIZE: u64 = 0x4000;
/// A slot that is not set, and guest physical addresses without memory.
pub const FREE_SLOT: u32 = 5;
pub const FREE: u64 = 0x100_0000;
pub const PAGE: u64 = 0x1000;

/// The MSR that is read and set.
pub const MSR: u32 = SYSENTER_CS;

/// Both interfaces, and machines that neither of them can use.
pub struct BothInterfaces {
    pub ioctl: Ioctl,
    pub flat: Syscall,
    /// A machine of another process.
    pub others: Others,
    /// A machine that KVM has given up.
    pub dead: Others,
}

impl BothInterfaces {
    pub fn open() -> Result<Self> {
        let ioctl = Ioctl::open()?;
        Ok(Self {
            others: Others::make(&ioctl)?,
            dead: dead(&ioctl)?,
            ioctl,
            flat: Syscall::open()?,
        })
    }

    pub fn of(&self, route: Route) -> &dyn Kvm {
        match route {
            Route::Ioctl => &self.ioctl,
            Route::Flat => &self.flat,
        }
    }
}

/// The limits of this kernel and this processor.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub slots: u64,
    pub vcpu_ids: u64,
    pub listed_msrs: u64,
    pub physical_bits: u32,
}

impl Facts {
    fn find(kvm: &Ioctl) -> Result<Self> {
        const KVM_CAP_MAX_VCPU_ID: u32 = 128;
        let ask = |extension| kvm.kvm_check_extension(kvm.as_fd(), extension);
        let mut list = MsrList::new(KVM_MAX_MSR_ENTRIES)?;
        kvm.kvm_get_msr_index_list(kvm.as_fd(), &mut list)?;
        let addresses = std::arch::x86_64::__cpuid(0x8000_0008);
        Ok(Self {
            slots: ask(KVM_CAP_NR_MEMSLOTS)? as u64,
            vcpu_ids: ask(KVM_CAP_MAX_VCPU_ID)? as u64,
            listed_msrs: list.as_slice().len() as u64,
            physical_bits: addresses.eax & 0xff,
        })
    }
}

/// A virtual machine with two vCPUs, one of which may run, and with memory of
/// both kinds; and host memory for arguments.
pub struct Testbed<'k> {
    pub route: Route,
    pub both: &'k BothInterfaces,
    pub machine: TestVm<'k>,
    /// The vCPU that never runs. Some settings cannot change after the first
    /// run.
    pub still: OwnedFd,
    /// Host memory for the structures and other data that arguments point to.
    pub arena: GuestMemory,
    /// Host memory that calls can give to the guest.
    pub host: GuestMemory,
    pub facts: Facts,
    /// The ID of the next vCPU that an ioctl creates.
    next_id: Cell<u64>,
}

/// The first ID above those of the testbed's vCPUs.
const FIRST_ID: u64 = 8;

/// The offset in the arena of the room behind the structure.
pub const ROOM: u64 = 0x1_0000;
/// The offset in the arena of valid registers.
pub const REGISTERS: u64 = ROOM + PAGE;

impl<'k> Testbed<'k> {
    pub fn new(both: &'k BothInterfaces, route: Route) -> Result<Self> {
        let kvm = both.of(route);
        let mut machine = TestVm::with_flags(kvm, KVM_MEM_LOG_DIRTY_PAGES);
        machine.load(programs::HLT);
        kvm.kvm_set_memory_region(
            machine.vm(),
            KERNEL_SLOT,
            KVM_MEM_LOG_DIRTY_PAGES,
            KERNEL_MEMORY,
            KERNEL_SIZE,
        )?;
        let still = kvm.kvm_create_vcpu(machine.vm())?;
        let mut arena = GuestMemory::anonymous(2 * ROOM as usize)?;
        let regs: [u8; size_of::<kvm_regs>()] = get(still.as_fd(), KVM_GET_REGS);
        arena.write(REGISTERS as usize, &regs)?;
        Ok(Self {
            route,
            both,
            machine,
            still,
            arena,
            host: GuestMemory::anonymous(PAGE as usize)?,
            facts: Facts::find(&both.ioctl)?,
            next_id: Cell::new(FIRST_ID),
        })
    }

    /// An ID that no vCPU has.
    pub fn next_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    /// The interface that created the machine.
    pub fn kvm(&self) -> &'k dyn Kvm {
        self.both.of(self.route)
    }

    /// The right file descriptor for the call.
    pub fn fd(&self, call: &Call) -> RawFd {
        // Over ioctl, only /dev/kvm takes two of the three system calls.
        let fd = match (self.route, call.fd) {
            (Route::Ioctl, Fd::None) => self.both.ioctl.as_fd(),
            (Route::Ioctl, Fd::System) if call.request != Some(KVM_CHECK_EXTENSION) => {
                self.both.ioctl.as_fd()
            }
            (_, Fd::None | Fd::System | Fd::Vm) => self.machine.vm(),
            (_, Fd::Vcpu) if call.number == __NR_kvm_run => self.machine.vcpu(),
            (_, Fd::Vcpu) => self.still.as_fd(),
        };
        fd.as_raw_fd()
    }

    /// The state of the vCPUs, and the number of open files.
    /// [`check_slots`](Self::check_slots) compares the slots.
    pub fn state(&self) -> Result<State> {
        Ok(State {
            vcpus: [self.machine.vcpu(), self.still.as_fd()].map(vcpu_state),
            files: fs::read_dir("/proc/self/fd")?.count(),
        })
    }

    /// Whether exactly the slots of [`new`](Self::new) are set, unchanged, and
    /// neither `named` nor the slots that calls usually set.
    pub fn check_slots(&self, named: Option<u32>) -> Result<()> {
        let (kvm, vm) = (self.kvm(), self.machine.vm());
        let mut bitmap = [0; MEMORY / PAGE as usize / 64 + 1];
        for slot in [SLOT, KERNEL_SLOT] {
            // SAFETY: the bitmap has a bit for each page of either memory.
            unsafe { kvm.kvm_get_dirty_log(vm, slot, &mut bitmap) }
                .with_context(|| format!("slot {slot} is not set any more"))?;
        }
        let logged = KVM_MEM_LOG_DIRTY_PAGES;
        let address = self.machine.memory.as_ptr().expose_provenance() as u64;
        // SAFETY: the memory is the machine's for as long as it is there.
        unsafe { kvm.kvm_set_user_memory_region(vm, SLOT, logged, 0, MEMORY as u64, address) }
            .context("the memory's slot has changed")?;
        kvm.kvm_set_memory_region(vm, KERNEL_SLOT, logged, KERNEL_MEMORY, KERNEL_SIZE)
            .context("the slot of the kernel's memory has changed")?;
        let aliases = self.facts.slots as u32 - KVM_ALIAS_SLOTS..self.facts.slots as u32;
        let named = named.filter(|slot| ![SLOT, KERNEL_SLOT].contains(slot));
        for slot in aliases.chain([FREE_SLOT]).chain(named) {
            let region = kvm_userspace_memory_region {
                slot,
                ..Default::default()
            };
            // SAFETY: it deletes a slot, which needs no memory.
            let deleted =
                unsafe { libc::ioctl(vm.as_raw_fd(), KVM_SET_USER_MEMORY_REGION, &region) };
            ensure!(deleted != 0, "slot {slot} was set");
        }
        Ok(())
    }

    /// Undoes the effects of successful calls on the vCPUs.
    pub fn restore(&mut self, state: &State) -> Result<()> {
        let vcpus = [self.machine.vcpu(), self.still.as_fd()];
        for (vcpu, saved) in vcpus.into_iter().zip(&state.vcpus) {
            set(
                vcpu,
                KVM_SET_GUEST_DEBUG,
                &[0; size_of::<kvm_guest_debug>()],
            )?;
            set(vcpu, KVM_SET_SREGS, &saved.sregs)?;
            set(vcpu, KVM_SET_REGS, &saved.regs)?;
            set(vcpu, KVM_SET_FPU, &saved.fpu)?;
            set(vcpu, KVM_SET_VCPU_EVENTS, &saved.events)?;
            let kvm = &self.both.ioctl;
            kvm.kvm_set_signal_mask(vcpu, None)?;
            kvm.kvm_set_msrs(vcpu, &sysenter(saved.msr)?)?;
        }
        let none = CpuId::new(0)?;
        self.kvm().kvm_set_cpuid(self.still.as_fd(), &none)?;
        Ok(())
    }

    /// Deletes a slot, if it is set.
    pub fn delete(&self, slot: u32) {
        // The slots of the testbed remain.
        if ![SLOT, KERNEL_SLOT].contains(&slot) {
            self.unset(slot);
        }
    }

    /// Makes the library free the memory that it has allocated for a machine
    /// that is gone.
    pub fn forget_memory(&self) {
        self.unset(KERNEL_SLOT);
    }

    fn unset(&self, slot: u32) {
        // SAFETY: a slot that is deleted needs no memory.
        let _ = unsafe {
            let vm = self.machine.vm();
            self.kvm().kvm_set_user_memory_region(vm, slot, 0, 0, 0, 0)
        };
    }
}

impl Drop for Testbed<'_> {
    fn drop(&mut self) {
        self.forget_memory();
    }
}

/// The state that a refused call must not change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    vcpus: [VcpuState; 2],
    files: usize,
}

impl State {
    /// Describes what has changed.
    pub fn difference(&self, before: &Self) -> Option<String> {
        let names = ["the vcpu that runs", "the vcpu that is still"];
        for (name, (now, before)) in names.iter().zip(self.vcpus.iter().zip(&before.vcpus)) {
            for (part, now, before) in [
                ("registers", &now.regs[..], &before.regs[..]),
                ("special registers", &now.sregs, &before.sregs),
                ("FPU", &now.fpu, &before.fpu),
                ("events", &now.events, &before.events),
                ("MSR", &now.msr.to_le_bytes(), &before.msr.to_le_bytes()),
            ] {
                if now != before {
                    return Some(format!("{name} has other {part}"));
                }
            }
        }
        let (now, before) = (self.files, before.files);
        (now != before).then(|| format!("{now} files are open, before {before}"))
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct VcpuState {
    regs: [u8; size_of::<kvm_regs>()],
    sregs: [u8; size_of::<kvm_sregs>()],
    fpu: [u8; size_of::<kvm_fpu>()],
    events: [u8; size_of::<kvm_vcpu_events>()],
    msr: u64,
}

fn vcpu_state(vcpu: BorrowedFd<'_>) -> VcpuState {
    let mut msrs = [0_u64; 3];
    msrs[0] = 1;
    msrs[1] = MSR.into();
    // SAFETY: the kernel reads and writes a header and one entry.
    let read = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_MSRS, &raw mut msrs) };
    assert_eq!(read, 1, "an MSR cannot be read");
    VcpuState {
        regs: get(vcpu, KVM_GET_REGS),
        sregs: get(vcpu, KVM_GET_SREGS),
        fpu: get(vcpu, KVM_GET_FPU),
        events: get(vcpu, KVM_GET_VCPU_EVENTS),
        msr: msrs[2],
    }
}

/// The result of a request, whose size is the number of bytes.
fn get<const N: usize>(vcpu: BorrowedFd<'_>, request: c_ulong) -> [u8; N] {
    assert_eq!(request >> 16 & 0x3fff, N as c_ulong, "{request:#x}");
    let mut bytes = [0; N];
    // SAFETY: the kernel writes as many bytes as the request says, N.
    let read = unsafe { libc::ioctl(vcpu.as_raw_fd(), request, &raw mut bytes) };
    assert_eq!(Errno::result(read), Ok(0), "{request:#x}");
    bytes
}

fn set<const N: usize>(vcpu: BorrowedFd<'_>, request: c_ulong, bytes: &[u8; N]) -> Result<()> {
    assert_eq!(request >> 16 & 0x3fff, N as c_ulong, "{request:#x}");
    // SAFETY: the kernel reads as many bytes as the request says, N.
    Errno::result(unsafe { libc::ioctl(vcpu.as_raw_fd(), request, ptr::from_ref(bytes)) })
        .with_context(|| format!("request {request:#x}"))?;
    Ok(())
}

fn sysenter(data: u64) -> Result<Msrs> {
    let entry = kvm_msr_entry {
        index: MSR,
        data,
        ..Default::default()
    };
    Ok(Msrs::from_entries(&[entry])?)
}
