//! Files for the games with descriptors.

use std::fs::File;
use std::io::pipe;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use guests::TestVm;
use kvm_api::Kvm;
use kvm_api::kvm_sys::KVM_CREATE_VM;
use kvm_api::kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_preload::{Change, hand_over};

use super::requests::Page;
use crate::raw;

/// Names of files, with which a file is found.
pub const NAMES: [&str; 11] = [
    "nothing",
    "a pipe",
    "/dev/kvm",
    "/dev/kvm with O_PATH",
    "a VM",
    "a vCPU",
    "another VM",
    "another vCPU",
    "a VM of the library",
    "a VM of another process",
    "a vCPU of another process",
];

/// The files of a child and of its parent.
pub struct Files {
    files: Vec<OwnedFd>,
    /// A page that the machines may use.
    pub page: &'static Page,
    /// Whether the library sees the changes of descriptors.
    watched: bool,
}

/// A machine whose vCPU does not run its guest.
fn machine(kvm: &dyn Kvm) -> [OwnedFd; 2] {
    let mut machine = TestVm::with_flags(kvm, KVM_MEM_LOG_DIRTY_PAGES);
    machine.run.set_immediate_exit(true);
    let vcpu = machine.vcpu_fd();
    let TestVm { vm, memory, .. } = machine;
    // The memory of the guest stays.
    std::mem::forget(memory);
    [vm.into_fd().unwrap(), vcpu]
}

/// The files of the parent, which are those of another process for its child.
pub fn of_parent(kvm: &dyn Kvm) -> [OwnedFd; 2] {
    machine(kvm)
}

impl Files {
    /// The files of a child.
    pub fn of_child(kvm: &dyn Kvm, of_parent: [OwnedFd; 2]) -> Self {
        let [vm, vcpu] = machine(kvm);
        let [other_vm, other_vcpu] = machine(kvm);
        let [foreign_vm, foreign_vcpu] = of_parent;
        let (pipe, _) = pipe().unwrap();
        let device = raw::device();
        let named = File::options()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open("/dev/kvm")
            .unwrap();
        // SAFETY: the request touches no memory, and gives a new descriptor.
        let of_library =
            unsafe { OwnedFd::from_raw_fd(hand_over(device.as_raw_fd(), KVM_CREATE_VM, 0)) };
        let files = vec![
            pipe.into(),
            device.into(),
            named.into(),
            vm,
            vcpu,
            other_vm,
            other_vcpu,
            of_library,
            foreign_vm,
            foreign_vcpu,
        ];
        assert_eq!(files.len() + 1, NAMES.len());
        let page = Page::leak();
        let watched = false;
        Self {
            files,
            page,
            watched,
        }
    }

    /// The library sees each change of a descriptor from now on.
    pub fn watched(self) -> Self {
        Self {
            watched: true,
            ..self
        }
    }

    /// Whether it does.
    pub fn are_watched(&self) -> bool {
        self.watched
    }

    /// Makes a descriptor refer to the file of another one.
    pub fn copy(&self, from: RawFd, to: RawFd) {
        let to_change = to as u32;
        let change = if self.watched {
            Change::of(to_change, to_change)
        } else {
            Change::none()
        };
        // SAFETY: no file of the test has this number.
        unsafe {
            if from < 0 {
                libc::close(to);
            } else {
                libc::dup2(from, to);
            }
        }
        change.done();
    }

    /// The file with this name; -1 for "nothing".
    pub fn named(&self, name: &str) -> RawFd {
        let index = NAMES.iter().position(|it| *it == name).unwrap();
        match index.checked_sub(1) {
            Some(index) => self.files[index].as_raw_fd(),
            None => -1,
        }
    }

    /// Makes a descriptor refer to a file, or closes it.
    pub fn put(&self, fd: RawFd, name: &str) {
        self.copy(self.named(name), fd);
    }
}
