//! The virtual machine that is misused.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use guests::{MEMORY, SLOT, TestVm, programs};
use kvm_api::ioctl::Ioctl;
use kvm_api::ranges::{self, RangeMemory};
use kvm_api::syscall::Syscall;
use kvm_api::{GuestMemory, Kvm};
use kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_sys::*;
use nix::errno::Errno;

use super::expected::Route;
use super::others::{Others, dead};
use crate::audit;
use crate::child::pidfd;
use crate::requests::request;
use crate::tested_call::TestedCall;
use crate::vcpu_state::{self, VcpuState};

/// Guest memory that the kernel has allocated: its slot, address and size.
pub const KERNEL_SLOT: u32 = 1;
pub const KERNEL_MEMORY: u64 = 0x10_0000;
pub const KERNEL_SIZE: u64 = 0x4000;
/// A slot that is not set, and guest physical addresses without memory.
pub const FREE_SLOT: u32 = 5;
pub const FREE: u64 = 0x100_0000;
/// A page of guest memory that was mapped by its address, without a slot's number.
pub const RANGE: u64 = 0x80_0000;
pub const PAGE: u64 = 0x1000;

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
    /// The memory at [`RANGE`].
    _range: GuestMemory,
    pub facts: Facts,
    /// This process.
    pub pidfd: OwnedFd,
    /// The ID of the next vCPU that an ioctl creates.
    next_id: Cell<u64>,
}

/// The first ID above those of the testbed's vCPUs.
const FIRST_ID: u64 = 8;

/// The offset in the arena of the room behind the structure.
pub const ROOM: u64 = 0x1_0000;
/// The offset in the arena of valid registers.
pub const REGISTERS: u64 = ROOM + PAGE;
/// The same of the special registers.
pub const SREGS2: u64 = ROOM + 2 * PAGE;
/// The same of parts for which 0 is valid.
pub const TSC_OFFSET: u64 = ROOM + 3 * PAGE;
pub const MP_STATE: u64 = ROOM + 4 * PAGE;
pub const TSC_KHZ: u64 = ROOM + 5 * PAGE;

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
        let range = GuestMemory::anonymous(PAGE as usize)?;
        let address = range.as_ptr().expose_provenance() as u64;
        let ranges = RangeMemory::new(both.flat, machine.vm());
        // SAFETY: the memory belongs to the machine, and lives as long.
        unsafe { ranges.kvm_map_range(&ranges::range(RANGE, PAGE, address, 0)) }?;
        let still = kvm.kvm_create_vcpu(machine.vm())?;
        let mut arena = GuestMemory::anonymous(2 * ROOM as usize)?;
        let regs = vcpu_state::read(still.as_fd(), KVM_GET_REGS)?;
        arena.write(REGISTERS as usize, &regs)?;
        let sregs2 = vcpu_state::read(still.as_fd(), KVM_GET_SREGS2)?;
        arena.write(SREGS2 as usize, &sregs2)?;
        Ok(Self {
            route,
            both,
            machine,
            still,
            arena,
            host: GuestMemory::anonymous(PAGE as usize)?,
            _range: range,
            facts: Facts::find(&both.ioctl)?,
            pidfd: pidfd(std::process::id())?,
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
    pub fn fd(&self, call: TestedCall) -> BorrowedFd<'_> {
        // Over ioctl, only /dev/kvm takes two of the three system calls.
        match (self.route, call.fd) {
            (Route::Ioctl, Fd::System) if call.request == Some(KVM_CHECK_EXTENSION) => {
                self.machine.vm()
            }
            (Route::Ioctl, Fd::None | Fd::System) => self.both.ioctl.as_fd(),
            (_, Fd::None | Fd::System | Fd::Vm) => self.machine.vm(),
            (_, Fd::Vcpu) if call.number == __NR_kvm_run => self.machine.vcpu(),
            (_, Fd::Vcpu) => self.still.as_fd(),
            (_, Fd::VcpuOrTask) => self.pidfd.as_fd(),
        }
    }

    /// Binds the vCPU that never runs to this thread, in place of another testbed's.
    pub fn bind(&self) {
        self.unbind();
        // SAFETY: the call touches no memory.
        let bound = unsafe { libc::syscall(__NR_kvm_bind, self.still.as_raw_fd()) };
        assert_eq!(Errno::result(bound), Ok(0), "kvm_bind");
    }

    /// Unbinds the vCPU that is bound to this thread, if there is one.
    pub fn unbind(&self) {
        // SAFETY: the call touches no memory.
        unsafe { libc::syscall(__NR_kvm_unbind) };
    }

    /// Binds the VM to the address space, in place of another testbed's.
    pub fn bind_vm(&self) {
        self.unbind_vm();
        // SAFETY: the call touches no memory.
        let bound = unsafe { libc::syscall(__NR_kvm_bind_vm, self.machine.vm().as_raw_fd()) };
        assert_eq!(Errno::result(bound), Ok(0), "kvm_bind_vm");
    }

    /// Unbinds the VM of the address space, if there is one.
    pub fn unbind_vm(&self) {
        // SAFETY: the call touches no memory.
        unsafe { libc::syscall(__NR_kvm_unbind_vm) };
    }

    /// The state of the vCPUs, and the number of open files.
    /// [`check_slots`](Self::check_slots) compares the slots.
    pub fn state(&self) -> Result<State> {
        Ok(State {
            vcpus: [
                VcpuState::of(self.machine.vcpu())?,
                VcpuState::of(self.still.as_fd())?,
            ],
            files: audit::open_files()?.len(),
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
                .with_context(|| format!("slot {slot} is no longer set"))?;
        }
        let logged = KVM_MEM_LOG_DIRTY_PAGES;
        let address = self.machine.memory.as_ptr().expose_provenance() as u64;
        // SAFETY: the memory belongs to the machine, and lives as long.
        unsafe { kvm.kvm_set_user_memory_region(vm, SLOT, logged, 0, MEMORY as u64, address) }
            .context("the memory's slot has changed")?;
        kvm.kvm_set_memory_region(vm, KERNEL_SLOT, logged, KERNEL_MEMORY, KERNEL_SIZE)
            .context("the slot of the kernel's memory has changed")?;
        let aliases = self.facts.slots as u32 - KVM_ALIAS_SLOTS..self.facts.slots as u32;
        let named = named.filter(|slot| !self.sets(*slot));
        for slot in aliases.chain([FREE_SLOT]).chain(named) {
            let region = kvm_userspace_memory_region {
                slot,
                ..Default::default()
            };
            let region = (&raw const region).expose_provenance();
            let deleted = request(vm, KVM_SET_USER_MEMORY_REGION, region);
            ensure!(deleted.is_err(), "slot {slot} was set");
        }
        Ok(())
    }

    /// Undoes the effects of successful calls on the vCPUs.
    pub fn restore(&mut self, state: &State) -> Result<()> {
        self.unbind();
        self.unbind_vm();
        let vcpus = [self.machine.vcpu(), self.still.as_fd()];
        for (vcpu, saved) in vcpus.into_iter().zip(&state.vcpus) {
            self.both.ioctl.kvm_debug_guest(vcpu, &Default::default())?;
            saved.restore(vcpu)?;
            self.both.ioctl.kvm_set_signal_mask(vcpu, None)?;
        }
        let none = CpuId::new(0)?;
        self.kvm().kvm_set_cpuid(self.still.as_fd(), &none)?;
        Ok(())
    }

    /// Deletes a slot, if it is set.
    pub fn delete(&self, slot: u32) {
        // The slots of the testbed remain.
        if !self.sets(slot) {
            self.unset(slot);
        }
    }

    /// Whether it is a slot of [`new`](Self::new). Ranges get the highest numbers below
    /// those of aliases.
    fn sets(&self, slot: u32) -> bool {
        let ranges = self.facts.slots as u32 - KVM_ALIAS_SLOTS - 1;
        [SLOT, KERNEL_SLOT, ranges].contains(&slot)
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
        self.unbind();
        self.unbind_vm();
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
    /// Describes the first change.
    pub fn difference(&self, before: &Self) -> Option<String> {
        let names = ["the vCPU that runs", "the vCPU that is still"];
        for (name, (now, before)) in names.iter().zip(self.vcpus.iter().zip(&before.vcpus)) {
            if let Some(part) = now.differences(before).first() {
                return Some(format!("{name} has other {part}"));
            }
        }
        let (now, before) = (self.files, before.files);
        (now != before).then(|| format!("{now} files are open; before, {before} were"))
    }
}
