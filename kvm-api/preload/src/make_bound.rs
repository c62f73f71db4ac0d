//! Makes calls on the vCPU that is bound to the thread, without its descriptor. The functions
//! have the type [`Make`](crate::route::Make), as those of [`make`](crate::make).

use kvm_sys::KVM_VCPU_STATE_SIZE_VER0;
use kvm_sys::instruction::{syscall1, syscall2};
use libc::{c_int, c_ulong};

use crate::bind::record;
use crate::counts;
use crate::make::state_of;
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
    unsafe { done(fd, route, arg, syscall1(route.bound_number, arg as usize)) }
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
        let answer = syscall2(route.bound_number, state.expose_provenance(), size);
        done(fd, route, arg, answer)
    }
}

/// Counts a call that was made, and returns its answer.
#[inline(always)]
unsafe fn done(fd: usize, route: &'static Route, arg: c_ulong, answer: isize) -> c_int {
    if answer < 0 {
        // SAFETY: the caller vouches for the request.
        return unsafe { failed(fd, route, arg, answer) };
    }
    counts::count(route, Outcome::Bound);
    answer as c_int
}

/// Returns the error of a call, or makes the request by the descriptor if no vCPU was bound,
/// or a filter of system calls refused the call.
#[cold]
#[inline(never)]
unsafe extern "C" fn failed(
    fd: usize,
    route: &'static Route,
    arg: c_ulong,
    answer: isize,
) -> c_int {
    let errno = -answer as c_int;
    if is_refusal(errno) {
        record::take(fd as c_int);
        // SAFETY: the caller vouches for the request.
        return unsafe { (route.make)(fd, route, arg) };
    }
    counts::count(route, Outcome::Bound);
    returned(answer)
}

/// Whether this error means that the call was not made. The bound vCPU is no file of another
/// kind, so that `EINVAL` is the call's answer.
fn is_refusal(errno: c_int) -> bool {
    matches!(errno, libc::ENXIO | libc::ENOSYS | libc::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::ROUTES;

    /// The kernel does not refuse a call of these by an error that is also an answer.
    #[test]
    fn a_refusal_is_not_an_answer() {
        let bound = ROUTES
            .iter()
            .filter(|route| route.bound_number != route.number);
        for route in bound.filter(|route| !std::ptr::fn_addr_eq(route.make, route.make_bound)) {
            for errno in route.call.errors {
                assert!(!is_refusal(*errno as c_int), "{}: {errno}", route.name);
            }
        }
    }
}
