//! A vcpu's registers written and read, in one go and one by one: what a
//! snapshot restores and saves of regs, sregs and fpu.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use io_uring::{IoUring, opcode, squeue, types};
use kvm_api::Vcpu;
use kvm_api::files::File;
use kvm_bindings::{kvm_fpu, kvm_regs, kvm_sregs};

use crate::backend::{Files, StaticForm};
use crate::fixture::Fixture;
use crate::workload::Workload;

/// The registers that pass.
#[derive(Default)]
struct State {
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
}

impl State {
    fn of<B: StaticForm>(f: &Fixture<'_, B>) -> Result<Box<Self>> {
        let mut fpu = kvm_fpu::default();
        f.vcpu.kvm_get_fpu(&mut fpu).context("kvm_get_fpu")?;
        let mut regs = f.regs()?;
        regs.rbx = MARK;
        Ok(Box::new(Self {
            regs,
            sregs: f.sregs()?,
            fpu,
        }))
    }
}

/// What the vcpu does not have in `rbx` unless the batch has written it.
const MARK: u64 = 0x6261_7463_6800;

/// Six calls of a backend, one after the other.
pub struct Calls<'b, B: StaticForm> {
    fixture: Fixture<'b, B>,
    written: Box<State>,
    read: Box<State>,
}

impl<'b, B: StaticForm> Calls<'b, B> {
    /// Makes the vcpu.
    ///
    /// # Errors
    ///
    /// When the kernel refuses something that it begins with.
    pub fn new(form: &'b B) -> Result<Self> {
        let fixture = Fixture::new(form)?;
        let written = State::of(&fixture)?;
        Ok(Self {
            fixture,
            written,
            read: Box::default(),
        })
    }
}

impl<B: StaticForm> Workload for Calls<'_, B> {
    fn call(&mut self) {
        let (f, read) = (&self.fixture, &mut *self.read);
        f.vcpu.kvm_set_regs(&self.written.regs).unwrap();
        f.vcpu.kvm_set_sregs(&self.written.sregs).unwrap();
        f.vcpu.kvm_set_fpu(&self.written.fpu).unwrap();
        f.vcpu.kvm_get_regs(&mut read.regs).unwrap();
        f.vcpu.kvm_get_sregs(&mut read.sregs).unwrap();
        f.vcpu.kvm_get_fpu(&mut read.fpu).unwrap();
    }

    fn check(&mut self, _calls: u64) -> Result<()> {
        passed(&self.written, &self.read)
    }
}

/// How many structures a batch passes.
const OPERATIONS: usize = 6;

/// The same by io_uring, from the files of the vcpu, in one submission.
pub struct Ring<'b> {
    ring: IoUring,
    entries: [squeue::Entry; OPERATIONS],
    written: Box<State>,
    read: Box<State>,
    // After the ring, which refers to its files by number.
    _fixture: Fixture<'b, Files>,
}

impl<'b> Ring<'b> {
    /// Makes the vcpu, opens its files, and registers them with a ring.
    ///
    /// # Errors
    ///
    /// When the kernel refuses something that it begins with.
    pub fn new(form: &'b Files) -> Result<Self> {
        let fixture = Fixture::new(form)?;
        let (written, mut read) = (State::of(&fixture)?, Box::<State>::default());
        let ring = IoUring::builder()
            .setup_single_issuer()
            .build(OPERATIONS as u32)
            .context("io_uring")?;
        let used = [File::Regs, File::Sregs, File::Fpu];
        let numbers = used.map(|file| fixture.vcpu.file(file).as_raw_fd());
        ring.submitter()
            .register_files(&numbers)
            .context("files of io_uring")?;

        // They run in order: what one writes another reads.
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
        Ok(Self {
            ring,
            entries,
            written,
            read,
            _fixture: fixture,
        })
    }

    /// Submits the batch without waiting, and returns how many have completed
    /// by then: all, if none has been left to a worker.
    pub fn submit(&mut self) -> usize {
        // SAFETY: the structures are this value's own, behind pointers of their
        // own, and nobody looks at them until the batch has completed.
        unsafe { self.ring.submission().push_multiple(&self.entries) }.expect("room");
        self.ring.submit().unwrap();
        self.ring.completion().len()
    }

    /// Takes the results, which must be that the structures have passed whole.
    fn complete(&mut self) {
        for done in self.ring.completion() {
            assert!(done.result() > 0, "{}", done.result());
        }
    }
}

impl Workload for Ring<'_> {
    fn call(&mut self) {
        let done = self.submit();
        assert_eq!(done, OPERATIONS, "the others were left to a worker");
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
