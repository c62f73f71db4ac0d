//! A guest that counts, and the threads that run it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ScopedJoinHandle};

use guests::{TestVm, programs};
use kvm_api::kvm_sys::kvm_sregs;
use kvm_api::{Errno, GuestMemory, Kvm, Reason, Result, RunMapping};
use nix::unistd::Pid;

use super::threads::{Repeating, wait_until};
use crate::signal::{kick, kick_to_end, spawn};
use crate::vcpu_state::VcpuState;

/// The status of a race's process in which the emulator has lost a guest's state.
pub const LOST: i32 = 3;

/// An interface that threads share.
pub type SharedKvm = dyn Kvm + Sync;

/// The slot that races set, and the address at which their guests write.
pub const SLOT: u32 = 1;
pub const FAR: u64 = programs::FAR;
pub const PAGE: usize = 0x1000;

/// A virtual machine in parts, so that threads can use each part.
pub struct Guest {
    /// For the thread that runs the vCPU.
    pub run: Mutex<RunMapping>,
    pub vcpu: OwnedFd,
    pub vm: OwnedFd,
    // Dropped after the VM, which uses it.
    pub memory: GuestMemory,
}

impl Guest {
    pub fn new(kvm: &SharedKvm, program: &[u8]) -> Self {
        let mut machine = TestVm::new(kvm);
        machine.load(program);
        let vcpu = machine.vcpu_fd();
        let TestVm {
            run, vm, memory, ..
        } = machine;
        Self {
            run: run.into(),
            vcpu,
            vm: vm.into_fd().expect("it has a descriptor"),
            memory,
        }
    }

    /// A guest that counts in its memory and never exits.
    pub fn counting(kvm: &SharedKvm) -> Self {
        Self::new(kvm, programs::COUNT)
    }

    /// Runs without entering the guest. Before the first run of a vCPU, KVM
    /// discards FPU registers that either interface has set.
    pub fn settle(&mut self, kvm: &SharedKvm) {
        let run = self.run.get_mut().unwrap();
        run.set_immediate_exit(true);
        let end = kvm.kvm_run(self.vcpu.as_fd(), run);
        assert_eq!(end.err(), Some(Errno::EINTR));
        run.set_immediate_exit(false);
    }

    /// Runs the guest, which counts, in a thread while `act` runs here; `act` gets the
    /// means to end the run.
    pub fn while_running(&self, kvm: &SharedKvm, act: impl FnOnce(&dyn Fn())) {
        let mut run = self.run.lock().unwrap();
        while_running(kvm, self.vcpu.as_fd(), &mut run, &self.memory, act);
    }

    /// Sets [`SLOT`] to memory of this process.
    ///
    /// # Safety
    ///
    /// The memory must outlive the guest, or the slot.
    pub unsafe fn set_slot(
        &self,
        kvm: &SharedKvm,
        flags: u32,
        at: u64,
        size: usize,
        memory: *mut u8,
    ) -> Result<()> {
        let address = memory.expose_provenance() as u64;
        // SAFETY: the caller answers for the memory.
        unsafe {
            kvm.kvm_set_user_memory_region(self.vm.as_fd(), SLOT, flags, at, size as u64, address)
        }
    }
}

impl<'scope> Repeating<'scope, '_> {
    /// Starts a thread that runs the guest repeatedly. After each run, `look` gets the
    /// result.
    pub fn run(
        &self,
        kvm: &'scope SharedKvm,
        guest: &'scope Guest,
        mut look: impl FnMut(Result<Reason>) + Send + 'scope,
    ) -> Running<'scope> {
        let over = Arc::<AtomicBool>::default();
        let seen = Arc::clone(&over);
        let (thread, handle) = spawn(self.scope, move || {
            let mut run = guest.run.lock().unwrap();
            while !seen.load(Ordering::Relaxed) {
                let end = kvm.kvm_run(guest.vcpu.as_fd(), &mut run);
                let end = end.map(|exit| exit.reason());
                unless_internal(kvm, guest.vcpu.as_fd(), &end);
                look(end);
            }
        });
        Running {
            thread,
            over,
            handle,
        }
    }
}

/// A thread that runs a vCPU repeatedly.
pub struct Running<'scope> {
    pub thread: Pid,
    over: Arc<AtomicBool>,
    handle: ScopedJoinHandle<'scope, ()>,
}

impl Running<'_> {
    /// Ends the run in progress, if any.
    pub fn interrupt(&self) {
        kick(self.thread);
    }

    pub fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        kick_to_end(self.thread, &self.handle);
        self.handle.join().expect("a panic ends the process");
    }
}

/// Ends the race if KVM cannot continue the guest, which no race expects.
pub fn unless_internal(kvm: &SharedKvm, vcpu: BorrowedFd<'_>, end: &Result<Reason>) {
    let Ok(Reason::InternalError { .. }) = end else {
        return;
    };
    // QEMU 7.2 has made a second #VMEXIT, at the host's first instruction after VMRUN. KVM
    // finds the host's state in place of the guest's. No guest of a race has this table.
    let mut sregs = kvm_sregs::default();
    if kvm.kvm_get_sregs(vcpu, &mut sregs).is_ok() && sregs.idt.base >= HOST {
        // SAFETY: nothing of this process is needed any more.
        unsafe { libc::_exit(LOST) }
    }
    panic!("{end:?}: {:x?}", VcpuState::of(vcpu));
}

/// The first address of the host kernel's half.
const HOST: u64 = 1 << 63;

/// Runs a counting guest in a thread while `act` runs here; `act` gets the means
/// to end the run. Nothing else may end it.
pub fn while_running(
    kvm: &SharedKvm,
    vcpu: BorrowedFd<'_>,
    run: &mut RunMapping,
    memory: &GuestMemory,
    act: impl FnOnce(&dyn Fn()),
) {
    thread::scope(|scope| {
        let body = move || {
            let end = kvm.kvm_run(vcpu, run).map(|exit| exit.reason());
            unless_internal(kvm, vcpu, &end);
            end
        };
        let (thread, runner) = spawn(scope, body);
        wait_for_count(memory);
        let stop = || kick_to_end(thread, &runner);
        act(&stop);
        stop();
        let end = runner.join().expect("a panic ends the process");
        assert_eq!(end, Err(Errno::EINTR));
    });
}

/// The 32-bit word at an offset in the memory.
pub fn word(memory: &GuestMemory, offset: usize) -> u32 {
    let mut word = [0; 4];
    memory.read(offset, &mut word).unwrap();
    u32::from_le_bytes(word)
}

/// Waits for a guest to continue counting.
pub fn wait_for_count(memory: &GuestMemory) {
    wait_for_count_or(memory, || false);
}

/// Waits for a guest to continue counting, or until `ended` returns true.
pub fn wait_for_count_or(memory: &GuestMemory, ended: impl Fn() -> bool) {
    let before = word(memory, programs::COUNTER);
    wait_until(|| word(memory, programs::COUNTER) != before || ended());
}
