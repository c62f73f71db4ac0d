//! The requests of the table, with arguments.

use std::os::fd::RawFd;

use kvm_api::Errno;
use kvm_api::kvm_sys::*;
use kvm_preload::{ROUTES, Route, hand_over};
use libc::{c_int, c_ulong};

/// Room for the structure of each request.
pub type Words = [u64; 128];

/// The MSR of the code segment for SYSENTER, which does not change by itself.
const SYSENTER_CS: u64 = 0x174;

/// A slot beside that of the memory of a machine, and where the guest sees it.
const OTHER_SLOT: u64 = 7;
const FAR: u64 = 0x100_0000;

/// The argument of a request.
pub enum Argument {
    /// A number, or the address of something else.
    Number(c_ulong),
    /// The address of a structure that begins with these words.
    Structure(Box<Words>),
}

/// A page of the program, for a slot and for a bitmap.
#[repr(C, align(4096))]
pub struct Page([u8; 4096]);

impl Page {
    /// A page that stays.
    pub fn leak() -> &'static Self {
        Box::leak(Box::new(Self([0; _])))
    }

    fn address(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }
}

/// The request of the table with this name.
pub fn route(name: &str) -> &'static Route {
    ROUTES.iter().find(|route| route.name == name).unwrap()
}

/// An argument with which the request succeeds on a machine with this vCPU.
pub fn good(route: &Route, vcpu: RawFd, page: &Page) -> Argument {
    let mut words = [0; _];
    match route.name {
        "KVM_CREATE_VM" | "KVM_GET_VCPU_MMAP_SIZE" | "KVM_RUN" => return Argument::Number(0),
        "KVM_CREATE_VCPU" => return Argument::Number(1),
        "KVM_CHECK_EXTENSION" => return Argument::Number(KVM_CAP_NR_MEMSLOTS.into()),
        "KVM_GET_MSR_INDEX_LIST" => words[0] = (size_of::<Words>() / 4 - 1) as u64,
        "KVM_GET_DIRTY_LOG" => words[1] = page.address(),
        "KVM_SET_USER_MEMORY_REGION" | "KVM_SET_USER_MEMORY_REGION2" => {
            words[..4].copy_from_slice(&[OTHER_SLOT, FAR, 0x1000, page.address()]);
        }
        "KVM_GET_MSRS" | "KVM_SET_MSRS" => words[..2].copy_from_slice(&[1, SYSENTER_CS]),
        "KVM_SET_SIGNAL_MASK" => words[0] = size_of::<kernel_sigset>() as u64,
        "KVM_INTERRUPT" => words[0] = 32,
        "KVM_SET_REGS" => words = of(vcpu, KVM_GET_REGS),
        "KVM_SET_SREGS" => words = of(vcpu, KVM_GET_SREGS),
        "KVM_SET_FPU" => words = of(vcpu, KVM_GET_FPU),
        "KVM_SET_VCPU_EVENTS" => words = of(vcpu, KVM_GET_VCPU_EVENTS),
        "KVM_SET_DEBUGREGS" => words = of(vcpu, KVM_GET_DEBUGREGS),
        "KVM_SET_XCRS" => words = of(vcpu, KVM_GET_XCRS),
        "KVM_GET_REGS"
        | "KVM_GET_SREGS"
        | "KVM_GET_FPU"
        | "KVM_GET_VCPU_EVENTS"
        | "KVM_GET_DEBUGREGS"
        | "KVM_GET_XCRS"
        | "KVM_TRANSLATE"
        | "KVM_SET_GUEST_DEBUG"
        | "KVM_SET_CPUID2" => {}
        other => panic!("{other} has no arguments here"),
    }
    Argument::Structure(Box::new(words))
}

/// A part of the state of a vCPU.
fn of(vcpu: RawFd, request: c_ulong) -> Words {
    let mut words: Words = [0; _];
    // SAFETY: each of the structures is smaller.
    Errno::result(unsafe { libc::ioctl(vcpu, request, &mut words) }).unwrap();
    words
}

/// The answer to a request, and the structure after it.
pub type Answer = (Result<c_int, Errno>, Option<Box<Words>>);

type Ioctl = unsafe fn(c_int, c_ulong, c_ulong) -> c_int;

unsafe fn ioctl(fd: c_int, request: c_ulong, arg: c_ulong) -> c_int {
    // SAFETY: the caller vouches for the request.
    unsafe { libc::ioctl(fd, request, arg) }
}

fn answer(ioctl: Ioctl, fd: RawFd, route: &Route, argument: Argument) -> Answer {
    let request = c_ulong::from(route.request);
    let (result, words) = match argument {
        // SAFETY: the arguments are numbers, or addresses at which nothing is written that
        // matters.
        Argument::Number(number) => (unsafe { ioctl(fd, request, number) }, None),
        Argument::Structure(mut words) => {
            let address = (&raw mut *words).expose_provenance() as c_ulong;
            // SAFETY: there is room for the structure.
            (unsafe { ioctl(fd, request, address) }, Some(words))
        }
    };
    let result = Errno::result(result);
    let makes_a_descriptor = matches!(route.name, "KVM_CREATE_VM" | "KVM_CREATE_VCPU");
    match result {
        Ok(new) if makes_a_descriptor => {
            // SAFETY: nobody uses it.
            unsafe { libc::close(new) };
            (Ok(0), words)
        }
        result => (result, words),
    }
}

/// The answer of the kernel.
pub fn of_ioctl(fd: RawFd, route: &Route, argument: Argument) -> Answer {
    answer(ioctl, fd, route, argument)
}

/// The answer of the library.
pub fn of_library(fd: RawFd, route: &Route, argument: Argument) -> Answer {
    answer(hand_over, fd, route, argument)
}
