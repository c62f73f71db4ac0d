//! What the library adds to a request, in instructions of user space.

use std::hint::black_box;
use std::os::fd::{AsRawFd, RawFd};

use guests::TestVm;
use kvm_api::kvm_sys::Fd;
use kvm_api::kvm_sys::instruction::syscall3;
use kvm_api::kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_preload::{ROUTES, Route, hand_over};
use libc::{SYS_ioctl, c_int, c_ulong};

use super::requests::{Argument, Page, good};
use crate::Stage;
use crate::raw;
use crate::steps::count;

const HLT: u8 = 0xf4;

/// The most that the library may add.
const MOST: usize = 40;

/// The descriptor and the argument of a request, on a machine that stays.
fn set_up(stage: &Stage, route: &Route) -> (RawFd, Argument) {
    let mut machine = TestVm::with_flags(&*stage.kvm, KVM_MEM_LOG_DIRTY_PAGES);
    machine.load(&[HLT; 8]);
    let machine = Box::leak(Box::new(machine));
    let vcpu = machine.vcpu().as_raw_fd();
    let fd = match route.call.fd {
        Fd::Vcpu => vcpu,
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
fn steps<const BYTES: usize>(stage: &Stage, route: &Route, ioctl: Ioctl) -> usize {
    count(|| {
        kvm_preload::start();
        let (fd, argument) = set_up(stage, route);
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
fn added<const BYTES: usize>(stage: &Stage, route: &Route) -> usize {
    steps::<BYTES>(stage, route, hand_over) - steps::<BYTES>(stage, route, bare)
}

pub fn few(stage: &Stage) {
    let mut most = 0;
    for route in ROUTES.iter().filter(|route| !route.asks_each_time()) {
        // In one of the two places the structure and the end of the stack share a page.
        let added = added::<0>(stage, route).min(added::<2048>(stage, route));
        println!("{}: {added} instructions beside the bare call", route.name);
        most = most.max(added);
    }
    assert!(most <= MOST, "{most} instructions");
}
