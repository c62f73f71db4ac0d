//! The table of the requests that go to calls.

use kvm_sys::state::{KVM_STATE_DEBUGREGS, KVM_STATE_VCPU_EVENTS, KVM_STATE_XCRS};
use kvm_sys::{
    CALLS, Call, FlatCall, KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_GET_DEBUGREGS, KVM_GET_DIRTY_LOG,
    KVM_GET_VCPU_EVENTS, KVM_GET_VCPU_MMAP_SIZE, KVM_GET_XCRS, KVM_INTERRUPT, KVM_RUN,
    KVM_SET_DEBUGREGS, KVM_SET_USER_MEMORY_REGION, KVM_SET_USER_MEMORY_REGION2,
    KVM_SET_VCPU_EVENTS, KVM_SET_XCRS, KVM_TRANSLATE, MergedCall, kvm_dirty_log, kvm_interrupt,
    kvm_translation, kvm_userspace_memory_region, kvm_userspace_memory_region2,
};
use libc::c_ulong;

use crate::counts;
use crate::make;
use crate::make_bound;
use crate::route::{Make, Route};

/// The requests beside those that a flat call replaces.
const MORE: [(&str, c_ulong, &Call); 7] = {
    let region = FlatCall::kvm_set_user_memory_region.row();
    let get = MergedCall::kvm_get_state.row();
    let set = MergedCall::kvm_set_state.row();
    [
        (
            "KVM_SET_USER_MEMORY_REGION2",
            KVM_SET_USER_MEMORY_REGION2,
            region,
        ),
        ("KVM_GET_VCPU_EVENTS", KVM_GET_VCPU_EVENTS, get),
        ("KVM_SET_VCPU_EVENTS", KVM_SET_VCPU_EVENTS, set),
        ("KVM_GET_DEBUGREGS", KVM_GET_DEBUGREGS, get),
        ("KVM_SET_DEBUGREGS", KVM_SET_DEBUGREGS, set),
        ("KVM_GET_XCRS", KVM_GET_XCRS, get),
        ("KVM_SET_XCRS", KVM_SET_XCRS, set),
    ]
};

const COUNT: usize = {
    let (mut count, mut index) = (MORE.len(), 0);
    while index < CALLS.len() {
        count += CALLS[index].request.is_some() as usize;
        index += 1;
    }
    assert!(count <= counts::ROUTES);
    count
};

/// Each request that goes to a call.
pub static ROUTES: [Route; COUNT] = {
    let (name, request, call) = MORE[0];
    let mut routes = [new(0, name, request, call); COUNT];
    let (mut count, mut index) = (0, 0);
    while index < CALLS.len() {
        let call = &CALLS[index];
        if let Some(request) = call.request {
            routes[count] = new(count, call.ioctl, request, call);
            count += 1;
        }
        index += 1;
    }
    index = 0;
    while index < MORE.len() {
        let (name, request, call) = MORE[index];
        routes[count] = new(count, name, request, call);
        count += 1;
        index += 1;
    }
    routes
};

const fn new(index: usize, name: &'static str, request: c_ulong, call: &'static Call) -> Route {
    Route::new(index, name, request, call, how(request))
}

/// How the call is made in place of a request, and how on a bound vCPU.
const fn how(request: c_ulong) -> [Make; 2] {
    match request {
        KVM_CREATE_VM | KVM_GET_VCPU_MMAP_SIZE => [make::without_argument; 2],
        KVM_RUN => [make::run; 2],
        KVM_CREATE_VCPU => [make::without_id; 2],
        KVM_GET_DIRTY_LOG => [make::with_fields::<kvm_dirty_log>; 2],
        KVM_TRANSLATE => [make::with_fields::<kvm_translation>; 2],
        KVM_INTERRUPT => [make::with_fields::<kvm_interrupt>; 2],
        KVM_SET_USER_MEMORY_REGION => [make::with_fields::<kvm_userspace_memory_region>; 2],
        KVM_SET_USER_MEMORY_REGION2 => [make::with_fields::<kvm_userspace_memory_region2>; 2],
        KVM_GET_VCPU_EVENTS | KVM_SET_VCPU_EVENTS => part::<KVM_STATE_VCPU_EVENTS>(),
        KVM_GET_DEBUGREGS | KVM_SET_DEBUGREGS => part::<KVM_STATE_DEBUGREGS>(),
        KVM_GET_XCRS | KVM_SET_XCRS => part::<KVM_STATE_XCRS>(),
        _ => [make::with_argument, make_bound::with_argument],
    }
}

const fn part<const PART: u64>() -> [Make; 2] {
    [make::part::<PART>, make_bound::part::<PART>]
}

/// By the lowest byte of a request: its row, or the row of another request.
static BY_NUMBER: [&Route; 256] = {
    let (mut routes, mut index) = ([&ROUTES[0]; 256], 0);
    while index < COUNT {
        let number = (ROUTES[index].request & 0xff) as usize;
        assert!(routes[number].index == 0, "each has a number of its own");
        routes[number] = &ROUTES[index];
        index += 1;
    }
    routes
};

/// The row of a request.
#[inline(always)]
pub(crate) fn route(request: u32) -> Option<&'static Route> {
    let route = BY_NUMBER[usize::from(request as u8)];
    (route.request == request).then_some(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_with_an_ioctl_has_a_row() {
        for call in &CALLS {
            if let Some(request) = call.request {
                let route = route(request as u32).unwrap();
                assert_eq!((route.name, route.call.name), (call.ioctl, call.name));
            }
        }
        for (name, request, _) in MORE {
            assert!(kvm_sys::REQUESTS.contains(&(name, request)), "{name}");
        }
    }

    #[test]
    fn each_row_is_found_by_its_request() {
        for (index, row) in ROUTES.iter().enumerate() {
            assert_eq!(route(row.request).unwrap().name, row.name);
            assert_eq!(usize::from(row.index), index);
        }
    }

    #[test]
    fn other_requests_have_none() {
        for other in [
            kvm_sys::KVM_GET_API_VERSION,
            // With the number of a request that has a call.
            kvm_sys::KVM_GET_PIT2,
            libc::TCGETS,
            0,
        ] {
            assert!(route(other as u32).is_none(), "{other:#x}");
        }
    }
}
