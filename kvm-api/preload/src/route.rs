//! A request that goes to a call.

use kvm_sys::{Call, Fd, KVM_CHECK_EXTENSION, KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_RUN};
use libc::{c_int, c_long, c_ulong};

use crate::file::Kind;
use crate::kinds::BINDABLE;

/// Makes the call in place of the request on a descriptor with an argument, and returns as
/// `ioctl` does. Makes the ioctl if the call would do something else, or if the kernel
/// refuses it.
///
/// # Safety
///
/// As for the request. The file is of one of the [kinds](Route::kinds) of the route, or the
/// kernel refuses the call.
pub(crate) type Make = unsafe extern "C" fn(usize, &'static Route, c_ulong) -> c_int;

/// A request, and the call that does the same.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The code of the request.
    pub request: u32,
    /// The kinds of file on which the request and the call do the same.
    pub(crate) kinds: u8,
    /// These kinds, if the kernel refuses the call on any other file. 0 if a wrong kind
    /// would have an effect, so that the kernel has to be asked first.
    pub(crate) remembered: u8,
    /// The index in the table.
    pub(crate) index: u8,
    /// Makes the call.
    pub(crate) make: Make,
    /// The number of the call.
    pub(crate) number: c_long,
    /// Makes the call on the vCPU that is bound to the thread, of which the descriptor is
    /// one; the call of the descriptor, if no other has been written.
    pub(crate) make_bound: Make,
    /// The number of this call, if there is one.
    pub(crate) bound_number: c_long,
    /// The call.
    pub call: &'static Call,
    /// The name of the request.
    pub name: &'static str,
}

const DEVICE: u8 = Kind::Kvm as u8;
const VM: u8 = Kind::Vm as u8;
const VCPU: u8 = Kind::Vcpu as u8;

/// The kinds of file on which the kernel does not refuse a call.
const fn accepted(fd: Fd) -> u8 {
    match fd {
        Fd::None => u8::MAX,
        Fd::System => DEVICE | VM,
        Fd::Vm => VM,
        Fd::Vcpu | Fd::VcpuOrTask => VCPU,
    }
}

/// The kinds of file on which the ioctl does what the call does. A VM lacks most ioctls of
/// `/dev/kvm`. `KVM_GET_MSRS` is also an ioctl of `/dev/kvm`, where it reads other MSRs.
const fn kinds(request: c_ulong, fd: Fd) -> u8 {
    match fd {
        Fd::None | Fd::System if request != KVM_CHECK_EXTENSION => DEVICE,
        _ => accepted(fd),
    }
}

impl Route {
    pub(crate) const fn new(
        index: usize,
        name: &'static str,
        request: c_ulong,
        call: &'static Call,
        [make, make_bound]: [Make; 2],
    ) -> Self {
        let kinds = kinds(request, call.fd);
        // The call that makes a vCPU may give it another id.
        let refused_elsewhere = kinds == accepted(call.fd) && request != KVM_CREATE_VCPU;
        Self {
            request: request as u32,
            kinds,
            remembered: match request {
                // It looks itself whether the vCPU is bound.
                KVM_RUN => kinds | BINDABLE,
                _ if refused_elsewhere => kinds,
                _ => 0,
            },
            index: index as u8,
            make,
            number: call.number,
            make_bound,
            bound_number: match call.bound {
                Some(number) => number,
                None => call.number,
            },
            call,
            name,
        }
    }

    /// Whether the library asks the kernel what the file is at each request. It remembers
    /// what the file is for the other requests.
    #[must_use]
    pub fn asks_each_time(&self) -> bool {
        self.remembered == 0
    }

    /// Whether this error may mean that the call was not made at all, and the ioctl has to
    /// be: for a file of another kind (`EBADF`, `EINVAL`, `ENOTTY`), because KVM is not
    /// loaded, or by a filter of system calls (`ENOSYS`, `EPERM`). Some calls return
    /// `EINVAL` on the right file too, but without an effect, so that the ioctl returns
    /// it again.
    pub(crate) fn is_refusal(&self, errno: c_int) -> bool {
        match (c_ulong::from(self.request), errno) {
            // The first call opens /dev/kvm anew, which may no longer be there. The second
            // may lack the descriptor that pins the VM meanwhile.
            (KVM_CREATE_VM | KVM_CREATE_VCPU, _) => true,
            // A run that fails may have had an effect. On /dev/kvm, the only other file
            // with this error, the ioctl has the same error.
            (KVM_RUN, libc::EINVAL) => false,
            (_, libc::EBADF | libc::EINVAL | libc::ENOTTY | libc::ENOSYS | libc::EPERM) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::ROUTES;

    fn of(name: &str) -> &'static Route {
        ROUTES.iter().find(|route| route.name == name).unwrap()
    }

    /// What the kernel does with a wrong guess: it refuses the call with an error that the
    /// call does not have on the right file, or has without an effect.
    #[test]
    fn a_kind_is_remembered_only_where_the_kernel_refuses_a_wrong_one() {
        for route in ROUTES.iter().filter(|route| !route.asks_each_time()) {
            let name = route.name;
            assert_eq!(route.remembered & !BINDABLE, route.kinds, "{name}");
            assert_eq!(route.kinds, accepted(route.call.fd), "{name}");
            for errno in route.call.errors {
                let refusal = route.is_refusal(*errno as c_int);
                let without_effect = *errno as c_int == libc::EINVAL && name != "KVM_RUN";
                assert_eq!(refusal, without_effect, "{name}: {errno}");
            }
            for refusal in [libc::EBADF, libc::ENOTTY, libc::ENOSYS] {
                assert!(route.is_refusal(refusal), "{name}");
            }
        }
    }

    #[test]
    fn the_kernel_is_asked_where_it_refuses_nothing() {
        let asked = ROUTES.iter().filter(|route| route.asks_each_time());
        let asked: Vec<_> = asked.map(|route| route.name).collect();
        assert_eq!(
            asked,
            [
                "KVM_CREATE_VM",
                "KVM_GET_MSR_INDEX_LIST",
                "KVM_GET_VCPU_MMAP_SIZE",
                "KVM_CREATE_VCPU"
            ]
        );
    }

    #[test]
    fn the_kinds_are_those_of_the_ioctl() {
        assert_eq!(of("KVM_CREATE_VM").kinds, DEVICE);
        assert_eq!(of("KVM_GET_VCPU_MMAP_SIZE").kinds, DEVICE);
        assert_eq!(of("KVM_CHECK_EXTENSION").kinds, DEVICE | VM);
        assert_eq!(of("KVM_GET_MSRS").kinds, VCPU);
        assert_eq!(of("KVM_SET_USER_MEMORY_REGION2").kinds, VM);
        assert_eq!(of("KVM_SET_XCRS").kinds, VCPU);
    }
}
