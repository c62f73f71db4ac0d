//! Binds the vCPU of a thread to the thread at its first `KVM_RUN`, for a program that
//! knows nothing of it.
//!
//! [`BIND_VARIABLE`] turns this on. The kernel then refuses the vCPU to all other threads
//! with `EBUSY`. A program must not see that, nor a vCPU that it has not asked for. The
//! parts of the argument are beside the code:
//!
//! - which vCPU a request without a descriptor reaches: [`record`];
//! - how another thread gets the vCPU: [`ask`];
//! - why no run of a vCPU is interrupted for that: [`run`];
//! - what changes a descriptor: [`watch`].
//!
//! Everything here may run in a signal handler of the program, so that there is no lock,
//! and no memory is allocated.

pub(crate) mod ask;
mod kernel;
mod proc;
pub(crate) mod record;
pub(crate) mod run;
pub(crate) mod signal;
#[cfg(test)]
mod tests;
pub(crate) mod watch;

use std::ffi::CStr;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use kvm_sys::instruction::syscall0;
use libc::c_int;

use crate::message::die;

/// The variable that has vCPUs bound: [`WITH_FD`] or [`WITHOUT_FD`].
pub const BIND_VARIABLE: &CStr = c"KVM_PRELOAD_BIND";

/// The calls on a bound vCPU name its descriptor. The kernel looks at the descriptor, so
/// that the answer is right whatever the program does with it.
pub const WITH_FD: &CStr = c"with-fd";

/// The calls on a bound vCPU name no descriptor. The answer is right if the program changes
/// its descriptors by the functions that the library watches.
pub const WITHOUT_FD: &CStr = c"without-fd";

const OFF: u8 = 0;
const NAMED: u8 = 1;
const UNNAMED: u8 = 2;

static MODE: AtomicU8 = AtomicU8::new(OFF);

/// The process whose threads have their vCPUs bound. A child of `vfork` is another one, with
/// the same memory; so is a child that was made by an instruction of the program's.
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// Whether vCPUs are bound.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    MODE.load(Ordering::Relaxed) != OFF
}

/// Whether the calls on a bound vCPU name no descriptor.
#[inline(always)]
pub(crate) fn is_unnamed() -> bool {
    MODE.load(Ordering::Relaxed) == UNNAMED
}

/// Turns it on, if the kernel has the calls. Ends the program if the value of the variable is
/// another one.
pub(crate) fn start(value: &CStr, ready: bool) {
    let mode = mode(value).unwrap_or_else(|| {
        die(c"kvm-preload: KVM_PRELOAD_BIND is neither with-fd nor without-fd\n")
    });
    if !ready {
        return;
    }
    if !signal::catch() {
        die(c"kvm-preload: each real-time signal has a handler, and binding vCPUs needs one\n");
    }
    begin();
    // SAFETY: the function does what is allowed after a fork.
    unsafe { libc::pthread_atfork(None, None, Some(begin_child)) };
    MODE.store(mode, Ordering::Release);
}

fn mode(value: &CStr) -> Option<u8> {
    match value {
        _ if value == WITH_FD => Some(NAMED),
        _ if value == WITHOUT_FD => Some(UNNAMED),
        _ => None,
    }
}

fn begin() {
    PROCESS.store(process(), Ordering::Release);
}

/// No vCPU is bound in a child.
extern "C" fn begin_child() {
    record::reset();
    begin();
}

/// Whether this is the process that [`begin`] has seen.
fn is_same_process() -> bool {
    PROCESS.load(Ordering::Acquire) == process()
}

fn process() -> c_int {
    // SAFETY: the call touches no memory and cannot fail.
    unsafe { syscall0(libc::SYS_getpid) as c_int }
}

/// The number of the calling thread.
fn this_task() -> c_int {
    // SAFETY: the call touches no memory and cannot fail.
    unsafe { syscall0(libc::SYS_gettid) as c_int }
}

/// Lets another thread run.
fn yield_now() {
    // SAFETY: the call touches no memory.
    unsafe { syscall0(libc::SYS_sched_yield) };
}
