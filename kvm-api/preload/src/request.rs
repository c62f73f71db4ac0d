//! Hands a request to the call or to the ioctl.

use std::sync::atomic::{AtomicBool, Ordering};

use kvm_sys::instruction::syscall6;
use kvm_sys::{
    __NR_kvm_check_extension, KVM_CAP_SYSCALLS, KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_SYSCALLS_ABI,
};
use libc::{c_int, c_ulong};

use crate::bind;
use crate::bind::record::of_this_thread;
use crate::counts;
use crate::file::{self, Kind};
use crate::kinds;
use crate::make::stay;
use crate::message::die;
use crate::outcome::Outcome;
use crate::plain::ioctl;
use crate::route::Route;
use crate::table::route;
use crate::vcpus::{self, Making, Pinned};

/// The type byte of KVM's requests, at its place in a request.
const TYPE: u32 = KVM_CREATE_VM as u32 & TYPE_MASK;
const TYPE_MASK: u32 = 0xff00;

/// Whether the kernel has the calls.
static READY: AtomicBool = AtomicBool::new(false);

/// Looks for the calls, and returns whether there are any. Until then each request goes to
/// the ioctl.
pub(crate) fn look_for_calls() -> bool {
    let (no_fd, extension) = (usize::MAX, KVM_CAP_SYSCALLS as usize);
    // SAFETY: the call touches no memory. If the number belongs to another call, -1 is
    // neither a file nor an address.
    let answer = unsafe { syscall6(__NR_kvm_check_extension, no_fd, extension, 0, 0, 0, 0) };
    let ready = answer == KVM_SYSCALLS_ABI as isize;
    if ready {
        counts::count_process();
        READY.store(true, Ordering::Release);
    }
    ready
}

/// Does the work of `ioctl`, by the call that replaces it if both have the same effect.
///
/// # Safety
///
/// As for the request.
pub unsafe fn hand_over(fd: c_int, request: c_ulong, arg: c_ulong) -> c_int {
    // The kernel, too, reads the lower half, of the descriptor as well.
    let request = request as u32;
    let Some(route) = route(request) else {
        // SAFETY: the caller vouches for the request.
        return unsafe { other(fd, request, arg) };
    };
    if !kinds::remember_one_of(fd, route.remembered) {
        // SAFETY: the caller vouches for the request.
        return unsafe { look_or_ask(fd, route, arg) };
    }
    // SAFETY: the caller vouches for the request. If the file is of another kind now, the
    // kernel refuses the call.
    unsafe { (route.make)(fd as u32 as usize, route, arg) }
}

/// Makes a request that has no call.
///
/// # Safety
///
/// As for the request.
#[cold]
#[inline(never)]
unsafe extern "C" fn other(fd: c_int, request: u32, arg: c_ulong) -> c_int {
    if request & TYPE_MASK == TYPE {
        counts::count_other(request);
        // SAFETY: the caller vouches for the request.
        return unsafe { bind::ask::ioctl(fd as usize, request, arg) };
    }
    // SAFETY: as above.
    unsafe { ioctl(fd as usize, request, arg) }
}

/// Makes a request on a vCPU that may be bound to the thread, or on a file whose kind is not
/// remembered.
///
/// # Safety
///
/// As for the request.
#[inline(never)]
unsafe extern "C" fn look_or_ask(fd: c_int, route: &'static Route, arg: c_ulong) -> c_int {
    if route.remembered == Kind::Vcpu as u8 {
        let place = fd as u32 as usize;
        if bind::is_unnamed() && of_this_thread(fd).is_some() {
            // SAFETY: the caller vouches for the request. The vCPU that the thread has bound
            // is the one of the descriptor.
            return unsafe { (route.make_bound)(place, route, arg) };
        }
        if kinds::is_bindable(fd) {
            // SAFETY: as above. The kernel refuses a file of another kind.
            return unsafe { (route.make)(place, route, arg) };
        }
    }
    // SAFETY: as above.
    unsafe { ask(fd, route, arg) }
}

/// Makes a request on a file whose kind is not remembered.
///
/// # Safety
///
/// As for the request.
#[cold]
#[inline(never)]
unsafe extern "C" fn ask(fd: c_int, route: &'static Route, arg: c_ulong) -> c_int {
    // SAFETY: the caller vouches for the request.
    let stay = |reason| unsafe { stay(fd as usize, route, arg, reason) };
    if !READY.load(Ordering::Acquire) {
        return stay(Outcome::NoCalls);
    }
    let kind = file::kind(fd);
    kinds::remember(fd, kind);
    if route.kinds & kind as u8 == 0 {
        return stay(Outcome::OtherFile);
    }
    // SAFETY: the caller vouches for the request, and the file is of this kind.
    let make = || unsafe { (route.make)(fd as u32 as usize, route, arg) };
    match c_ulong::from(route.request) {
        KVM_CREATE_VM => {
            let vm = make();
            if vm >= 0 {
                kinds::remember(vm, Kind::Vm);
                vcpus::begin(vm);
            }
            vm
        }
        // SAFETY: the caller vouches for the request.
        KVM_CREATE_VCPU => unsafe { create_vcpu(fd, route, arg) },
        _ => make(),
    }
}

/// Makes a vCPU of a VM.
///
/// # Safety
///
/// As for the request.
unsafe fn create_vcpu(fd: c_int, route: &'static Route, id: c_ulong) -> c_int {
    let _making = Making::begin();
    if let Some(vm) = Pinned::new(fd) {
        let same = vm.next() == Some(id);
        // SAFETY: the caller vouches for the request.
        let vcpu = unsafe {
            if same {
                (route.make)(vm.fd(), route, id)
            } else {
                stay(vm.fd(), route, id, Outcome::VcpuId)
            }
        };
        if vcpu >= 0 {
            kinds::remember(vcpu, Kind::Vcpu);
            check_id(vcpu, id);
            vm.made(same.then_some(id));
            return vcpu;
        }
        // The descriptor that pins the VM may be the last one.
        // SAFETY: it belongs to this thread.
        if unsafe { *libc::__errno_location() } != libc::EMFILE {
            return vcpu;
        }
    }
    vcpus::forget(fd);
    // SAFETY: the caller vouches for the request.
    unsafe { ioctl(fd as usize, route.request, id) }
}

/// Ends the program if a vCPU has another id than the request. In that case the program
/// has made vCPUs without this library, and its further work would test nothing.
fn check_id(vcpu: c_int, id: c_ulong) {
    if file::vcpu_id(vcpu) != Some(id) {
        die(c"kvm-preload: a vCPU has another id than requested\n");
    }
}
