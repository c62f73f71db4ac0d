//! Calls on the memory of a VM.

use kvm_api::kvm_sys::kvm_memory_alias;
use kvm_api::{GuestMemory, Kvm};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};

use crate::case::{Case, call};
use crate::fixture::Fixture;
use crate::form::StaticForm;
use crate::guest::MEMORY;
use crate::peer::Peer;
use crate::workload::{Plain, Steps};

/// The slot of the memory that the calls set.
const SLOT: u32 = 1;
/// The guest physical address of that memory.
const ADDRESS: u64 = 0x20_0000;

/// Calls on memory slots, aliases and the dirty log.
pub const CALLS: &[Case] = &[
    Case {
        own_work: Some("allocates and maps memory, waits for readers"),
        ..call!(kvm_set_memory_region, |f| {
            Steps::new(f, |f| set_region(f, MEMORY, 0)).after(|f| set_region(f, 0, 0))
        })
    },
    Case {
        own_work: Some("clears and copies the bitmap"),
        ..call!(
            kvm_get_dirty_log,
            |f| {
                let kvm = f.kvm();
                set_region(&f, MEMORY, KVM_MEM_LOG_DIRTY_PAGES);
                let mut bitmap = [0; (MEMORY as usize >> 12).div_ceil(64)];
                Plain(move || {
                    // SAFETY: the bitmap has a bit for each of the slot's pages.
                    unsafe { kvm.kvm_get_dirty_log(f.vm(), SLOT, &mut bitmap) }.unwrap();
                })
            },
            |peer| {
                set_peer_region(&peer, MEMORY, KVM_MEM_LOG_DIRTY_PAGES);
                Plain(move || {
                    peer.vm.get_dirty_log(SLOT, MEMORY as usize).unwrap();
                })
            }
        )
    },
    Case {
        own_work: Some("over ioctl answered without a call"),
        ..call!(kvm_get_memory_alias, |f| {
            let kvm = f.kvm();
            set_alias(&f, MEMORY);
            let mut alias = kvm_memory_alias::default();
            Plain(move || kvm.kvm_get_memory_alias(f.vm(), &mut alias).unwrap())
        })
    },
    Case {
        own_work: Some("waits for readers of the slots"),
        ..call!(
            kvm_set_user_memory_region,
            |f| {
                let kvm = f.kvm();
                let memory = kvm.kvm_map_memory(f.vm(), 0, MEMORY as usize)?;
                Steps::new((f, memory), |(f, memory)| {
                    set_user_region(f, memory, MEMORY)
                })
                .after(|(f, memory)| set_user_region(f, memory, 0))
            },
            |peer| Steps::new(peer, |peer| set_peer_region(peer, MEMORY, 0))
                .after(|peer| set_peer_region(peer, 0, 0))
        )
    },
    Case {
        own_work: Some("waits for readers of the slots"),
        ..call!(kvm_set_memory_alias, |f| {
            Steps::new(f, |f| set_alias(f, MEMORY)).after(|f| set_alias(f, 0))
        })
    },
];

#[inline(always)]
fn set_region<B: StaticForm>(f: &Fixture<'_, B>, size: u64, flags: u32) {
    f.kvm()
        .kvm_set_memory_region(f.vm(), SLOT, flags, ADDRESS, size)
        .unwrap();
}

#[inline(always)]
fn set_user_region<B: StaticForm>(f: &Fixture<'_, B>, memory: &GuestMemory, size: u64) {
    let address = memory.as_ptr() as u64;
    // SAFETY: the memory is mapped as long as the fixture's VM is there, which has no vCPU
    // that runs.
    unsafe {
        f.kvm()
            .kvm_set_user_memory_region(f.vm(), SLOT, 0, ADDRESS, size, address)
    }
    .unwrap();
}

#[inline(always)]
fn set_peer_region(peer: &Peer<'_>, memory_size: u64, flags: u32) {
    let region = kvm_userspace_memory_region {
        slot: SLOT,
        flags,
        guest_phys_addr: ADDRESS,
        memory_size,
        userspace_addr: peer.fixture.memory.as_ptr() as u64,
    };
    // SAFETY: the fixture's memory is mapped as long as its VM is there.
    unsafe { peer.vm.set_user_memory_region(region) }.unwrap();
}

#[inline(always)]
fn set_alias<B: StaticForm>(f: &Fixture<'_, B>, memory_size: u64) {
    let alias = kvm_memory_alias {
        slot: 0,
        flags: 0,
        guest_phys_addr: ADDRESS,
        memory_size,
        target_phys_addr: 0,
    };
    f.kvm().kvm_set_memory_alias(f.vm(), &alias).unwrap();
}
