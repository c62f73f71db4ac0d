//! What the library adds to a request, in instructions of user space.

use std::ffi::CStr;
use std::hint::black_box;
use std::os::fd::{AsRawFd, RawFd};

use guests::TestVm;
use kvm_api::kvm_sys::instruction::syscall3;
use kvm_api::kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_api::kvm_sys::{Fd, KVM_GET_REGS, KVM_GET_VCPU_EVENTS, KVM_RUN, KVM_SET_REGS};
use kvm_preload::{BIND_VARIABLE, ROUTES, Route, WITH_FD, WITHOUT_FD, hand_over};
use libc::{SYS_ioctl, c_int, c_ulong};

use super::requests::{Argument, Page, good};
use crate::Stage;
use crate::raw;
use crate::steps::count;

const HLT: u8 = 0xf4;

/// The most that the library may add.
const MOST: usize = 40;

/// The most that it may add on a bound vCPU. It has to look whether the descriptor is the
/// one of that, and announces each run.
const MOST_BOUND: usize = 50;

/// The value of a variable of the library.
type Mode = Option<&'static CStr>;

/// The descriptor and the argument of a request, on a machine that stays.
fn set_up(stage: &Stage, route: &Route) -> (RawFd, Argument) {
    let mut machine = TestVm::with_flags(&*stage.kvm, KVM_MEM_LOG_DIRTY_PAGES);
    machine.load(&[HLT; 8]);
    let machine = Box::leak(Box::new(machine));
    let vcpu = machine.vcpu().as_raw_fd();
    let fd = match route.call.fd {
        Fd::Vcpu | Fd::VcpuOrTask => vcpu,
        Fd::Vm => machine.vm().as_raw_fd(),
        Fd::System | Fd::None => Box::leak(Box::new(raw::device())).as_raw_fd(),
    };
    (fd, good(route, vcpu, Page::leak()))
}

/// Does something after so many bytes of the stack.
#[inline(never)]
fn below<const BYTES: usize>(something: &dyn Fn()) {
    let bytes = black_box([0_u8; BYTES]);
    something();
    black_box(bytes);
}

/// A function in the place of `ioctl`.
type Ioctl = unsafe fn(c_int, c_ulong, c_ulong) -> c_int;

/// The bare call, as a function.
unsafe fn bare(fd: c_int, request: c_ulong, arg: c_ulong) -> c_int {
    // SAFETY: the caller vouches for the request.
    unsafe { syscall3(SYS_ioctl, fd as usize, request as usize, arg as usize) as c_int }
}

/// The instructions of a request by this function, below so many bytes of the stack.
fn steps<const BYTES: usize>(stage: &Stage, route: &Route, mode: Mode, ioctl: Ioctl) -> usize {
    count(|| {
        if let Some(mode) = mode {
            let [name, value] = [BIND_VARIABLE, mode].map(|text| text.to_str().unwrap());
            // SAFETY: this process has one thread.
            unsafe { std::env::set_var(name, value) };
        }
        kvm_preload::start();
        let (fd, argument) = set_up(stage, route);
        if mode.is_some() {
            // SAFETY: the request touches no memory but that of the vCPU.
            assert_eq!(unsafe { hand_over(fd, KVM_RUN, 0) }, 0);
        }
        let request = c_ulong::from(route.request);
        let (number, words) = match argument {
            Argument::Number(number) => (Some(number), [0; _]),
            Argument::Structure(words) => (None, *words),
        };
        // Not inlined, as the program calls it. Both functions are called by the same
        // instructions, because the copy of the structure takes more or fewer of them,
        // depending on its place.
        let ioctl = black_box(ioctl);
        move || {
            below::<BYTES>(black_box(&|| {
                let mut structure = words;
                let address = (&raw mut structure).expose_provenance() as c_ulong;
                // SAFETY: there is room for the structure.
                let answer = unsafe { ioctl(fd, black_box(request), number.unwrap_or(address)) };
                if answer < 0 {
                    // SAFETY: the parent sees that the request failed.
                    unsafe { libc::_exit(2) };
                }
            }));
        }
    })
}

/// What the library adds to the bare call.
fn added<const BYTES: usize>(stage: &Stage, route: &Route, mode: Mode) -> usize {
    let steps = |ioctl| steps::<BYTES>(stage, route, mode, ioctl);
    steps(hand_over) - steps(bare)
}

/// What the library adds to these requests at most.
fn most<'a>(stage: &Stage, routes: impl Iterator<Item = &'a Route>, mode: Mode) -> usize {
    let added = |route: &Route| {
        // In one of the places the structure and the end of the stack share a page, if less
        // than three quarters of one lie between them.
        let places = [added::<0>, added::<1024>, added::<2048>, added::<3072>];
        let added = places.map(|added| added(stage, route, mode));
        let added = added.into_iter().min().expect("there are places");
        let mode = mode.unwrap_or_default().to_string_lossy();
        let name = route.name;
        println!("{name}: {added} instructions beside the bare call {mode}");
        added
    };
    routes.map(added).max().unwrap()
}

pub fn few(stage: &Stage) {
    let routes = ROUTES.iter().filter(|route| !route.asks_each_time());
    let most = most(stage, routes, None);
    assert!(most <= MOST, "{most} instructions");
}

fn of_request(request: c_ulong) -> &'static Route {
    let mut routes = ROUTES.iter();
    let found = routes.find(|route| c_ulong::from(route.request) == request);
    found.unwrap()
}

/// The same on a bound vCPU.
pub fn few_bound(stage: &Stage) {
    for mode in [WITH_FD, WITHOUT_FD] {
        let routes = [KVM_RUN, KVM_GET_REGS, KVM_SET_REGS, KVM_GET_VCPU_EVENTS];
        let routes = routes.map(of_request);
        let most = most(stage, routes.into_iter(), Some(mode));
        assert!(most <= MOST_BOUND, "{most} instructions");
    }
}
