//! The files of a vCPU by io_uring: a batch of them in one submission.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use kvm_api::Vcpu;
use kvm_api::files::{File, FileVcpu};
use kvm_api::kvm_sys::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_sregs};
use kvm_api::syscall::Syscall;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::Needs::AnyVcpu;
use crate::{Stage, Test};
use guests::TestVm;
use guests::programs;
use kvm_api::Form;

pub const TESTS: &[(Form, Test)] = &[
    (
        Form::Files,
        ("io_uring::does_a_batch_at_once", AnyVcpu, batch),
    ),
    (
        Form::Files,
        ("io_uring::leaves_a_busy_vcpu_to_a_worker", AnyVcpu, busy),
    ),
    (
        Form::Files,
        (
            "io_uring::chooses_msrs_and_reads_them",
            AnyVcpu,
            chosen_msrs,
        ),
    ),
];

fn number(files: &FileVcpu<OwnedFd>, file: File) -> types::Fd {
    types::Fd(files.file(file).as_raw_fd())
}

/// Does something with a ring in a thread of its own. The kernel ends a ring some time after
/// the last descriptor is closed, by work of the task that has used it. That would end a
/// later run of a vCPU, unless the task has ended.
fn apart<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(act).join().unwrap())
}

fn batch(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let files = FileVcpu::open(Syscall::open().unwrap(), machine.vcpu_fd()).unwrap();
    let (mut regs, mut sregs) = (machine.regs(), machine.sregs());
    let mut fpu = kvm_fpu::default();
    files.kvm_get_fpu(&mut fpu).unwrap();
    (regs.rbx, sregs.cr2, fpu.fcw) = (0x1234, 0x5678, 0x027f);
    let (mut got_regs, mut got_sregs, mut got_fpu) = (
        kvm_regs::default(),
        kvm_sregs::default(),
        kvm_fpu::default(),
    );
    apart(|| {
        let set = |file, from: *const u8, size: usize| {
            opcode::Write::new(number(&files, file), from, size as u32).build()
        };
        let get = |file, to: *mut u8, size: usize| {
            opcode::Read::new(number(&files, file), to, size as u32).build()
        };
        let entries = [
            set(File::Regs, (&raw const regs).cast(), size_of_val(&regs)),
            set(File::Sregs, (&raw const sregs).cast(), size_of_val(&sregs)),
            set(File::Fpu, (&raw const fpu).cast(), size_of_val(&fpu)),
            get(File::Regs, (&raw mut got_regs).cast(), size_of_val(&regs)),
            get(
                File::Sregs,
                (&raw mut got_sregs).cast(),
                size_of_val(&sregs),
            ),
            get(File::Fpu, (&raw mut got_fpu).cast(), size_of_val(&fpu)),
        ];
        let mut ring = IoUring::new(8).unwrap();
        // SAFETY: the structures are there until the ring is dropped.
        unsafe { ring.submission().push_multiple(&entries) }.unwrap();
        ring.submit().unwrap();
        // Without a wait, the submission has done all of it.
        let done: Vec<_> = ring.completion().map(|done| done.result()).collect();
        let sizes = [144, 312, 416, 144, 312, 416];
        assert_eq!(done, sizes);
    });
    assert_eq!((got_regs, got_sregs), (regs, sregs));
    assert_eq!(got_fpu.fcw, fpu.fcw);
}

fn chosen_msrs(stage: &Stage) {
    const SYSENTER_CS: u32 = 0x174;
    let machine = TestVm::of_form(&stage.kvm, 0);
    let files = FileVcpu::open(Syscall::open().unwrap(), machine.vcpu_fd()).unwrap();
    let entry = kvm_msr_entry {
        index: SYSENTER_CS,
        data: 0x1234,
        ..Default::default()
    };
    let set = Msrs::from_entries(&[entry]).unwrap();
    assert_eq!(files.kvm_set_msrs(&set), Ok(1));
    let read = apart(|| {
        let file = number(&files, File::ChosenMsrs);
        let choice = [1, SYSENTER_CS];
        let (choose, from) = (size_of_val(&choice) as u32, choice.as_ptr().cast());
        // The header, and the entry with its data.
        let mut read = [0_u64; 3];
        let (size, to) = (size_of_val(&read) as u32, read.as_mut_ptr().cast());
        // A worker makes the choice, which allocates memory. The read waits for it.
        let linked = squeue::Flags::IO_LINK;
        let entries = [
            opcode::Write::new(file, from, choose).build().flags(linked),
            opcode::Read::new(file, to, size).build(),
        ];
        let mut ring = IoUring::new(2).unwrap();
        // SAFETY: the arrays are there until the ring is dropped.
        unsafe { ring.submission().push_multiple(&entries) }.unwrap();
        ring.submit_and_wait(2).unwrap();
        let done: Vec<_> = ring.completion().map(|done| done.result()).collect();
        assert_eq!(done, [choose as i32, size as i32]);
        drop(ring);
        read
    });
    assert_eq!(read, [1, SYSENTER_CS.into(), 0x1234]);
}

static HIT: AtomicBool = AtomicBool::new(false);

extern "C" fn hit(_: i32) {
    HIT.store(true, Ordering::Relaxed);
}

fn busy(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.load(programs::SPIN);
    let files = FileVcpu::open(Syscall::open().unwrap(), machine.vcpu_fd()).unwrap();
    let action = SigAction::new(SigHandler::Handler(hit), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler stores to an atomic, no more.
    let before = unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let mut ring = IoUring::new(2).unwrap();
    let mut regs = kvm_regs::default();
    let size = size_of_val(&regs) as u32;
    // SAFETY: the call only returns the id of the caller.
    let runner = unsafe { libc::pthread_self() };
    let machine = &mut machine;
    thread::scope(|scope| {
        scope.spawn(|| {
            // Let the guest begin to spin.
            thread::sleep(Duration::from_millis(50));
            let read = opcode::Read::new(number(&files, File::Regs), (&raw mut regs).cast(), size);
            // SAFETY: the structure is there until the ring is dropped.
            unsafe { ring.submission().push(&read.build()) }.unwrap();
            ring.submit().unwrap();
            thread::sleep(Duration::from_millis(50));
            let early = ring.completion().len();
            // SAFETY: the thread is there until this one has ended.
            unsafe { libc::pthread_kill(runner, libc::SIGUSR1) };
            ring.submit_and_wait(1).unwrap();
            assert_eq!(early, 0, "it was read while the guest ran");
        });
        assert_eq!(machine.try_run(), Err(kvm_api::Errno::EINTR));
    });
    let results: Vec<_> = ring.completion().map(|done| done.result()).collect();
    assert_eq!(results, [size as i32]);
    drop(ring);
    assert_eq!(regs.rip, guests::ENTRY);
    // SAFETY: it is the value from before.
    unsafe { sigaction(Signal::SIGUSR1, &before) }.unwrap();
}
