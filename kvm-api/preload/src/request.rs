//! Hands a request to the call or to the ioctl.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};

use kvm_sys::{
    __NR_kvm_check_extension, KVM_CAP_SYSCALLS, KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_SYSCALLS_ABI,
};
use libc::{c_int, c_long, c_ulong};

use crate::arguments::{Arguments, arguments};
use crate::counts::{self, COUNTS_VARIABLE};
use crate::file::{self, Kind};
use crate::plan::{Plan, plan, replacement};
use crate::vcpus::{self, Making};

/// Whether the kernel has the calls.
static READY: AtomicBool = AtomicBool::new(false);

/// Opens the file of counts, and looks for the calls. Until then each request goes to the
/// ioctl. The dynamic linker calls this before `main` of the program.
pub extern "C" fn start() {
    // SAFETY: the name ends with a zero. There is no other thread yet that could change
    // the environment.
    let path = unsafe { libc::getenv(COUNTS_VARIABLE.as_ptr()) };
    if !path.is_null() {
        // SAFETY: it is a string of the environment.
        let path = unsafe { CStr::from_ptr(path) };
        if !counts::attach(path) {
            die(c"kvm-preload: cannot map the file to count in\n");
        }
    }
    let (no_fd, extension) = (c_long::from(-1), c_long::from(KVM_CAP_SYSCALLS));
    // SAFETY: the call touches no memory. If the number belongs to another call, -1 is
    // neither a file nor an address.
    let answer = unsafe { libc::syscall(__NR_kvm_check_extension, no_fd, extension) };
    if answer == c_long::from(KVM_SYSCALLS_ABI) {
        counts::count_process();
        READY.store(true, Ordering::Release);
    }
}

/// Does the work of `ioctl`, by the call that replaces it if both have the same effect.
///
/// # Safety
///
/// As for the request.
pub unsafe fn hand_over(fd: c_int, request: c_ulong, arg: c_ulong) -> c_int {
    // The kernel, too, reads the lower half.
    let request = request as u32;
    // SAFETY: the caller vouches for the request.
    let go = |next_vcpu| unsafe { forward(fd, request, arg, next_vcpu) };
    match c_ulong::from(request) {
        KVM_CREATE_VM => {
            let vm = go(None);
            quietly(|| vcpus::begin(vm));
            vm
        }
        KVM_CREATE_VCPU => {
            let _making = Making::begin();
            let next = quietly(|| vcpus::next(fd));
            let vcpu = go(next);
            if vcpu >= 0 {
                quietly(|| {
                    check_id(vcpu, arg);
                    vcpus::made(fd, arg, next);
                });
            }
            vcpu
        }
        _ => go(None),
    }
}

/// Makes the call or the ioctl, and counts the request.
///
/// # Safety
///
/// As for the request.
unsafe fn forward(fd: c_int, request: u32, arg: c_ulong, next_vcpu: Option<c_ulong>) -> c_int {
    let (plan, [a, b, c, d, e, f]) = quietly(|| planned(fd, request, arg, next_vcpu));
    counts::count(plan);
    let answer = match plan {
        // SAFETY: the call has the effect of the ioctl, for which the caller vouches.
        Plan::Flat(call) => unsafe { libc::syscall(call.number, a, b, c, d, e, f) },
        // SAFETY: the caller vouches for it.
        _ => unsafe { libc::syscall(libc::SYS_ioctl, fd, request, arg) },
    };
    // As in the C library, where the result of an ioctl is an `int`.
    answer as c_int
}

/// The plan for a request, and the arguments of the call if it goes to one.
fn planned(fd: c_int, request: u32, arg: c_ulong, next_vcpu: Option<c_ulong>) -> (Plan, Arguments) {
    // Most requests of most programs are not KVM's, and some precede `start`.
    if replacement(request).is_none() || !READY.load(Ordering::Acquire) {
        return (plan(request, Kind::Other, arg, None), Arguments::default());
    }
    match plan(request, file::kind(fd), arg, next_vcpu) {
        Plan::Flat(call) => match arguments(call, fd, arg) {
            Some(arguments) => (Plan::Flat(call), arguments),
            None => (Plan::Ioctl(call), Arguments::default()),
        },
        other => (other, Arguments::default()),
    }
}

/// Does something, and keeps the `errno` of the program.
fn quietly<T>(something: impl FnOnce() -> T) -> T {
    // SAFETY: it belongs to this thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    let result = something();
    // SAFETY: as above.
    unsafe { *errno = before };
    result
}

/// Ends the program if a vCPU has another id than the request. In that case the program
/// has made vCPUs without this library, and its further work would test nothing.
fn check_id(vcpu: c_int, id: c_ulong) {
    if file::vcpu_id(vcpu) != Some(id) {
        die(c"kvm-preload: a vCPU has another id than requested\n");
    }
}

fn die(message: &CStr) -> ! {
    let text = message.to_bytes();
    // SAFETY: all of the text is there.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        libc::abort()
    }
}
