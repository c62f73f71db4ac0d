//! The id that the next vCPU of a VM would get from `kvm_create_vcpu`, which takes no id:
//! the lowest that the VM does not use.
//!
//! KVM does not tell the number of vCPUs of a VM, so this module counts them. The count is
//! a property of the open file of the VM: the signal that the file would raise
//! (`F_SETSIG`), if it raised any. All descriptors of the file share it, in each process,
//! and it goes with the file. 0, with which each file begins, stands for a VM that this
//! library has not made, and for a VM with a gap in the ids of its vCPUs.

use std::sync::atomic::{AtomicI32, Ordering};

use libc::{c_int, c_ulong};

/// The highest signal, and the highest count.
const MOST: c_int = 64;

const F_SETSIG: c_int = 10;
const F_GETSIG: c_int = 11;

/// Notes that a VM is new: its first vCPU would get id 0. Changes `errno`.
pub(crate) fn begin(vm: c_int) {
    note(vm, Some(0));
}

/// The id of the VM's next vCPU, if it is known. Changes `errno`.
pub(crate) fn next(vm: c_int) -> Option<c_ulong> {
    // SAFETY: the command takes no argument and touches no memory.
    let signal = unsafe { libc::fcntl(vm, F_GETSIG) };
    c_ulong::try_from(signal).ok()?.checked_sub(1)
}

/// Notes that a vCPU was made, where `next` was known before. Changes `errno`.
pub(crate) fn made(vm: c_int, id: c_ulong, next: Option<c_ulong>) {
    note(vm, next.filter(|next| *next == id).map(|id| id + 1));
}

fn note(vm: c_int, next: Option<c_ulong>) {
    let signal = next
        .and_then(|next| c_int::try_from(next + 1).ok())
        .filter(|signal| *signal <= MOST)
        .unwrap_or(0);
    // SAFETY: the command touches no memory. If it fails, the VM remains unknown.
    unsafe { libc::fcntl(vm, F_SETSIG, signal) };
}

/// A lock, held from the look at the VM to the note of the new vCPU.
pub(crate) struct Making(());

/// The process that makes a vCPU, 0 for none.
static MAKING: AtomicI32 = AtomicI32::new(0);

impl Making {
    /// Waits until no other thread makes a vCPU.
    pub(crate) fn begin() -> Self {
        // SAFETY: the call touches no memory and cannot fail.
        let this = unsafe { libc::getpid() };
        let free = |holder| (holder != this).then_some(this);
        // After a fork the holder may be the parent, which is no thread of this process.
        while MAKING
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, free)
            .is_err()
        {
            // SAFETY: the call touches no memory.
            unsafe { libc::sched_yield() };
        }
        Self(())
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        MAKING.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::io::pipe;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn ids_are_counted_while_there_is_no_gap() {
        let (file, _writer) = pipe().unwrap();
        let vm = file.as_raw_fd();
        assert_eq!(next(vm), None);
        made(vm, 0, next(vm));
        assert_eq!(next(vm), None);
        begin(vm);
        for id in 0..3 {
            assert_eq!(next(vm), Some(id));
            made(vm, id, next(vm));
        }
        made(vm, 5, next(vm));
        assert_eq!(next(vm), None);
    }

    #[test]
    fn the_count_is_the_files() {
        let (file, other) = pipe().unwrap();
        begin(file.as_raw_fd());
        let copy = file.try_clone().unwrap();
        made(copy.as_raw_fd(), 0, Some(0));
        assert_eq!(next(file.as_raw_fd()), Some(1));
        assert_eq!(next(other.as_raw_fd()), None);
        assert_eq!(next(-1), None);
    }

    #[test]
    fn an_id_beyond_the_limit_is_unknown() {
        let (file, _writer) = pipe().unwrap();
        let vm = file.as_raw_fd();
        begin(vm);
        for id in 0..MOST as c_ulong {
            assert_eq!(next(vm), Some(id));
            made(vm, id, next(vm));
        }
        assert_eq!(next(vm), None);
    }

    #[test]
    fn one_at_a_time() {
        let inside = AtomicI32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let _making = Making::begin();
                        assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::Relaxed);
                    }
                });
            }
        });
    }
}
