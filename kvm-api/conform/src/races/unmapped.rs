//! Memory that the kernel has allocated is deleted while its owner maps other
//! memory in its place.

use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvm_api::Kvm;
use kvm_api::syscall::Syscall;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::Race;
use super::guest::Guest;
use super::round::Round;

pub const RACES: &[Race] = &[Race::new(
    "what replaces the kernel's memory in its owner stays",
    race,
)];

const SLOT: u32 = 1;
const FAR: u64 = 0x2_0000;
const LEN: NonZeroUsize = NonZeroUsize::new(0x1000).expect("a page");
/// The memory that is protected and unprotected meanwhile.
const OTHER: NonZeroUsize = NonZeroUsize::new(0x40_0000).expect("many pages");
/// The number of times that memory is allocated and deleted in a round.
const TIMES: usize = 20;

/// The address at which the kernel has mapped the memory in this process.
fn address() -> NonZeroUsize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("kvm-memory"));
    let (start, _) = line
        .and_then(|line| line.split_once('-'))
        .expect("it is mapped");
    NonZeroUsize::new(usize::from_str_radix(start, 16).unwrap()).expect("not at 0")
}

/// Keeps the lock of this process's mappings busy, so that others wait for it
/// and then take it in quick succession.
fn keep_busy(over: &AtomicBool) {
    let both = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_POPULATE;
    // SAFETY: the kernel chooses the address.
    let memory = unsafe { mmap_anonymous(None, OTHER, both, flags) }.unwrap();
    while !over.load(Ordering::Relaxed) {
        for protection in [ProtFlags::PROT_READ, both] {
            // SAFETY: nothing refers to the memory.
            unsafe { mprotect(memory, OTHER.get(), protection) }.unwrap();
        }
    }
    // SAFETY: as above.
    unsafe { munmap(memory, OTHER.get()) }.unwrap();
}

fn race(round: &Round) {
    // The ioctls do not allocate memory; they only create the VM.
    let kvm = Syscall::open().unwrap();
    let guest = Guest::counting(round.runner());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| keep_busy(&over));
        for _ in 0..TIMES {
            replace(round, &kvm, &guest);
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// Deletes memory, and replaces it at the same time.
fn replace(round: &Round, kvm: &Syscall, guest: &Guest) {
    let vm = guest.vm.as_fd();
    let both = Barrier::new(2);
    kvm.kvm_set_memory_region(vm, SLOT, 0, FAR, LEN.get() as u64)
        .unwrap();
    let address = address();
    let replacement = thread::scope(|scope| {
        let replacing = scope.spawn(|| {
            both.wait();
            round.pause();
            let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED;
            // SAFETY: nothing in this process refers to what it replaces.
            let memory = unsafe { mmap_anonymous(Some(address), LEN, protection, flags) };
            // A pointer may not be sent.
            memory.unwrap().as_ptr().expose_provenance()
        });
        both.wait();
        kvm.kvm_set_memory_region(vm, SLOT, 0, FAR, 0).unwrap();
        replacing.join().expect("a panic ends the process")
    });
    let replacement = std::ptr::with_exposed_provenance_mut::<libc::c_void>(replacement);
    let mut resident = 0_u8;
    // SAFETY: of a page there is one byte to write; nothing is read there.
    let there = unsafe { libc::mincore(replacement, LEN.get(), &raw mut resident) };
    assert_eq!(there, 0, "the kernel has unmapped what is not its own");
    // SAFETY: nothing refers to it.
    let unmapped = unsafe { libc::munmap(replacement, LEN.get()) };
    assert_eq!(unmapped, 0);
}
