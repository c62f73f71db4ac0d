//! A child that makes calls until it is done or dead.

use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::with_exposed_provenance_mut;

use anyhow::Result;
use fastrand::Rng;
use kvm_api::RunMapping;
use kvm_sys::exit::KVM_EXIT_FAIL_ENTRY;
use kvm_sys::{__NR_kvm_bound_mmap, AnyCall, BindingCall, FlatCall, ProcessCall, kvm_run};
use libc::{c_int, c_long};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::argument::Arg;
use super::corpus;
use super::pool::Pool;
use super::rows::{CallRow, ROWS};
use super::step::{Step, Target, file_name};
use super::tally::Tally;
use crate::arguments::makes_file;
use crate::signal::{self, set_timer};

const RUN: AnyCall = AnyCall::Flat(FlatCall::kvm_run);
const MAP: AnyCall = AnyCall::Process(ProcessCall::kvm_map_memory);

/// The size of a vCPU's run mapping.
const RUN_SIZE: u64 = 0x3000;

/// The time limit of a guest's run, in microseconds. Many guests loop.
const ALARM: libc::suseconds_t = 200;

/// Makes `calls` calls on a pool of its own.
pub fn run(seed: u64, calls: u64, tally: &Tally) -> Result<()> {
    let mut rng = Rng::with_seed(seed);
    let corpus = corpus::all();
    let mut pool = Pool::new()?;
    signal::handle(Signal::SIGALRM)?;
    let mut left = calls;
    while left > 0 {
        for step in sequence(&corpus, &mut rng) {
            if take(&step, &mut pool, tally)? {
                left = left.saturating_sub(1);
            }
        }
    }
    Ok(())
}

/// Steps: random ones, or those of the corpus with a few changes.
fn sequence(corpus: &[Vec<Step>], rng: &mut Rng) -> Vec<Step> {
    match rng.u8(..8) {
        0 => (0..8).map(|_| Step::random(rng)).collect(),
        1..=3 => (0..8).map(|_| Step::structured(rng)).collect(),
        _ => {
            let mut steps = corpus[rng.usize(..corpus.len())].clone();
            for _ in 0..rng.u8(..3) {
                let n = rng.usize(..steps.len());
                steps[n].mutate(rng);
            }
            steps
        }
    }
}

/// Takes a step, and returns whether it was a system call of KVM.
fn take(step: &Step, pool: &mut Pool, tally: &Tally) -> Result<bool> {
    let args = step.args.map(|arg| resolve(arg, pool));
    match step.target {
        Target::Call(row) => {
            let call = &ROWS[row];
            if call.call == AnyCall::Flat(FlatCall::kvm_set_signal_mask) {
                pool.let_alarm_through();
            }
            let result = timed(call.call == RUN, || raw(call.number, &args));
            tally.count(Some(row), result);
            if let Ok(answer) = result {
                note(call, &args, answer, pool)?;
            }
        }
        Target::Ioctl(row) => {
            if let Some(request) = ROWS[row].request() {
                let run = ROWS[row].call == RUN;
                let words = [args[0], request, args[1], 0, 0, 0];
                let result = timed(run, || raw(libc::SYS_ioctl, &words));
                tally.count(None, result);
                if run && result.is_ok() {
                    replace_broken(args[0] as RawFd, pool)?;
                }
            }
        }
        Target::Number(number) => tally.count(None, raw(number.into(), &args)),
        Target::Map => map(&args),
        Target::Open => {
            let [fd, nth, flags, ..] = args;
            let name = file_name(nth as usize).as_ptr();
            let flags = flags & 3 | libc::O_CLOEXEC as u64;
            let name = name.expose_provenance() as u64;
            let result = raw(libc::SYS_openat, &[fd, name, flags, 0, 0, 0]);
            if let Ok(fd) = result {
                pool.keep(fd as RawFd);
            }
            tally.count(None, result);
        }
        Target::Read => tally.count(None, raw(libc::SYS_pread64, &args)),
        Target::Write => tally.count(None, raw(libc::SYS_pwrite64, &args)),
        Target::List => tally.count(None, raw(libc::SYS_getdents64, &args)),
        Target::Poke => {
            if let Arg::Place(place) = step.args[0] {
                pool.poke(place, args[1], args[2]);
            }
        }
    }
    Ok(matches!(step.target, Target::Call(_)))
}

/// Updates the pool after a call.
fn note(call: &CallRow, args: &[u64; 6], answer: i64, pool: &mut Pool) -> Result<()> {
    let fd = args[0] as RawFd;
    match call.call {
        AnyCall::Flat(call) if makes_file(call) => pool.keep(answer as RawFd),
        AnyCall::Binding(BindingCall::kvm_bind) => pool.bind(Some(fd))?,
        AnyCall::Binding(BindingCall::kvm_unbind)
        | AnyCall::Process(ProcessCall::kvm_create_bound_vcpu) => pool.bind(None)?,
        AnyCall::Process(ProcessCall::kvm_map_memory | ProcessCall::kvm_bound_mmap) => {
            // A new mapping, of which nobody learns. A size is rounded up to pages.
            let size = if call.call == MAP { args[2] } else { RUN_SIZE };
            // SAFETY: nothing refers to it.
            unsafe { libc::munmap(with_exposed_provenance_mut(answer as usize), size as usize) };
        }
        RUN if !call.bound => replace_broken(fd, pool)?,
        RUN => {
            if bound_is_broken()
                && let Some(vcpu) = pool.unbind()
            {
                pool.replace(vcpu)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn replace_broken(vcpu: RawFd, pool: &mut Pool) -> Result<()> {
    if is_broken(vcpu) {
        pool.replace(vcpu)?;
    }
    Ok(())
}

/// Whether entering the guest has failed. QEMU 7.2 then lets the guest mask the
/// host's interrupts: the next guest on that vCPU that masks its interrupts and
/// loops keeps the processor forever.
fn is_broken(vcpu: RawFd) -> bool {
    // SAFETY: a descriptor that was run is a vCPU, and open until the child has ended.
    let vcpu = unsafe { BorrowedFd::borrow_raw(vcpu) };
    RunMapping::new(vcpu, size_of::<kvm_run>())
        .is_ok_and(|mut run| run.exit().exit_reason() == KVM_EXIT_FAIL_ENTRY)
}

/// The same for the bound vCPU, which may have no descriptor.
fn bound_is_broken() -> bool {
    // SAFETY: the call makes a new mapping, which is longer than the structure, and of which
    // nobody learns.
    unsafe {
        let at = libc::syscall(__NR_kvm_bound_mmap);
        if at == -1 {
            return false;
        }
        let run = with_exposed_provenance_mut::<kvm_run>(at as usize);
        let reason = (&raw const (*run).exit_reason).read_volatile();
        libc::munmap(run.cast(), RUN_SIZE as usize);
        reason == KVM_EXIT_FAIL_ENTRY
    }
}

fn resolve(arg: Arg, pool: &Pool) -> u64 {
    match arg {
        Arg::Fd(fd) => pool.fd(fd) as u64,
        Arg::Place(place) => pool.address(place),
        Arg::Number(number) => number,
    }
}

/// Makes a call. The alarm ends it if it runs a guest.
fn timed<T>(runs: bool, call: impl FnOnce() -> T) -> T {
    if !runs {
        return call();
    }
    set_timer(libc::ITIMER_REAL, ALARM);
    let result = call();
    set_timer(libc::ITIMER_REAL, 0);
    result
}

fn raw(number: c_long, args: &[u64; 6]) -> Result<i64, Errno> {
    let [a, b, c, d, e, f] = *args;
    // SAFETY: the kernel writes to the addresses in the arguments. That is memory of the
    // pool, but for numbers that happen to be addresses of this child's, which
    // may die of it.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

/// Maps a file for a moment.
fn map(args: &[u64; 6]) {
    let [fd, offset, size, ..] = *args;
    let (fd, size, offset) = (fd as c_int, size as usize & 0xff_ffff, offset as i64);
    let (prot, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping, at a place that the kernel chooses, of which
    // nobody learns.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), size, prot, shared, fd, offset);
        if at != libc::MAP_FAILED {
            libc::munmap(at, size);
        }
    }
}
