//! The report of a process at its end: how often each request went where, and why.
//!
//! The process may end in a signal handler, so that the library uses neither the heap nor
//! a lock here.

use std::ffi::CStr;
use std::fmt::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use kvm_sys::instruction::syscall2;
use libc::c_int;

use crate::counts;
use crate::message::die;
use crate::outcome::Outcome;
use crate::target::Target;
use crate::text::Text;
use crate::totals::{Line, sorted};

/// The variable with the path of the file to which each process appends its report, or `-`
/// for the standard error. Without the variable there is no report.
pub const REPORT_VARIABLE: &CStr = c"KVM_PRELOAD_REPORT";

/// Twice a line of 60 bytes for each count.
const ROOM: usize = counts::COUNTS * 120;

static TARGET: OnceLock<Target> = OnceLock::new();

/// The process that has a report to write; 0 if there is none. A child of `vfork`, which
/// shares the memory, is another process.
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// Prepares the report of this process, and of those that it forks.
pub(crate) fn prepare(variable: &CStr) {
    let Some(target) = Target::of(variable) else {
        return;
    };
    if !counts::attach_own() {
        die(c"kvm-preload: no memory to count in\n");
    }
    if TARGET.set(target).is_ok() {
        // SAFETY: the function does what is allowed after a fork.
        unsafe { libc::pthread_atfork(None, None, Some(begin)) };
    }
    begin();
}

/// Has this process write a report.
extern "C" fn begin() {
    // SAFETY: the call touches no memory and cannot fail.
    PROCESS.store(unsafe { libc::getpid() }, Ordering::Release);
}

/// Writes the report of this process, if it has one to write and has made a request.
pub extern "C" fn finish() {
    // SAFETY: the call touches no memory and cannot fail.
    let this = unsafe { libc::getpid() };
    let mine = PROCESS.compare_exchange(this, 0, Ordering::AcqRel, Ordering::Acquire);
    let (Ok(_), Some(target), Some(_)) = (mine, TARGET.get(), sorted().next()) else {
        return;
    };
    let Some(mut text) = Text::new(ROOM) else {
        return;
    };
    // What does not fit is left out.
    let _ = write_report(&mut text, this);
    target.write(text.done());
}

fn write_report(text: &mut impl Write, process: c_int) -> fmt::Result {
    let sum = |of: fn(&Line) -> bool| {
        let lines = sorted().filter(of);
        lines.map(|line| line.count).sum::<u64>()
    };
    let flat = sum(|line| line.outcome.is_call());
    let all = sum(|_| true);
    let mut name = [0_u8; 16];
    let name = name_of_thread(&mut name);
    writeln!(
        text,
        "kvm-preload: {flat} of {all} KVM ioctls of process {process} ({name}) became system calls"
    )?;
    write!(text, "{}", counts::bindings())?;
    writeln!(text, "{:>12}  {:<30} made as", "count", "ioctl")?;
    for line in sorted() {
        write!(text, "{:>12}  {:<30} ", line.count, line.request)?;
        match (line.outcome, line.call) {
            (Outcome::HandedOver, Some(call)) => writeln!(text, "{call}")?,
            (Outcome::Bound, Some(call)) => {
                writeln!(text, "kvm_bound_{}", call.trim_start_matches("kvm_"))?;
            }
            (Outcome::BoundWithFd, Some(call)) => writeln!(text, "{call} on a bound vCPU")?,
            (reason, _) => writeln!(text, "ioctl: {}", reason.reason())?,
        }
    }
    Ok(())
}

/// The name of the thread, which is the name of the program in most programs.
fn name_of_thread(name: &mut [u8; 16]) -> &str {
    let (get, place) = (
        libc::PR_GET_NAME as usize,
        (&raw mut *name).expose_provenance(),
    );
    // SAFETY: the kernel writes 16 bytes, of which the last is 0.
    unsafe { syscall2(libc::SYS_prctl, get, place) };
    let name = CStr::from_bytes_until_nul(name).unwrap_or_default();
    name.to_str().unwrap_or_default()
}
