//! What replaces the calls that Linux has removed: memory that the kernel
//! allocates, and aliases of it.
//!
//! Both are memory slots over this process' memory, as KVM has them today. A
//! region is a memfd, mapped once for KVM and again for who asks for it. An
//! alias is a second slot over the host memory of the first; since KVM does not
//! say which slots there are, those set through this backend are remembered.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_sys::slot::KVM_MEM_READONLY;
use kvm_sys::{
    KVM_ALIAS_SLOTS, KVM_CAP_NR_MEMSLOTS, KVM_SET_USER_MEMORY_REGION, kvm_memory_alias,
    kvm_userspace_memory_region,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

use super::Ioctl;
use super::request::request_pointer;
use crate::mapping::Mapping;
use crate::{Errno, GuestMemory, Kvm, Result};

const PAGE_SIZE: u64 = 4096;

/// KVM's limit for a slot, in pages.
const MAX_PAGES: u64 = (1 << 31) - 1;

/// The slots that were set through this backend, by virtual machine.
///
/// One lock for all, held over the ioctl, so that what is remembered is what
/// KVM has. Slots are set when a machine is set up, not while it runs.
#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeMap<RawFd, Slots>>);

/// A virtual machine's slots by their number, aliases among them.
type Slots = BTreeMap<u32, Slot>;

/// A slot that is set.
#[derive(Debug)]
struct Slot {
    region: kvm_userspace_memory_region,
    /// The memory behind it, if this backend allocated it.
    backing: Option<Backing>,
}

/// Memory that a virtual machine has been given.
#[derive(Debug)]
struct Backing {
    file: OwnedFd,
    mapping: ManuallyDrop<Mapping>,
}

impl Drop for Backing {
    /// The machine may be alive still, and have the memory in a slot: also when
    /// this is dropped with the backend, which machines outlive.
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

    /// Where in this slot the host address is.
    fn offset_of(&self, userspace_addr: u64) -> Option<u64> {
        userspace_addr
            .checked_sub(self.region.userspace_addr)
            .filter(|&offset| offset < self.region.memory_size)
    }
}

impl Memory {
    /// Forgets what was set for a virtual machine that had the number of this
    /// new one.
    pub fn forget(&self, vm: BorrowedFd<'_>) {
        self.lock().remove(&vm.as_raw_fd());
    }

    /// `kvm_set_memory_region`.
    pub fn set_region(
        &self,
        kvm: &Ioctl,
        vm: BorrowedFd<'_>,
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        size: u64,
    ) -> Result<()> {
        let first_alias = first_alias(kvm, vm)?;
        if !size.is_multiple_of(PAGE_SIZE) || size / PAGE_SIZE > MAX_PAGES {
            return Err(Errno::EINVAL);
        }
        let mut machines = self.lock();
        let slots = machines.entry(vm.as_raw_fd()).or_default();
        let mut region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr,
            memory_size: size,
            userspace_addr: 0,
        };

        let set = slots.get(&slot);
        if size == 0 {
            let aliased = set.is_some_and(|set| {
                let mut aliases = slots.range(first_alias..first_alias + KVM_ALIAS_SLOTS);
                set.backing.is_some()
                    && aliases
                        .any(|(_, alias)| set.offset_of(alias.region.userspace_addr).is_some())
            });
            if aliased {
                return Err(Errno::EBUSY);
            }
            // SAFETY: a slot that is deleted needs no memory.
            return unsafe { set_slot(slots, vm, region, None) };
        }

        if let Some(set) = set
            && set.backing.is_some()
            && set.region.memory_size == size
        {
            region.userspace_addr = set.region.userspace_addr;
            // SAFETY: the memory is the slot's own, and as long as it.
            return unsafe { set_slot(slots, vm, region, None) };
        }

        // To be refused by KVM if the slot is set with another size or with the
        // caller's memory.
        let file = memfd_create(c"kvm-memory", MFdFlags::MFD_CLOEXEC)?;
        ftruncate(&file, size as i64)?;
        let mapping = Mapping::of_file(file.as_fd(), 0, size as usize)?;
        region.userspace_addr = mapping.as_ptr().expose_provenance() as u64;
        // SAFETY: the memory is as long as the slot, and stays with it.
        unsafe { set_slot(slots, vm, region, Some((file, mapping))) }
    }

    /// `kvm_set_user_memory_region`.
    ///
    /// # Safety
    ///
    /// The memory has to be good for as long as the slot is set.
    pub unsafe fn set_user_region(
        &self,
        vm: BorrowedFd<'_>,
        region: kvm_userspace_memory_region,
    ) -> Result<()> {
        let mut machines = self.lock();
        let slots = machines.entry(vm.as_raw_fd()).or_default();
        // SAFETY: the caller answers for the memory.
        unsafe { set_slot(slots, vm, region, None) }
    }

    /// `kvm_set_memory_alias`.
    pub fn set_alias(
        &self,
        kvm: &Ioctl,
        vm: BorrowedFd<'_>,
        alias: &kvm_memory_alias,
    ) -> Result<()> {
        let first_alias = first_alias(kvm, vm)?;
        let slot = alias_slot(first_alias, alias)?;
        if alias.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let mut machines = self.lock();
        let slots = machines.entry(vm.as_raw_fd()).or_default();
        let mut region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: alias.guest_phys_addr,
            memory_size: alias.memory_size,
            ..Default::default()
        };
        if alias.memory_size != 0 {
            let target = slots
                .range(..first_alias)
                .map(|(_, target)| target)
                .find(|target| target.contains(alias.target_phys_addr, alias.memory_size))
                .ok_or(Errno::EINVAL)?;
            let offset = alias.target_phys_addr - target.region.guest_phys_addr;
            region.userspace_addr = target.region.userspace_addr + offset;
            region.flags = target.region.flags & KVM_MEM_READONLY;
        }
        // SAFETY: the memory is that of a slot. If it is this backend's, its
        // addresses are never given away; if not, who gave it to the guest has
        // answered for aliases too.
        unsafe { set_slot(slots, vm, region, None) }
    }

    /// `kvm_get_memory_alias`.
    pub fn get_alias(
        &self,
        kvm: &Ioctl,
        vm: BorrowedFd<'_>,
        alias: &mut kvm_memory_alias,
    ) -> Result<()> {
        let first_alias = first_alias(kvm, vm)?;
        let slot = alias_slot(first_alias, alias)?;
        *alias = kvm_memory_alias {
            slot: alias.slot,
            ..Default::default()
        };
        let machines = self.lock();
        let Some(slots) = machines.get(&vm.as_raw_fd()) else {
            return Ok(());
        };
        if let Some(set) = slots.get(&slot) {
            alias.guest_phys_addr = set.region.guest_phys_addr;
            alias.memory_size = set.region.memory_size;
            alias.target_phys_addr = slots
                .range(..first_alias)
                .find_map(|(_, target)| {
                    let offset = target.offset_of(set.region.userspace_addr)?;
                    Some(target.region.guest_phys_addr + offset)
                })
                .unwrap_or(u64::MAX);
        }
        Ok(())
    }

    /// `kvm_map_memory`.
    pub fn map(
        &self,
        vm: BorrowedFd<'_>,
        guest_phys_addr: u64,
        size: usize,
    ) -> Result<GuestMemory> {
        if size == 0 || !guest_phys_addr.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let machines = self.lock();
        let slots = machines.get(&vm.as_raw_fd()).ok_or(Errno::ENODEV)?;
        let (backing, offset) = slots
            .values()
            .filter(|slot| slot.contains(guest_phys_addr, size as u64))
            .find_map(|slot| {
                let offset = guest_phys_addr - slot.region.guest_phys_addr;
                Some((slot.backing.as_ref()?, offset))
            })
            .ok_or(Errno::ENODEV)?;
        GuestMemory::of_file(backing.file.as_fd(), offset, size)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RawFd, Slots>> {
        // A panic leaves the map whole: entries are replaced, not changed in
        // part.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets a slot, and remembers it.
///
/// # Safety
///
/// The memory has to be good for as long as the slot is set: it is `new`, or
/// that of a slot that is set, or the caller's caller answers for it.
unsafe fn set_slot(
    slots: &mut Slots,
    vm: BorrowedFd<'_>,
    region: kvm_userspace_memory_region,
    new: Option<(OwnedFd, Mapping)>,
) -> Result<()> {
    // SAFETY: the kernel reads one such structure; the memory is good.
    unsafe { request_pointer(vm, KVM_SET_USER_MEMORY_REGION, &raw const region) }?;
    if region.memory_size == 0 {
        slots.remove(&region.slot);
        return Ok(());
    }
    let backing = match new {
        Some((file, mapping)) => Some(Backing {
            file,
            mapping: ManuallyDrop::new(mapping),
        }),
        // The slot has moved, or has other flags: its memory stays.
        None => slots
            .remove(&region.slot)
            .filter(|set| set.region.userspace_addr == region.userspace_addr)
            .and_then(|set| set.backing),
    };
    slots.insert(region.slot, Slot { region, backing });
    Ok(())
}

/// The lowest of the slots that are for aliases; alias n is the n-th from the
/// end. Fails as any call does that is for virtual machines.
fn first_alias(kvm: &Ioctl, vm: BorrowedFd<'_>) -> Result<u32> {
    let slots = kvm.kvm_check_extension(vm, KVM_CAP_NR_MEMSLOTS)?;
    // `/dev/kvm` has answered that too.
    if kvm.api_version(vm).is_ok() {
        return Err(Errno::EINVAL);
    }
    Ok(slots as u32 - KVM_ALIAS_SLOTS)
}

/// The slot of an alias.
fn alias_slot(first_alias: u32, alias: &kvm_memory_alias) -> Result<u32> {
    match alias.slot {
        number @ 0..KVM_ALIAS_SLOTS => Ok(first_alias + KVM_ALIAS_SLOTS - 1 - number),
        _ => Err(Errno::EINVAL),
    }
}
