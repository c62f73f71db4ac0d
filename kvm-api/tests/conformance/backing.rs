//! The memory that the kernel allocates for a guest is mapped into the owner of the VM,
//! like memory of the owner. Deleting it removes the mapping, unless the owner has mapped
//! something else in its place.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use kvm_api::Kvm;

use crate::Needs::AnyVcpu;
use crate::{Stage, Test};
use kvm_api::Form;

pub const TESTS: &[(Form, Test)] = &[
    (
        Form::Syscall,
        (
            "kvm_set_memory_region::deleting_unmaps_it",
            AnyVcpu,
            unmapped,
        ),
    ),
    (
        Form::Syscall,
        (
            "kvm_set_memory_region::the_last_reference_unmaps_it",
            AnyVcpu,
            unmapped_with_the_machine,
        ),
    ),
    (
        Form::Syscall,
        (
            "kvm_set_memory_region::deleting_leaves_what_is_in_its_place",
            AnyVcpu,
            replaced,
        ),
    ),
];

const SLOT: u32 = 1;
const PAGE: usize = 0x1000;
const SIZE: usize = 4 * PAGE;

/// The kernel's name for its mappings.
const NAME: &str = "/kvm-memory";

/// The addresses at which the kernel has mapped memory of guests.
fn mapped() -> Vec<usize> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let ours = maps.lines().filter(|line| line.contains(NAME));
    let starts = ours.map(|line| line.split_once('-').unwrap().0);
    starts
        .map(|start| usize::from_str_radix(start, 16).unwrap())
        .collect()
}

/// A virtual machine with memory of the kernel, and the address of its mapping.
fn machine(kvm: &dyn Kvm) -> (OwnedFd, usize) {
    let vm = kvm.kvm_create_vm().unwrap();
    let before = mapped();
    kvm.kvm_set_memory_region(vm.as_fd(), SLOT, 0, 0, SIZE as u64)
        .unwrap();
    let new: Vec<_> = mapped()
        .into_iter()
        .filter(|it| !before.contains(it))
        .collect();
    assert_eq!(new.len(), 1, "{new:x?}");
    (vm, new[0])
}

fn unmapped(stage: &Stage) {
    let (vm, address) = machine(&*stage.kvm);
    stage
        .kvm
        .kvm_set_memory_region(vm.as_fd(), SLOT, 0, 0, 0)
        .unwrap();
    assert!(!mapped().contains(&address));
}

fn unmapped_with_the_machine(stage: &Stage) {
    let (vm, address) = machine(&*stage.kvm);
    drop(vm);
    assert!(!mapped().contains(&address));
}

fn replaced(stage: &Stage) {
    for pages in [0..4, 0..1, 1..3, 3..4] {
        let (vm, address) = machine(&*stage.kvm);
        let place = (address + pages.start * PAGE) as *mut libc::c_void;
        let length = pages.len() * PAGE;
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
        );
        // SAFETY: it replaces pages that nothing in this program points to.
        let own = unsafe { libc::mmap(place, length, protection, flags, -1, 0) };
        assert_eq!(own, place);
        let bytes = own.cast::<u8>();
        // SAFETY: the memory was mapped just now.
        unsafe { bytes.write(0x42) };
        stage
            .kvm
            .kvm_set_memory_region(vm.as_fd(), SLOT, 0, 0, 0)
            .unwrap();
        let seen = byte_of(own as usize);
        // SAFETY: nothing uses the mapping of the test, or the rest of the mapping of the
        // kernel, any more.
        unsafe { libc::munmap(address as *mut libc::c_void, SIZE) };
        assert_eq!(seen, Some(0x42), "pages {pages:?}");
    }
}

/// The byte at an address, if something is mapped there.
fn byte_of(address: usize) -> Option<u8> {
    let memory = fs::File::open("/proc/self/mem").unwrap();
    let mut byte = [0];
    memory.read_exact_at(&mut byte, address as u64).ok()?;
    Some(byte[0])
}
