//! A region of guest memory, as steps name it.

use serde::{Deserialize, Serialize};

/// A memory slot, or an alias: a range of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    pub slot: u32,
    pub flags: u32,
    pub address: u64,
    pub size: u64,
}
