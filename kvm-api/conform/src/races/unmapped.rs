//! Memory that the kernel has allocated is deleted while its owner maps other
//! memory in its place.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::thread;

use kvm_api::Kvm;
use kvm_api::syscall::Syscall;
use libc::c_void;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::Race;
use super::guest::{FAR, Guest, SLOT};
use super::round::Round;
use super::threads::repeating;
use crate::kernel_memory;

pub const RACES: &[Race] = &[(
    "memory that replaces the kernel's memory in its owner stays",
    race,
)];

const LEN: NonZeroUsize = NonZeroUsize::new(0x1000).expect("a page");
/// Access to memory.
const WRITABLE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);
/// The memory that is protected and unprotected meanwhile.
const OTHER: NonZeroUsize = NonZeroUsize::new(0x40_0000).expect("many pages");
/// The number of times that memory is allocated and deleted in a round.
const TIMES: usize = 20;

/// Protects and unprotects memory. It keeps the lock of this process's mappings busy, so
/// that others wait for it and then take it in quick succession.
fn keep_busy(memory: NonNull<c_void>) {
    for protection in [ProtFlags::PROT_READ, WRITABLE] {
        // SAFETY: nothing refers to the memory.
        unsafe { mprotect(memory, OTHER.get(), protection) }.unwrap();
    }
}

fn race(round: &Round) {
    // The ioctls do not allocate memory; they only create the VM.
    let kvm = Syscall::open().unwrap();
    let guest = round.counting();
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_POPULATE;
    // SAFETY: the kernel chooses the address.
    let memory = unsafe { mmap_anonymous(None, OTHER, WRITABLE, flags) }.unwrap();
    repeating(|threads| {
        // A pointer may not be sent.
        let address = memory.expose_provenance();
        threads.repeat(move || keep_busy(NonNull::with_exposed_provenance(address)));
        for _ in 0..TIMES {
            replace(round, &kvm, &guest);
        }
    });
    // SAFETY: nothing refers to the memory.
    unsafe { munmap(memory, OTHER.get()) }.unwrap();
}

/// Deletes memory, and replaces it at the same time.
fn replace(round: &Round, kvm: &Syscall, guest: &Guest) {
    let vm = guest.vm.as_fd();
    let both = Barrier::new(2);
    kvm.kvm_set_memory_region(vm, SLOT, 0, FAR, LEN.get() as u64)
        .unwrap();
    let address = kernel_memory::address().unwrap().expect("it is mapped");
    let address = NonZeroUsize::new(address).expect("not at 0");
    let replacement = thread::scope(|scope| {
        let replacing = scope.spawn(|| {
            both.wait();
            round.pause();
            let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED;
            // SAFETY: nothing in this process refers to the memory that it replaces.
            let memory = unsafe { mmap_anonymous(Some(address), LEN, WRITABLE, flags) };
            // A pointer may not be sent.
            memory.unwrap().expose_provenance()
        });
        both.wait();
        kvm.kvm_set_memory_region(vm, SLOT, 0, FAR, 0).unwrap();
        replacing.join().expect("a panic ends the process")
    });
    let replacement = NonNull::with_exposed_provenance(replacement);
    let mut resident = 0_u8;
    // SAFETY: the call writes one byte for a page, and reads nothing.
    let there = unsafe { libc::mincore(replacement.as_ptr(), LEN.get(), &raw mut resident) };
    assert_eq!(there, 0, "the kernel has unmapped memory of its owner");
    // SAFETY: nothing refers to it.
    unsafe { munmap(replacement, LEN.get()) }.unwrap();
}
