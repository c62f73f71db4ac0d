//! The plan for a request: the system call, or the ioctl.

use kvm_sys::{CALLS, Call, Fd};
use libc::c_ulong;

use crate::file::Kind;

/// The type byte of KVM's requests, at its place in a request.
const TYPE: u32 = kvm_sys::KVM_CREATE_VM as u32 & TYPE_MASK;
const TYPE_MASK: u32 = 0xff00;

/// The plan for a request.
#[derive(Clone, Copy, Debug)]
pub enum Plan {
    /// The request goes to this system call.
    Flat(&'static Call),
    /// The request goes to the ioctl, because this system call, which replaces it, would
    /// have another effect.
    Ioctl(&'static Call),
    /// The request goes to the ioctl of KVM, because no call replaces it.
    NoCall,
    /// The request goes to the ioctl, because it is not KVM's.
    NotKvm,
}

/// The call that replaces a request, if there is one.
pub(crate) fn replacement(request: u32) -> Option<&'static Call> {
    CALLS
        .iter()
        .find(|call| call.request == Some(c_ulong::from(request)))
}

/// The plan for a request on a file of this kind with this argument. `next_vcpu` is the id
/// that the call would give a vCPU, if that is known.
///
/// The request goes to the call unless the call and the ioctl differ. They differ if
///
/// - the file is not of the kind that the ioctl takes. A call of `/dev/kvm` also takes a
///   VM, which lacks some of the ioctls. KVM_GET_MSRS is also an ioctl of `/dev/kvm`, where
///   it reads other MSRs.
/// - KVM_CREATE_VM requests a type of VM. The call has no type.
/// - KVM_CREATE_VCPU requests another id than the call would give.
/// - the ioctl refuses an argument that is not 0. The call has no argument.
#[must_use]
pub fn plan(request: u32, kind: Kind, arg: c_ulong, next_vcpu: Option<c_ulong>) -> Plan {
    let Some(call) = replacement(request) else {
        return if request & TYPE_MASK == TYPE {
            Plan::NoCall
        } else {
            Plan::NotKvm
        };
    };
    let same = match c_ulong::from(request) {
        kvm_sys::KVM_CREATE_VM | kvm_sys::KVM_GET_VCPU_MMAP_SIZE => kind == Kind::Kvm && arg == 0,
        kvm_sys::KVM_GET_MSR_INDEX_LIST => kind == Kind::Kvm,
        kvm_sys::KVM_CREATE_VCPU => kind == Kind::Vm && next_vcpu == Some(arg),
        kvm_sys::KVM_RUN => kind == Kind::Vcpu && arg == 0,
        _ => takes(call.fd, kind),
    };
    if same {
        Plan::Flat(call)
    } else {
        Plan::Ioctl(call)
    }
}

fn takes(fd: Fd, kind: Kind) -> bool {
    match fd {
        Fd::None => false,
        Fd::System => matches!(kind, Kind::Kvm | Kind::Vm),
        Fd::Vm => kind == Kind::Vm,
        Fd::Vcpu => kind == Kind::Vcpu,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 4] = [Kind::Kvm, Kind::Vm, Kind::Vcpu, Kind::Other];

    fn is_flat(request: c_ulong, kind: Kind, arg: c_ulong, next: Option<c_ulong>) -> bool {
        matches!(plan(request as u32, kind, arg, next), Plan::Flat(_))
    }

    /// The kinds on which a request goes to its call.
    fn flat_on(request: c_ulong, arg: c_ulong) -> Vec<Kind> {
        let mut kinds = KINDS.to_vec();
        kinds.retain(|kind| is_flat(request, *kind, arg, Some(0)));
        kinds
    }

    #[test]
    fn each_call_is_reached_by_its_ioctl() {
        for call in &CALLS {
            let Some(request) = call.request else {
                continue;
            };
            let reached = KINDS
                .map(|kind| plan(request as u32, kind, 0, Some(0)))
                .into_iter()
                .find_map(|plan| match plan {
                    Plan::Flat(call) => Some(call.name),
                    _ => None,
                });
            assert_eq!(reached, Some(call.name));
        }
    }

    #[test]
    fn a_request_on_a_foreign_file_stays_an_ioctl() {
        for request in CALLS.iter().filter_map(|call| call.request) {
            assert!(!is_flat(request, Kind::Other, 0, Some(0)), "{request:#x}");
        }
    }

    #[test]
    fn a_request_of_dev_kvm_goes_to_the_call_on_dev_kvm_only() {
        for request in [
            kvm_sys::KVM_CREATE_VM,
            kvm_sys::KVM_GET_MSR_INDEX_LIST,
            kvm_sys::KVM_GET_VCPU_MMAP_SIZE,
        ] {
            assert_eq!(flat_on(request, 0), [Kind::Kvm]);
        }
        let extension = kvm_sys::KVM_CHECK_EXTENSION;
        assert_eq!(flat_on(extension, 7), [Kind::Kvm, Kind::Vm]);
        assert_eq!(flat_on(kvm_sys::KVM_GET_MSRS, 0x1000), [Kind::Vcpu]);
    }

    #[test]
    fn a_request_with_an_argument_that_the_call_lacks_stays_an_ioctl() {
        for request in [
            kvm_sys::KVM_CREATE_VM,
            kvm_sys::KVM_GET_VCPU_MMAP_SIZE,
            kvm_sys::KVM_RUN,
        ] {
            assert_eq!(flat_on(request, 1), []);
        }
    }

    #[test]
    fn the_call_makes_a_vcpu_if_it_gives_the_same_id() {
        let flat = |id, next| is_flat(kvm_sys::KVM_CREATE_VCPU, Kind::Vm, id, next);
        assert!(flat(3, Some(3)));
        assert!(!flat(3, Some(2)));
        assert!(!flat(3, Some(4)));
        assert!(!flat(0, None));
        assert!(!flat(1 << 32, Some(0)));
    }

    #[test]
    fn other_requests_of_kvm_differ_from_foreign_ones() {
        let version = kvm_sys::KVM_GET_API_VERSION as u32;
        assert!(matches!(plan(version, Kind::Kvm, 0, None), Plan::NoCall));
        let tcgets = libc::TCGETS as u32;
        assert!(matches!(plan(tcgets, Kind::Other, 0, None), Plan::NotKvm));
    }
}
