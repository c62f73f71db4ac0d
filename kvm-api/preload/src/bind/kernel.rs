//! The two calls that bind and unbind, which return 0 or a negative error. The tests of this
//! crate run on a kernel without them.

#[cfg(not(test))]
pub(crate) use real::{bind, unbind};
#[cfg(test)]
pub(crate) use simulated::{bind, is_bound, unbind};

#[cfg(not(test))]
mod real {
    use kvm_sys::instruction::{syscall0, syscall1};
    use kvm_sys::{__NR_kvm_bind, __NR_kvm_unbind};
    use libc::c_int;

    pub(crate) fn bind(fd: c_int) -> isize {
        // SAFETY: the call touches no memory.
        unsafe { syscall1(__NR_kvm_bind, fd as u32 as usize) }
    }

    pub(crate) fn unbind() -> isize {
        // SAFETY: the call touches no memory.
        unsafe { syscall0(__NR_kvm_unbind) }
    }
}

/// Each descriptor is a vCPU of its own, which no other thread uses.
#[cfg(test)]
mod simulated {
    use std::cell::Cell;

    use libc::c_int;

    thread_local! {
        static BOUND: Cell<Option<c_int>> = const { Cell::new(None) };
    }

    pub(crate) fn bind(fd: c_int) -> isize {
        if BOUND.get().is_some() {
            return -(libc::EEXIST as isize);
        }
        BOUND.set(Some(fd));
        0
    }

    pub(crate) fn unbind() -> isize {
        match BOUND.take() {
            Some(_) => 0,
            None => -(libc::ENXIO as isize),
        }
    }

    /// Whether the calling thread has bound a vCPU.
    pub(crate) fn is_bound() -> bool {
        BOUND.get().is_some()
    }
}
