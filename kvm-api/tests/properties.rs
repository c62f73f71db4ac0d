//! What must hold for any input, without a KVM.

#![allow(missing_docs)]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::os::fd::{AsFd, OwnedFd};

use kvm_api::kvm_sys::kvm_run;
use kvm_api::{Errno, GuestMemory, RunMapping};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::uio::pwrite;
use nix::unistd::ftruncate;
use proptest::prelude::*;

const PAGE: usize = 0x1000;

/// A file of two pages, which can be mapped as a vcpu's can.
fn file() -> OwnedFd {
    let file = memfd_create(c"run", MFdFlags::MFD_CLOEXEC).unwrap();
    ftruncate(&file, 2 * PAGE as i64).unwrap();
    file
}

proptest! {
    /// Guest memory behaves like a vector, and refuses accesses beyond its end.
    #[test]
    fn guest_memory_is_bounded(
        writes in prop::collection::vec(
            (0..PAGE + 64, prop::collection::vec(any::<u8>(), 0..64)), 0..16),
        offset in prop_oneof![0..PAGE + 64, any::<usize>()],
        len in 0..PAGE,
    ) {
        let mut memory = GuestMemory::anonymous(PAGE).unwrap();
        let mut model = vec![0; PAGE];
        for (offset, data) in writes {
            let expected = match model.get_mut(offset..offset + data.len()) {
                Some(range) => {
                    range.copy_from_slice(&data);
                    Ok(())
                }
                None => Err(Errno::EFAULT),
            };
            prop_assert_eq!(memory.write(offset, &data), expected);
        }
        let mut seen = vec![0; len];
        let range = offset.checked_add(len).and_then(|end| model.get(offset..end));
        match range {
            Some(range) => {
                prop_assert_eq!(memory.read(offset, &mut seen), Ok(()));
                prop_assert_eq!(&seen[..], range);
            }
            None => prop_assert_eq!(memory.read(offset, &mut seen), Err(Errno::EFAULT)),
        }
    }

    /// With any contents of a run mapping, the data of its exit stays within it.
    #[test]
    fn exit_data_is_bounded(
        reason in prop_oneof![Just(2_u32), Just(6), any::<u32>()],
        union in prop::collection::vec(any::<u8>(), 32),
        small in prop::bool::ANY,
    ) {
        let file = file();
        pwrite(&file, &reason.to_ne_bytes(), std::mem::offset_of!(kvm_run, exit_reason) as i64)
            .unwrap();
        let mut union = union;
        if small {
            // Make most of the offsets and counts near the end of the mapping.
            union[5..8].fill(0);
            union[10..16].fill(0);
        }
        pwrite(&file, &union, std::mem::offset_of!(kvm_run, __bindgen_anon_1) as i64).unwrap();
        let mut run = RunMapping::new(file.as_fd(), 2 * PAGE).unwrap();
        let mut exit = run.exit();
        let _ = exit.reason();
        let mut data = vec![0; 3 * PAGE];
        let read = exit.read_data(&mut data);
        prop_assert!(read <= 2 * PAGE);
        let written = exit.write_data(&data[..read]);
        prop_assert_eq!(written, read);
    }
}

#[test]
fn a_run_mapping_holds_the_structure() {
    let too_small = RunMapping::new(file().as_fd(), size_of::<kvm_run>() - 1);
    assert_eq!(too_small.err(), Some(Errno::EINVAL));
}
