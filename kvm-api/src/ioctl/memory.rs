//! A replacement for the ioctls that Linux has removed: memory that the kernel allocates,
//! and aliases of it.
//!
//! Both are memory slots over memory of this process, as KVM has them today. A region
//! is a memfd, mapped once for KVM and again for each caller that asks for it. An alias
//! is a second slot over the host memory of the first.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_sys::slot::KVM_MEM_READONLY;
use kvm_sys::{
    KVM_ALIAS_SLOTS, KVM_SET_USER_MEMORY_REGION, kvm_memory_alias, kvm_userspace_memory_region,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

use super::request::request_pointer;
use crate::{Errno, GuestMemory, Result};

const PAGE_SIZE: u64 = 4096;

/// KVM's limit for a slot, in pages.
const MAX_PAGES: u64 = (1 << 31) - 1;

/// The slots of each virtual machine that were set through this backend.
///
/// A flat call gives nothing but a number to find them by. KVM does not list the slots
/// of a VM, the files of all VMs share one inode, and a second descriptor, which could
/// tell the file, would keep the VM alive.
///
/// One lock for all, held over the ioctl, so that the record is what KVM has. Slots are
/// set when a VM is set up, not while it runs.
#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeMap<RawFd, Slots>>);

impl Memory {
    /// Begins the record of a new VM, which has no slots.
    pub fn begin(&self, vm: BorrowedFd<'_>) {
        self.lock().remove(&vm.as_raw_fd());
    }

    /// Reads the slots of a VM.
    pub fn read<T>(&self, vm: BorrowedFd<'_>, read: impl FnOnce(&Slots) -> T) -> T {
        static NONE: Slots = Slots(BTreeMap::new());
        read(self.lock().get(&vm.as_raw_fd()).unwrap_or(&NONE))
    }

    /// Changes the slots of a VM.
    pub fn change<T>(&self, vm: BorrowedFd<'_>, change: impl FnOnce(&mut Slots) -> T) -> T {
        change(self.lock().entry(vm.as_raw_fd()).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RawFd, Slots>> {
        // A panic leaves the map whole: entries are replaced, not changed in part.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slots of a virtual machine by their number, aliases among them.
#[derive(Debug, Default)]
pub struct Slots(BTreeMap<u32, Slot>);

/// A slot that is set.
#[derive(Debug)]
struct Slot {
    region: kvm_userspace_memory_region,
    /// The memory behind it, if this backend allocated it.
    backing: Option<Backing>,
}

/// Memory that this backend has allocated for a slot.
#[derive(Debug)]
struct Backing {
    file: OwnedFd,
    mapping: ManuallyDrop<GuestMemory>,
}

impl Drop for Backing {
    /// The VM may be alive still, and have the memory in a slot: also when this is
    /// dropped with the backend, which VMs outlive.
    fn drop(&mut self) {
        // SAFETY: it is taken nowhere else, and not used after this.
        unsafe { ManuallyDrop::take(&mut self.mapping) }.retire();
    }
}

impl Slot {
    /// Whether all of `[start, start + size)`, guest physical, is in this slot.
    fn contains(&self, start: u64, size: u64) -> bool {
        start
            .checked_sub(self.region.guest_phys_addr)
            .and_then(|offset| offset.checked_add(size))
            .is_some_and(|end| end <= self.region.memory_size)
    }

    /// The offset of a host address in this slot.
    fn offset_of(&self, userspace_addr: u64) -> Option<u64> {
        userspace_addr
            .checked_sub(self.region.userspace_addr)
            .filter(|&offset| offset < self.region.memory_size)
    }
}

impl Slots {
    /// `kvm_set_memory_region`, with the host address as yet unknown.
    pub fn set_region(
        &mut self,
        vm: BorrowedFd<'_>,
        first_alias: u32,
        mut region: kvm_userspace_memory_region,
    ) -> Result<()> {
        let size = region.memory_size;
        if !size.is_multiple_of(PAGE_SIZE) || size / PAGE_SIZE > MAX_PAGES {
            return Err(Errno::EINVAL);
        }
        let set = self.0.get(&region.slot).filter(|set| set.backing.is_some());
        if size == 0 {
            let mut aliases = self.0.range(first_alias..first_alias + KVM_ALIAS_SLOTS);
            let shows = |set: &Slot, alias: &Slot| set.offset_of(alias.region.userspace_addr);
            if set.is_some_and(|set| aliases.any(|(_, alias)| shows(set, alias).is_some())) {
                return Err(Errno::EBUSY);
            }
            // SAFETY: a slot that is deleted needs no memory.
            return unsafe { self.set(vm, &region, None) };
        }

        if let Some(set) = set.filter(|set| set.region.memory_size == size) {
            region.userspace_addr = set.region.userspace_addr;
            // SAFETY: the memory is the slot's own, and as long as it.
            return unsafe { self.set(vm, &region, None) };
        }

        // KVM refuses it if the slot is set with another size or with the caller's memory.
        let file = memfd_create(c"kvm-memory", MFdFlags::MFD_CLOEXEC)?;
        ftruncate(&file, size as i64)?;
        let mapping = GuestMemory::of_file(file.as_fd(), 0, size as usize)?;
        region.userspace_addr = mapping.as_ptr().expose_provenance() as u64;
        // SAFETY: the memory is as long as the slot, and stays with it.
        unsafe { self.set(vm, &region, Some((file, mapping))) }
    }

    /// `kvm_set_memory_alias`.
    pub fn set_alias(
        &mut self,
        vm: BorrowedFd<'_>,
        first_alias: u32,
        alias: &kvm_memory_alias,
    ) -> Result<()> {
        let mut region = kvm_userspace_memory_region {
            slot: alias_slot(first_alias, alias)?,
            guest_phys_addr: alias.guest_phys_addr,
            memory_size: alias.memory_size,
            ..Default::default()
        };
        if alias.flags != 0 {
            return Err(Errno::EINVAL);
        }
        if alias.memory_size != 0 {
            let mut targets = self.0.range(..first_alias).map(|(_, target)| target);
            let target = targets
                .find(|target| target.contains(alias.target_phys_addr, alias.memory_size))
                .ok_or(Errno::EINVAL)?;
            let offset = alias.target_phys_addr - target.region.guest_phys_addr;
            region.userspace_addr = target.region.userspace_addr + offset;
            region.flags = target.region.flags & KVM_MEM_READONLY;
        }
        // SAFETY: the memory belongs to a slot. If this backend allocated it, nobody else
        // has its address; if not, who gave it to the guest answers for aliases too.
        unsafe { self.set(vm, &region, None) }
    }

    /// `kvm_get_memory_alias`.
    pub fn get_alias(&self, first_alias: u32, alias: &mut kvm_memory_alias) -> Result<()> {
        let slot = alias_slot(first_alias, alias)?;
        *alias = kvm_memory_alias {
            slot: alias.slot,
            ..Default::default()
        };
        if let Some(set) = self.0.get(&slot) {
            alias.guest_phys_addr = set.region.guest_phys_addr;
            alias.memory_size = set.region.memory_size;
            let mut targets = self.0.range(..first_alias).map(|(_, target)| target);
            let shown = targets.find_map(|target| {
                let offset = target.offset_of(set.region.userspace_addr)?;
                Some(target.region.guest_phys_addr + offset)
            });
            alias.target_phys_addr = shown.unwrap_or(u64::MAX);
        }
        Ok(())
    }

    /// `kvm_map_memory`.
    pub fn map(&self, guest_phys_addr: u64, size: usize) -> Result<GuestMemory> {
        if size == 0 || !guest_phys_addr.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let mut slots = self.0.values();
        let found = slots.find_map(|slot| {
            let backing = slot.backing.as_ref()?;
            let offset = guest_phys_addr.checked_sub(slot.region.guest_phys_addr)?;
            slot.contains(guest_phys_addr, size as u64)
                .then_some((backing, offset))
        });
        let (backing, offset) = found.ok_or(Errno::ENODEV)?;
        GuestMemory::of_file(backing.file.as_fd(), offset, size)
    }

    /// Sets a slot, and records it.
    ///
    /// # Safety
    ///
    /// The memory has to be good for as long as the slot is set: it is `new`, or the
    /// memory of a slot that is set, or the caller of the flat call answers for it.
    pub unsafe fn set(
        &mut self,
        vm: BorrowedFd<'_>,
        region: &kvm_userspace_memory_region,
        new: Option<(OwnedFd, GuestMemory)>,
    ) -> Result<()> {
        // SAFETY: the kernel reads one such structure; the memory is good.
        unsafe { request_pointer(vm, KVM_SET_USER_MEMORY_REGION, region) }?;
        if region.memory_size == 0 {
            self.0.remove(&region.slot);
            return Ok(());
        }
        let backing = match new {
            Some((file, mapping)) => Some(Backing {
                file,
                mapping: ManuallyDrop::new(mapping),
            }),
            // The slot has moved, or has other flags: its memory stays.
            None => self
                .0
                .remove(&region.slot)
                .filter(|set| set.region.userspace_addr == region.userspace_addr)
                .and_then(|set| set.backing),
        };
        let region = *region;
        self.0.insert(region.slot, Slot { region, backing });
        Ok(())
    }
}

/// The slot of an alias: alias n is the n-th slot from the end.
fn alias_slot(first_alias: u32, alias: &kvm_memory_alias) -> Result<u32> {
    match alias.slot {
        number @ 0..KVM_ALIAS_SLOTS => Ok(first_alias + KVM_ALIAS_SLOTS - 1 - number),
        _ => Err(Errno::EINVAL),
    }
}
