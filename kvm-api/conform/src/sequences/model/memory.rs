//! The guest's memory as the calls define it: slots, aliases, the memory behind
//! them, and its dirty pages.

use std::collections::BTreeMap;
use std::mem;

use kvm_api::Errno::{self, EBUSY, EEXIST, EINVAL, ENODEV, ENOENT};
use kvm_api::kvm_sys::slot::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use kvm_api::kvm_sys::{KVM_ALIAS_SLOTS, kvm_memory_alias};

use crate::sequences::region::Region;

pub const PAGE: u64 = 0x1000;
/// The size of the caller's memory, in pages. Slots may use any of them.
pub const POOL: u64 = 6;

/// The owner of memory: the caller, or an allocation of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Pool,
    Kernel(u32),
}

/// A byte behind the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub owner: Owner,
    pub offset: u64,
}

#[derive(Clone, Debug)]
struct Slot {
    address: u64,
    size: u64,
    flags: u32,
    behind: Place,
    /// The pages that the guest has written since the log was last fetched, and
    /// those that it has used. A page that the guest has read may be dirty: KVM
    /// maps it writable, and counts it.
    written: u64,
    used: u64,
}

impl Slot {
    fn contains(&self, address: u64) -> bool {
        address >= self.address && address - self.address < self.size
    }

    fn at(&self, address: u64) -> Place {
        Place {
            owner: self.behind.owner,
            offset: self.behind.offset + address - self.address,
        }
    }

    /// Whether a byte lies in the memory behind the slot.
    fn shows(&self, place: Place) -> bool {
        place.owner == self.behind.owner
            && place.offset >= self.behind.offset
            && place.offset - self.behind.offset < self.size
    }
}

#[derive(Clone, Debug)]
pub struct Memory {
    slots: BTreeMap<u32, Slot>,
    /// The number of slots. Aliases take the last ones.
    numbers: u32,
    pub pool: Vec<u8>,
    pub kernel: BTreeMap<u32, Vec<u8>>,
    allocated: u32,
}

impl Memory {
    pub fn new(numbers: u32) -> Self {
        Self {
            slots: BTreeMap::new(),
            numbers,
            pool: vec![0; (POOL * PAGE) as usize],
            kernel: BTreeMap::new(),
            allocated: 0,
        }
    }

    fn slot_of_alias(&self, alias: u32) -> u32 {
        self.numbers - 1 - alias
    }

    fn is_alias(&self, slot: u32) -> bool {
        slot >= self.numbers - KVM_ALIAS_SLOTS
    }

    pub fn is_set(&self, slot: u32) -> bool {
        self.slots.contains_key(&slot)
    }

    fn find(&self, address: u64) -> Option<(u32, &Slot)> {
        let mut slots = self.slots.iter();
        let (number, slot) = slots.find(|(_, slot)| slot.contains(address))?;
        Some((*number, slot))
    }

    /// The memory behind a guest physical address.
    pub fn place(&self, address: u64) -> Option<Place> {
        Some(self.find(address)?.1.at(address))
    }

    /// The place of an entry of the interrupt vector table.
    pub fn vector(&self, vector: u8) -> Place {
        let table = self.place(0).expect("steps on the table need memory there");
        Place {
            offset: table.offset + u64::from(vector) * 4,
            ..table
        }
    }

    fn bytes(&mut self, owner: Owner) -> &mut Vec<u8> {
        match owner {
            Owner::Pool => &mut self.pool,
            Owner::Kernel(which) => self.kernel.get_mut(&which).expect("slots have memory"),
        }
    }

    /// Writes as user space does.
    pub fn put(&mut self, place: Place, data: &[u8]) {
        let at = place.offset as usize;
        self.bytes(place.owner)[at..at + data.len()].copy_from_slice(data);
    }

    fn used(&mut self, address: u64, written: bool) -> Option<Place> {
        let mut slots = self.slots.values_mut();
        let slot = slots.find(|slot| slot.contains(address))?;
        if written && slot.flags & KVM_MEM_READONLY != 0 {
            return None;
        }
        let page = 1 << ((address - slot.address) / PAGE);
        slot.used |= page;
        if written {
            slot.written |= page;
        }
        Some(slot.at(address))
    }

    /// Reads as the guest does.
    pub fn read(&mut self, address: u64) -> Option<u8> {
        let place = self.used(address, false)?;
        Some(self.bytes(place.owner)[place.offset as usize])
    }

    pub fn read_word(&mut self, address: u64) -> Option<u16> {
        Some(u16::from_le_bytes([
            self.read(address)?,
            self.read(address + 1)?,
        ]))
    }

    /// Writes as the guest does. Returns `None` where it has no memory, or may not write.
    pub fn write(&mut self, address: u64, value: u8) -> Option<()> {
        let place = self.used(address, true)?;
        self.put(place, &[value]);
        Some(())
    }

    /// The common part of the three calls that set slots.
    fn set(&mut self, region: Region, behind: Place) -> Result<(), Errno> {
        let (number, flags) = (region.slot, region.flags);
        let (address, size) = (region.address, region.size);
        if flags & !(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY) != 0
            || number >= self.numbers
            || !address.is_multiple_of(PAGE)
            || !size.is_multiple_of(PAGE)
            || address.checked_add(size).is_none()
            || size / PAGE >= 1 << 31
        {
            return Err(EINVAL);
        }
        if size == 0 {
            return self.slots.remove(&number).map(drop).ok_or(EINVAL);
        }
        let old = self.slots.get(&number);
        if let Some(old) = old
            && (old.behind != behind
                || old.size != size
                || (old.flags ^ flags) & KVM_MEM_READONLY != 0)
        {
            return Err(EINVAL);
        }
        let moves = old.is_none_or(|old| old.address != address);
        let overlaps = |(other, slot): (&u32, &Slot)| {
            *other != number && address < slot.address + slot.size && slot.address < address + size
        };
        if moves && self.slots.iter().any(overlaps) {
            return Err(EEXIST);
        }
        let logged = |slot: &&Slot| slot.flags & flags & KVM_MEM_LOG_DIRTY_PAGES != 0;
        let old = old.filter(logged);
        let (written, used) = old.map_or((0, 0), |old| (old.written, old.used));
        let slot = Slot {
            address,
            size,
            flags,
            behind,
            written,
            used,
        };
        self.slots.insert(number, slot);
        Ok(())
    }

    /// kvm_set_user_memory_region: memory of the pool, from `offset` on.
    pub fn set_user(&mut self, region: Region, offset: u64) -> Result<(), Errno> {
        if !offset.is_multiple_of(PAGE) {
            return Err(EINVAL);
        }
        let owner = Owner::Pool;
        self.set(region, Place { owner, offset })?;
        self.forget_unused();
        Ok(())
    }

    /// Whether an alias shows the kernel's memory in a slot.
    pub fn is_aliased(&self, number: u32) -> bool {
        let Some(slot) = self.slots.get(&number) else {
            return false;
        };
        let mut aliases = self.slots.iter().filter(|(it, _)| self.is_alias(**it));
        slot.behind.owner != Owner::Pool && aliases.any(|(_, alias)| slot.shows(alias.behind))
    }

    /// kvm_set_memory_region.
    pub fn set_kernel(&mut self, region: Region) -> Result<(), Errno> {
        let (number, size) = (region.slot, region.size);
        let old = self.slots.get(&number).map(|slot| slot.behind);
        let owner = Owner::Kernel(self.allocated);
        let behind = match old {
            Some(behind) if behind.owner != Owner::Pool || size == 0 => behind,
            // The memory of an existing slot cannot change.
            Some(_) => return Err(EINVAL),
            None => Place { owner, offset: 0 },
        };
        if size == 0 && region.flags & !3 == 0 && self.is_aliased(number) {
            return Err(EBUSY);
        }
        self.set(region, behind)?;
        if old.is_none() {
            self.kernel.insert(self.allocated, vec![0; size as usize]);
            self.allocated += 1;
        }
        self.forget_unused();
        Ok(())
    }

    /// The kernel's memory is freed with its slot.
    fn forget_unused(&mut self) {
        let owners: Vec<_> = self.slots.values().map(|it| it.behind.owner).collect();
        self.kernel
            .retain(|which, _| owners.contains(&Owner::Kernel(*which)));
    }

    /// kvm_set_memory_alias.
    pub fn set_alias(&mut self, alias: Region, target: u64) -> Result<(), Errno> {
        if alias.slot >= KVM_ALIAS_SLOTS
            || alias.flags != 0
            || !target.is_multiple_of(PAGE)
            || !alias.size.is_multiple_of(PAGE)
        {
            return Err(EINVAL);
        }
        let mut region = Region {
            slot: self.slot_of_alias(alias.slot),
            ..alias
        };
        if alias.size == 0 {
            let owner = Owner::Pool;
            return self.set(region, Place { owner, offset: 0 });
        }
        let (slot, shown) = self.find(target).ok_or(EINVAL)?;
        if self.is_alias(slot) || alias.size > shown.address + shown.size - target {
            return Err(EINVAL);
        }
        region.flags = shown.flags & KVM_MEM_READONLY;
        self.set(region, shown.at(target))
    }

    /// kvm_get_memory_alias.
    pub fn alias(&self, number: u32) -> Result<kvm_memory_alias, Errno> {
        if number >= KVM_ALIAS_SLOTS {
            return Err(EINVAL);
        }
        let Some(slot) = self.slots.get(&self.slot_of_alias(number)) else {
            return Ok(kvm_memory_alias {
                slot: number,
                ..Default::default()
            });
        };
        let mut targets = self.slots.iter().filter(|(it, _)| !self.is_alias(**it));
        let target = targets.find(|(_, target)| target.shows(slot.behind));
        let target = target.map_or(u64::MAX, |(_, target)| {
            target.address + slot.behind.offset - target.behind.offset
        });
        let alias = Region {
            slot: number,
            flags: 0,
            address: slot.address,
            size: slot.size,
        };
        Ok(alias.alias(target))
    }

    /// kvm_map_memory: the memory that would be mapped.
    pub fn map(&self, address: u64, size: u64) -> Result<Place, Errno> {
        if size == 0 || !address.is_multiple_of(PAGE) {
            return Err(EINVAL);
        }
        let (number, slot) = self.find(address).ok_or(ENODEV)?;
        let fits = size <= slot.address + slot.size - address;
        if self.is_alias(number) || slot.behind.owner == Owner::Pool || !fits {
            return Err(ENODEV);
        }
        Ok(slot.at(address))
    }

    /// kvm_get_dirty_log: the pages that are dirty, and those that may be. Then
    /// all pages are clean.
    pub fn dirty_log(&mut self, number: u32) -> Result<(u64, u64), Errno> {
        if number >= self.numbers {
            return Err(EINVAL);
        }
        let slot = self.slots.get_mut(&number).ok_or(ENOENT)?;
        if slot.flags & KVM_MEM_LOG_DIRTY_PAGES == 0 {
            return Err(ENOENT);
        }
        Ok((mem::take(&mut slot.written), mem::take(&mut slot.used)))
    }
}
