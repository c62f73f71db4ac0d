//! The pool of a child: the descriptors and the memory that its steps use.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{NonNull, with_exposed_provenance_mut};

use anyhow::{Context, Result};
use clap::ValueEnum;
use guests::{MEMORY, TestVm, programs};
use kvm_api::GuestMemory;
use kvm_api::ioctl::Ioctl;
use kvm_api::ranges;
use kvm_api::syscall::Syscall;
use kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_sys::state::*;
use kvm_sys::{__NR_kvm_unbind, KVM_BOUND_VM, kvm_fpu, kvm_vcpu_state};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mprotect};

use super::argument::{Fd, Place};
use crate::child::pidfd;
use crate::requests::filled;

/// The size of each place. An unmapped hole follows it.
const ROOM: usize = 0x4000;
const PAGE: usize = 0x1000;
/// An address in the kernel's half.
const KERNEL: u64 = 0xffff_ffff_8100_0000;
/// The number of new descriptors that are kept.
const NEW: usize = 6;

pub struct Pool {
    guests: [TestVm<'static>; 2],
    device: File,
    pipe: [OwnedFd; 2],
    new: VecDeque<OwnedFd>,
    /// This process.
    pidfd: OwnedFd,
    /// The vCPU that is bound to this task, and its descriptor at that time.
    bound: Option<(OwnedFd, RawFd)>,
    arena: GuestMemory,
    /// The address of a second run mapping of the first vCPU.
    run: u64,
}

impl Pool {
    /// One virtual machine from each interface, and valid structures.
    pub fn new() -> Result<Self> {
        // The child ends without dropping values.
        let syscall: &'static Syscall = Box::leak(Box::new(Syscall::open()?));
        let ioctl: &'static Ioctl = Box::leak(Box::new(Ioctl::open()?));
        let mut guests = [TestVm::new(syscall), TestVm::new(ioctl)];
        for guest in &mut guests {
            // A guest that leaves its program halts. Zeroes would be an
            // instruction that soon overwrites itself, and the emulator would
            // translate it again each time.
            guest.memory.write(0, &programs::HLT.repeat(MEMORY))?;
        }
        guests[0].load(programs::FAR_COPY);
        guests[1].load(programs::ENABLE_AND_SPIN);
        let mut pool = Self {
            run: map_run(&guests[0])?,
            guests,
            device: File::options().read(true).write(true).open("/dev/kvm")?,
            pipe: nix::unistd::pipe()?.into(),
            new: VecDeque::new(),
            pidfd: pidfd(std::process::id())?,
            bound: None,
            arena: GuestMemory::anonymous(2 * ROOM * Place::value_variants().len())?,
        };
        pool.fill()?;
        Ok(pool)
    }

    fn fill(&mut self) -> Result<()> {
        let guest = &self.guests[0];
        let (regs, sregs) = (guest.regs(), guest.sregs());
        let fpu: kvm_fpu = filled(|fpu| guest.vcpu.kvm_get_fpu(fpu))?;
        let at = |place| self.address(place);
        // Registers, special registers and the FPU; and a pointer for each part.
        let state = kvm_vcpu_state {
            parts: KVM_STATE_REGS | KVM_STATE_SREGS | KVM_STATE_FPU,
            regs: at(Place::Regs),
            sregs: at(Place::Sregs),
            fpu: at(Place::Fpu),
            msrs: at(Place::Msrs),
            debugregs: at(Place::Debug),
            vcpu_events: at(Place::Bytes),
            xcrs: at(Place::Bytes),
            sregs2: at(Place::Sregs),
            xsave: at(Place::Bytes),
            lapic: at(Place::Bytes),
            mp_state: at(Place::Alias),
            nested_state: at(Place::Bytes),
            cpuid: at(Place::Cpuid),
            tsc_khz: at(Place::List),
            tsc_offset: at(Place::Alias),
        };
        let range = ranges::range(
            0x80_0000,
            0x4000,
            at(Place::Memory),
            KVM_MEM_LOG_DIRTY_PAGES,
        );
        for (place, bytes) in [
            (Place::Regs, bytes_of(&regs)),
            (Place::Sregs, bytes_of(&sregs)),
            (Place::Fpu, bytes_of(&fpu)),
            (Place::Debug, bytes_of(&[3_u32, 0])),
            // Two entries of {index, reserved, data}: SYSENTER_CS and _ESP.
            (Place::Msrs, bytes_of(&[2_u64, 0x174, 8, 0x175, 0x1000])),
            // One entry: leaf 1.
            (Place::Cpuid, bytes_of(&[1_u64, 1, 0, 0, 0])),
            (Place::Mask, bytes_of(&[8_u32, 0, 0])),
            (Place::List, bytes_of(&256_u32)),
            // Alias 0: page 0x40000 shows page 0x2000.
            (Place::Alias, bytes_of(&[0_u64, 0x4_0000, 0x1000, 0x2000])),
            (Place::State, bytes_of(&state)),
            (Place::Range, bytes_of(&range)),
            (Place::ReadOnly, bytes_of(&regs)),
        ] {
            self.arena.write(offset(place), bytes)?;
        }
        self.protect()
    }

    /// Makes some places read-only, and others and the holes behind all of them
    /// inaccessible.
    fn protect(&self) -> Result<()> {
        let protect = |offset, prot| {
            let arena = NonNull::new(self.arena.as_ptr()).context("no arena")?;
            // SAFETY: the arena is this pool's, and read and written by the
            // kernel alone from here on, which looks at the protection.
            unsafe { mprotect(arena.byte_add(offset).cast(), ROOM, prot) }.context("mprotect")
        };
        protect(offset(Place::ReadOnly), ProtFlags::PROT_READ)?;
        protect(offset(Place::Unmapped), ProtFlags::PROT_NONE)?;
        for &place in Place::value_variants() {
            protect(offset(place) + ROOM, ProtFlags::PROT_NONE)?;
        }
        Ok(())
    }

    /// The address of a place.
    pub fn address(&self, place: Place) -> u64 {
        let at = |memory: &GuestMemory| memory.as_ptr().expose_provenance() as u64;
        let arena = at(&self.arena) + offset(place) as u64;
        match place {
            Place::Null => 0,
            Place::Kernel => KERNEL,
            Place::Edge => arena + (ROOM - 12) as u64,
            Place::Memory => at(&self.guests[0].memory),
            Place::Run => self.run,
            _ => arena,
        }
    }

    pub fn fd(&self, fd: Fd) -> RawFd {
        match fd {
            Fd::Vm0 => self.guests[0].vm.as_raw_fd(),
            Fd::Vm1 => self.guests[1].vm.as_raw_fd(),
            Fd::BoundVm => KVM_BOUND_VM,
            Fd::Vcpu0 => self.guests[0].vcpu().as_raw_fd(),
            Fd::Vcpu1 => self.guests[1].vcpu().as_raw_fd(),
            Fd::Kvm => self.device.as_raw_fd(),
            Fd::Pipe => self.pipe[0].as_raw_fd(),
            Fd::Closed => 1000,
            Fd::Pidfd => self.pidfd.as_raw_fd(),
            Fd::New => self.new.back().map_or(-1, AsRawFd::as_raw_fd),
        }
    }

    /// Keeps a new descriptor, and closes an old one.
    pub fn keep(&mut self, fd: RawFd) {
        // SAFETY: a call has just made it, for us.
        self.new.push_back(unsafe { OwnedFd::from_raw_fd(fd) });
        if self.new.len() > NEW {
            self.new.pop_front();
        }
    }

    /// Records the vCPU that is bound to this task, if any.
    pub fn bind(&mut self, vcpu: Option<RawFd>) -> Result<()> {
        self.bound = None;
        if let Some(fd) = vcpu {
            // SAFETY: the call that has bound it has found it open.
            let vcpu = unsafe { BorrowedFd::borrow_raw(fd) };
            self.bound = Some((vcpu.try_clone_to_owned()?, fd));
        }
        Ok(())
    }

    /// Unbinds the vCPU, and returns its descriptor.
    pub fn unbind(&mut self) -> Option<RawFd> {
        // SAFETY: the call touches no memory.
        unsafe { libc::syscall(__NR_kvm_unbind) };
        self.bound.take().map(|(_, number)| number)
    }

    /// Replaces a vCPU by a new one.
    pub fn replace(&mut self, vcpu: RawFd) -> Result<()> {
        let is = |guest: &TestVm<'_>| guest.vcpu().as_raw_fd() == vcpu;
        if is(&self.guests[0]) {
            self.guests[0].replace_vcpu();
            self.run = map_run(&self.guests[0])?;
        } else if is(&self.guests[1]) {
            self.guests[1].replace_vcpu();
        } else {
            self.new.retain(|new| new.as_raw_fd() != vcpu);
        }
        Ok(())
    }

    /// Changes eight bytes of a place.
    pub fn poke(&mut self, place: Place, at: u64, value: u64) {
        let at = self.address(place) as usize + at as usize % (PAGE - 8);
        let pointer = with_exposed_provenance_mut::<u64>(at);
        // SAFETY: each place that can be poked has a page that is writable,
        // and nobody but guests and the kernel looks at it.
        unsafe { pointer.write_unaligned(value) };
    }

    /// Makes the signal mask of a vCPU admit the alarm.
    pub fn let_alarm_through(&mut self) {
        /// The offset of the set in the structure.
        const SET: usize = 4;
        let set = self.address(Place::Mask) as usize + SET;
        let pointer = with_exposed_provenance_mut::<u64>(set);
        let alarm = 1 << (libc::SIGALRM - 1);
        // SAFETY: as for poke().
        unsafe { pointer.write_unaligned(pointer.read_unaligned() & !alarm) };
    }
}

/// Maps the run structure of a vCPU a second time, for the lifetime of the
/// child.
fn map_run(guest: &TestVm<'_>) -> Result<u64> {
    let size = guest.kvm.kvm_get_vcpu_mmap_size(guest.vm())?;
    let size = size.try_into().context("the run mapping is empty")?;
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, at a place that the kernel chooses.
    let run = unsafe { mmap(None, size, prot, MapFlags::MAP_SHARED, guest.vcpu(), 0) }?;
    Ok(run.as_ptr().expose_provenance() as u64)
}

fn offset(place: Place) -> usize {
    2 * ROOM * place as usize
}

fn bytes_of<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: these are structures of the kernel's interface: integers, with
    // no padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}
