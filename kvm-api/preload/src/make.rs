//! Makes calls in place of ioctls. The functions with the type [`Make`](crate::route::Make)
//! differ in how the call takes its arguments.
//!
//! What is not the usual case is in other functions, which these call last. They have the
//! ABI of C, in which nothing unwinds, so that the compiler makes jumps of these calls.

use kvm_sys::KVM_VCPU_STATE_SIZE_VER0;
use kvm_sys::instruction::{syscall1, syscall2, syscall3};
use libc::{c_int, c_ulong};

use crate::bind;
use crate::bind::record::of_this_thread;
use crate::counts;
use crate::fields::{Fields, can_be_read, is_in_page_of_stack};
use crate::kinds;
use crate::outcome::Outcome;
use crate::plain::returned;
use crate::route::Route;

/// The call takes what the ioctl takes.
pub(crate) unsafe extern "C" fn with_argument(
    fd: usize,
    route: &'static Route,
    arg: c_ulong,
) -> c_int {
    // SAFETY: the caller vouches for the request.
    unsafe { done(fd, route, arg, syscall2(route.number, fd, arg as usize)) }
}

/// The call takes no argument, and that of the ioctl has to be 0.
pub(crate) unsafe extern "C" fn without_argument(
    fd: usize,
    route: &'static Route,
    arg: c_ulong,
) -> c_int {
    if arg != 0 {
        // SAFETY: the caller vouches for the request.
        return unsafe { stay(fd, route, arg, Outcome::Argument) };
    }
    // SAFETY: as above.
    unsafe { done(fd, route, arg, syscall1(route.number, fd)) }
}

/// A run of a vCPU, which may be bound to the thread.
pub(crate) unsafe extern "C" fn run(fd: usize, route: &'static Route, arg: c_ulong) -> c_int {
    if arg == 0
        && let Some(record) = of_this_thread(fd as c_int)
    {
        // SAFETY: the caller vouches for the request.
        return unsafe { bind::run::run(record, fd, route) };
    }
    if bind::is_on() {
        // SAFETY: as above.
        return unsafe { bind::run::run_unbound(fd, route, arg) };
    }
    // SAFETY: as above.
    unsafe { without_argument(fd, route, arg) }
}

/// The call takes no argument. That of the ioctl is the id that the call would choose.
pub(crate) unsafe extern "C" fn without_id(
    fd: usize,
    route: &'static Route,
    arg: c_ulong,
) -> c_int {
    // SAFETY: the caller vouches for the request.
    unsafe { done(fd, route, arg, syscall1(route.number, fd)) }
}

/// The call takes a structure with the address of this part of the state of a vCPU.
pub(crate) unsafe extern "C" fn part<const PART: u64>(
    fd: usize,
    route: &'static Route,
    arg: c_ulong,
) -> c_int {
    let state = state_of::<PART>(arg);
    let (state, size) = (&raw const state, KVM_VCPU_STATE_SIZE_VER0);
    // SAFETY: the caller vouches for the request.
    unsafe {
        let answer = syscall3(route.number, fd, state.expose_provenance(), size);
        done(fd, route, arg, answer)
    }
}

/// The first words of a `kvm_vcpu_state`: all that the kernel reads at its first size.
type State = [u64; KVM_VCPU_STATE_SIZE_VER0 / size_of::<u64>()];

/// A structure with the address of a part.
#[inline(always)]
pub(crate) fn state_of<const PART: u64>(arg: c_ulong) -> State {
    // The kernel ignores the addresses of the other parts.
    let mut state = [arg; size_of::<State>() / size_of::<u64>()];
    state[0] = PART;
    state
}

/// The call takes fields of the structure of the ioctl.
pub(crate) unsafe extern "C" fn with_fields<T: Fields>(
    fd: usize,
    route: &'static Route,
    arg: c_ulong,
) -> c_int {
    if is_in_page_of_stack::<T>(arg as usize) {
        // SAFETY: the caller vouches for the request, and the structure can be read.
        unsafe { with_readable_fields::<T>(fd, route, arg) }
    } else {
        // SAFETY: the caller vouches for the request.
        unsafe { with_fields_elsewhere::<T>(fd, route, arg) }
    }
}

#[cold]
#[inline(never)]
unsafe extern "C" fn with_fields_elsewhere<T: Fields>(
    fd: usize,
    route: &'static Route,
    arg: c_ulong,
) -> c_int {
    if can_be_read::<T>(arg as usize) {
        // SAFETY: the caller vouches for the request, and the structure can be read.
        unsafe { with_readable_fields::<T>(fd, route, arg) }
    } else {
        // SAFETY: the caller vouches for the request.
        unsafe { stay(fd, route, arg, Outcome::Structure) }
    }
}

/// A structure at an address that need not be a multiple of anything.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Anywhere<T>(T);

#[inline(always)]
unsafe fn with_readable_fields<T: Fields>(fd: usize, route: &'static Route, arg: c_ulong) -> c_int {
    let fields = std::ptr::with_exposed_provenance::<Anywhere<T>>(arg as usize);
    // SAFETY: the structure has numbers only, and can be read. A program whose other thread
    // unmaps it meanwhile has a race of its own.
    let Anywhere(fields) = unsafe { *fields };
    if !fields.fit() {
        // SAFETY: the caller vouches for the request.
        return unsafe { stay(fd, route, arg, Outcome::Argument) };
    }
    // SAFETY: as above.
    unsafe { done(fd, route, arg, fields.call(route.number, fd, arg as usize)) }
}

/// Counts a call that was made, and returns its answer.
#[inline(always)]
unsafe fn done(fd: usize, route: &'static Route, arg: c_ulong, answer: isize) -> c_int {
    if answer < 0 {
        // SAFETY: the caller vouches for the request.
        return unsafe { failed(fd, route, arg, answer) };
    }
    counts::count(route, Outcome::HandedOver);
    answer as c_int
}

/// Returns the error of a call, or makes the ioctl if the call may not have been made.
#[cold]
#[inline(never)]
unsafe extern "C" fn failed(
    fd: usize,
    route: &'static Route,
    arg: c_ulong,
    answer: isize,
) -> c_int {
    if route.is_refusal(-answer as c_int) {
        kinds::forget(fd as c_int);
        // SAFETY: the caller vouches for the request.
        return unsafe { stay(fd, route, arg, Outcome::Refused) };
    }
    if -answer as c_int == libc::EBUSY && bind::is_on() {
        // SAFETY: as above. A call with this error has had no effect.
        return unsafe { stay(fd, route, arg, Outcome::Busy) };
    }
    counts::count(route, Outcome::HandedOver);
    returned(answer)
}

/// Makes the ioctl of a request that cannot go to its call.
///
/// # Safety
///
/// As for the request.
#[cold]
#[inline(never)]
pub(crate) unsafe extern "C" fn stay(
    fd: usize,
    route: &Route,
    arg: c_ulong,
    reason: Outcome,
) -> c_int {
    counts::count(route, reason);
    // SAFETY: the caller vouches for the request.
    unsafe { bind::ask::ioctl(fd, route.request, arg) }
}
