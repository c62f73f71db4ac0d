//! A region of guest memory, as steps name it.

use kvm_api::kvm_sys::kvm_memory_alias;
use serde::{Deserialize, Serialize};

/// A memory slot, or an alias: a range of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    pub slot: u32,
    pub flags: u32,
    pub address: u64,
    pub size: u64,
}

impl Region {
    /// The region as an alias of the memory at `target`.
    pub fn alias(self, target: u64) -> kvm_memory_alias {
        kvm_memory_alias {
            slot: self.slot,
            flags: self.flags,
            guest_phys_addr: self.address,
            memory_size: self.size,
            target_phys_addr: target,
        }
    }
}
