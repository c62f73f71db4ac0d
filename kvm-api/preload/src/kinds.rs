//! The memory of kinds: what a descriptor was when a request last came to it.
//!
//! The memory may be wrong, because nothing tells it of a `close` or a `dup2`. So it is
//! asked only for calls that the kernel refuses on a file of another kind: see the
//! [crate's documentation](crate).

use std::sync::atomic::{AtomicU8, Ordering};

use libc::c_int;

use crate::bind;
use crate::file::Kind;

/// The descriptors that fit. The kernel is asked about higher ones each time.
const CAPACITY: usize = 4096;

/// A [`Kind::Vcpu`] whose calls may go without the descriptor, so that it is looked at
/// another way.
pub(crate) const BINDABLE: u8 = 8;

/// By descriptor: a [`Kind`], of which `Other` means that nothing is known, or [`BINDABLE`].
static KINDS: [AtomicU8; CAPACITY] = [const { AtomicU8::new(Kind::Other as u8) }; _];

#[inline(always)]
fn place(fd: c_int) -> Option<&'static AtomicU8> {
    // A negative one is too high.
    KINDS.get(fd as u32 as usize)
}

/// Whether `fd` was of one of these kinds.
#[inline(always)]
pub(crate) fn remember_one_of(fd: c_int, kinds: u8) -> bool {
    place(fd).is_some_and(|kind| kind.load(Ordering::Relaxed) & kinds != 0)
}

/// Whether `fd` was a vCPU whose calls may go without the descriptor.
#[inline(always)]
pub(crate) fn is_bindable(fd: c_int) -> bool {
    remember_one_of(fd, BINDABLE)
}

/// Remembers the kind of `fd`, which may be no descriptor.
pub(crate) fn remember(fd: c_int, kind: Kind) {
    let bindable = kind == Kind::Vcpu && bind::is_unnamed();
    if let Some(place) = place(fd) {
        let kind = if bindable { BINDABLE } else { kind as u8 };
        place.store(kind, Ordering::Relaxed);
    }
}

/// Has the next request on `fd` ask the kernel.
pub(crate) fn forget(fd: c_int) {
    remember(fd, Kind::Other);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u8 = Kind::Kvm as u8 | Kind::Vm as u8 | Kind::Vcpu as u8;

    #[test]
    fn a_kind_is_remembered_until_it_is_forgotten() {
        let fd = CAPACITY as c_int - 1;
        assert!(!remember_one_of(fd, ALL));
        remember(fd, Kind::Vm);
        assert!(remember_one_of(fd, ALL));
        assert!(!remember_one_of(fd, Kind::Kvm as u8 | Kind::Vcpu as u8));
        forget(fd);
        assert!(!remember_one_of(fd, ALL));
    }

    #[test]
    fn what_does_not_fit_is_not_remembered() {
        for fd in [CAPACITY as c_int, c_int::MAX, -1, c_int::MIN] {
            remember(fd, Kind::Vm);
            assert!(!remember_one_of(fd, ALL));
        }
    }
}
