//! A guest that counts.

use std::os::fd::{AsFd, OwnedFd};
use std::thread::yield_now;

use guests::{TestVm, programs};
use kvm_api::{Errno, GuestMemory, RunMapping};

use super::round::Interface;

/// A virtual machine in parts, so that each thread can own one.
pub struct Guest {
    pub run: RunMapping,
    pub vcpu: OwnedFd,
    pub vm: OwnedFd,
    // Dropped after the VM, which uses it.
    pub memory: GuestMemory,
}

impl Guest {
    pub fn new(kvm: &Interface, program: &[u8]) -> Self {
        let mut machine = TestVm::new(kvm);
        machine.load(program);
        let vcpu = machine.vcpu_fd();
        let TestVm {
            run, vm, memory, ..
        } = machine;
        Self {
            run,
            vcpu,
            vm,
            memory,
        }
    }

    /// Runs without entering the guest. Before the first run of a vCPU, KVM
    /// takes the FPU registers that are set for unused, and forgets them, by
    /// either interface.
    pub fn settle(&mut self, kvm: &Interface) {
        self.run.set_immediate_exit(true);
        let end = kvm.kvm_run(self.vcpu.as_fd(), &mut self.run);
        assert_eq!(end.err(), Some(Errno::EINTR));
        self.run.set_immediate_exit(false);
    }

    /// A guest that counts in its memory and never exits.
    pub fn counting(kvm: &Interface) -> Self {
        Self::new(kvm, programs::COUNT)
    }
}

/// The guest's counter.
pub fn counted(memory: &GuestMemory) -> u32 {
    let mut count = [0; 4];
    memory.read(programs::COUNTER, &mut count).unwrap();
    u32::from_le_bytes(count)
}

/// Waits for a guest to continue counting. If it does not, the watchdog ends
/// the race.
pub fn wait_for_count(memory: &GuestMemory) {
    let before = counted(memory);
    while counted(memory) == before {
        yield_now();
    }
}
