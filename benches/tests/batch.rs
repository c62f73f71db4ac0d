//! Counts the instructions of reading and writing a vCPU's registers one by one, and in
//! one submission to io_uring.
//!
//! The tests need the patched kernel, and are ignored without it. They run inside the
//! machine by `kernel-patch cargo -- test -p benches --test batch -- --ignored --nocapture`.

#![allow(missing_docs)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use anyhow::{Result, ensure};
use benches::{Files, StaticForm, Workload, counter, exact};
use guests::TestVm;
use io_uring::{IoUring, opcode, squeue, types};
use kvm_api::files::{File, FileVcpu};
use kvm_api::ioctl::Ioctl;
use kvm_api::syscall::Syscall;
use kvm_api::{Kvm, Vcpu};
use kvm_bindings::{kvm_fpu, kvm_regs, kvm_sregs};

/// The registers that pass.
#[derive(Default)]
struct State {
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
}

impl State {
    fn of(vcpu: &impl Vcpu) -> Box<Self> {
        let mut state = Box::<Self>::default();
        vcpu.kvm_get_regs(&mut state.regs).unwrap();
        vcpu.kvm_get_sregs(&mut state.sregs).unwrap();
        vcpu.kvm_get_fpu(&mut state.fpu).unwrap();
        state.regs.rbx = MARK;
        state
    }
}

/// A value that the vCPU has in `rbx` only if the batch has written it.
const MARK: u64 = 0x6261_7463_6800;

/// Makes a vCPU of a form, in a VM of its own.
fn new_vcpu<B: StaticForm>(form: &B) -> B::Vcpu<'_> {
    let vm = TestVm::idle(form.kvm()).unwrap();
    form.vcpu(vm.vcpu_fd()).unwrap()
}

/// Six calls of a form, one after the other.
struct Calls<V> {
    vcpu: V,
    written: Box<State>,
    read: Box<State>,
}

impl<V: Vcpu> Calls<V> {
    fn new(vcpu: V) -> Self {
        Self {
            written: State::of(&vcpu),
            read: Box::default(),
            vcpu,
        }
    }
}

impl<V: Vcpu> Workload for Calls<V> {
    fn call(&mut self) {
        let (vcpu, read) = (&self.vcpu, &mut *self.read);
        vcpu.kvm_set_regs(&self.written.regs).unwrap();
        vcpu.kvm_set_sregs(&self.written.sregs).unwrap();
        vcpu.kvm_set_fpu(&self.written.fpu).unwrap();
        vcpu.kvm_get_regs(&mut read.regs).unwrap();
        vcpu.kvm_get_sregs(&mut read.sregs).unwrap();
        vcpu.kvm_get_fpu(&mut read.fpu).unwrap();
    }

    fn check(&mut self, _calls: u64) -> Result<()> {
        passed(&self.written, &self.read)
    }
}

/// The number of structures that a batch passes.
const OPERATIONS: usize = 6;

/// The same by io_uring on the files of the vCPU, in one submission.
struct Ring {
    ring: IoUring,
    entries: [squeue::Entry; OPERATIONS],
    written: Box<State>,
    read: Box<State>,
    // Dropped after the ring, which refers to its files by number.
    _vcpu: FileVcpu<OwnedFd>,
}

impl Ring {
    /// Opens the files of a new vCPU, and registers them with a ring.
    fn new(form: &Files) -> Self {
        let vcpu = new_vcpu(form);
        let (written, mut read) = (State::of(&vcpu), Box::<State>::default());
        let ring = IoUring::builder()
            .setup_single_issuer()
            .build(OPERATIONS as u32)
            .unwrap();
        let used = [File::Regs, File::Sregs, File::Fpu];
        let numbers = used.map(|file| vcpu.file(file).as_raw_fd());
        ring.submitter().register_files(&numbers).unwrap();

        // They run in order: the reads return what the writes wrote.
        let write = |index, from: *const u8, size: usize| {
            opcode::Write::new(types::Fixed(index), from, size as u32).build()
        };
        let get = |index, to: *mut u8, size: usize| {
            opcode::Read::new(types::Fixed(index), to, size as u32).build()
        };
        let entries = [
            write(0, (&raw const written.regs).cast(), size_of::<kvm_regs>()),
            write(1, (&raw const written.sregs).cast(), size_of::<kvm_sregs>()),
            write(2, (&raw const written.fpu).cast(), size_of::<kvm_fpu>()),
            get(0, (&raw mut read.regs).cast(), size_of::<kvm_regs>()),
            get(1, (&raw mut read.sregs).cast(), size_of::<kvm_sregs>()),
            get(2, (&raw mut read.fpu).cast(), size_of::<kvm_fpu>()),
        ];
        Self {
            ring,
            entries,
            written,
            read,
            _vcpu: vcpu,
        }
    }

    /// Submits the batch without waiting, and returns the number of operations that have
    /// completed: all, unless a worker has to do some.
    fn submit(&mut self) -> usize {
        // SAFETY: this value owns the structures, and nothing reads or writes them until
        // the batch has completed.
        unsafe { self.ring.submission().push_multiple(&self.entries) }.expect("room");
        self.ring.submit().unwrap();
        self.ring.completion().len()
    }

    /// Takes the results, and checks that each operation has passed a structure.
    fn complete(&mut self) {
        for done in self.ring.completion() {
            assert!(done.result() > 0, "{}", done.result());
        }
    }
}

impl Workload for Ring {
    fn call(&mut self) {
        let done = self.submit();
        assert_eq!(done, OPERATIONS, "a worker has to do the others");
        self.complete();
    }

    fn check(&mut self, _calls: u64) -> Result<()> {
        passed(&self.written, &self.read)
    }
}

fn passed(written: &State, read: &State) -> Result<()> {
    ensure!(read.regs == written.regs && read.regs.rbx == MARK);
    ensure!(read.sregs == written.sregs && read.fpu.fcw == written.fpu.fcw);
    Ok(())
}

#[test]
#[ignore = "takes the patched kernel"]
fn a_batch_is_done_when_it_is_submitted() {
    let files = Files::open().unwrap();
    let mut ring = Ring::new(&files);
    ring.call();
    ring.check(1).unwrap();
}

fn show(name: &str, workload: &mut dyn Workload) {
    let count = exact::count(workload).unwrap();
    let unit = counter::detect();
    println!(
        "{name}: {} {unit}, {} of {}",
        count.mode, count.at_mode, count.calls
    );
}

#[test]
#[ignore = "takes the patched kernel"]
fn what_a_batch_takes() {
    let ioctl = Ioctl::open().unwrap();
    let (calls, files) = (Syscall::open().unwrap(), Files::open().unwrap());
    show("six ioctls", &mut Calls::new(new_vcpu(&ioctl)));
    show("six system calls", &mut Calls::new(new_vcpu(&calls)));
    show("six reads and writes", &mut Calls::new(new_vcpu(&files)));
    show("one submission", &mut Ring::new(&files));
}

/// The registers, at offset 0 or at the position that never moves.
struct Read {
    file: RawFd,
    at_offset: bool,
}

impl Workload for Read {
    fn call(&mut self) {
        let mut buffer = [0_u8; 144];
        let (to, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the buffer is that long.
        let read = unsafe {
            if self.at_offset {
                nix::libc::pread(self.file, to, size, 0)
            } else {
                nix::libc::read(self.file, to, size)
            }
        };
        assert_eq!(read, 144);
    }
}

#[test]
#[ignore = "takes the patched kernel"]
fn read_and_pread() {
    let calls = Syscall::open().unwrap();
    let vm = calls.kvm_create_vm().unwrap();
    let vcpu = calls.kvm_create_vcpu(vm.as_fd()).unwrap();
    let vcpu = FileVcpu::open(calls, vcpu).unwrap();
    let file = vcpu.file(File::Regs).as_raw_fd();
    for (name, at_offset) in [("read", false), ("pread", true)] {
        show(name, &mut Read { file, at_offset });
    }
}
