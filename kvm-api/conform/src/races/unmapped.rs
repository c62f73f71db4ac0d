//! Memory that the kernel has allocated is deleted while its owner maps something
//! else in its place.

use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::Barrier;
use std::thread;

use kvm_api::Kvm;
use kvm_api::syscall::Syscall;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

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
/// How often memory is allocated and deleted in a round.
const TIMES: usize = 20;

/// Where the kernel has mapped the memory in this process.
fn address() -> NonZeroUsize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("kvm-memory"));
    let (start, _) = line
        .and_then(|line| line.split_once('-'))
        .expect("it is mapped");
    NonZeroUsize::new(usize::from_str_radix(start, 16).unwrap()).expect("not at 0")
}

fn race(round: &Round) {
    // The ioctls have no such memory; they make the machine.
    let kvm = Syscall::open().unwrap();
    let guest = Guest::counting(round.runner());
    let vm = guest.vm.as_fd();
    let both = Barrier::new(2);
    for _ in 0..TIMES {
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
                unsafe { mmap_anonymous(Some(address), LEN, protection, flags) }.unwrap()
            });
            both.wait();
            round.pause();
            kvm.kvm_set_memory_region(vm, SLOT, 0, FAR, 0).unwrap();
            replacing.join().expect("a panic ends all")
        });
        let mut resident = 0_u8;
        // SAFETY: of a page there is one byte to write; nothing is read there.
        let there = unsafe { libc::mincore(replacement.as_ptr(), LEN.get(), &raw mut resident) };
        assert_eq!(there, 0, "the kernel has unmapped what is not its own");
        // SAFETY: nothing refers to it.
        unsafe { munmap(replacement, LEN.get()) }.unwrap();
    }
}
