//! The id that the next vCPU of a VM would get from `kvm_create_vcpu`, which takes no id:
//! the lowest that the VM does not use.
//!
//! KVM does not tell the number of vCPUs of a VM, so this module counts them. The count is
//! a property of the open file of the VM: the signal that the file would raise
//! (`F_SETSIG`), if it raised any. All descriptors of the file share it, in each process,
//! and it goes with the file. 0, with which each file begins, stands for a VM that this
//! library has not made, and for a VM with a gap in the ids of its vCPUs.

use std::sync::atomic::{AtomicI32, Ordering};

use kvm_sys::instruction::{syscall1, syscall3};
use libc::{c_int, c_ulong};

/// The highest signal, and the highest count.
const MOST: usize = 64;

const F_SETSIG: usize = 10;
const F_GETSIG: usize = 11;

/// Where the descriptors begin that pin a VM. They are not those that a program expects to
/// get next.
const PINS: usize = 512;

/// Notes that a VM is new: its first vCPU would get id 0.
pub(crate) fn begin(vm: c_int) {
    note(vm as usize, Some(0));
}

/// Notes that the next id is not known.
pub(crate) fn forget(vm: c_int) {
    note(vm as usize, None);
}

/// A VM by a descriptor of its own. Another thread may have the descriptor of the program
/// refer to another file.
pub(crate) struct Pinned(usize);

impl Pinned {
    /// `None` if there is no VM, or no room for another descriptor.
    pub(crate) fn new(vm: c_int) -> Option<Self> {
        let fd = fcntl(vm as usize, libc::F_DUPFD_CLOEXEC as usize, PINS);
        usize::try_from(fd).ok().map(Self)
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> usize {
        self.0
    }

    /// The id of the next vCPU, if it is known.
    pub(crate) fn next(&self) -> Option<c_ulong> {
        let signal = fcntl(self.0, F_GETSIG, 0);
        c_ulong::try_from(signal).ok()?.checked_sub(1)
    }

    /// Notes that a vCPU was made, with the next id if that was known.
    pub(crate) fn made(&self, id: Option<c_ulong>) {
        note(self.0, id.map(|id| id + 1));
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: nobody else uses the descriptor.
        unsafe { syscall1(libc::SYS_close, self.0) };
    }
}

fn note(vm: usize, next: Option<c_ulong>) {
    let signal = next.map(|next| next as usize + 1);
    let signal = signal.filter(|signal| *signal <= MOST);
    // If it fails, the VM remains unknown.
    fcntl(vm, F_SETSIG, signal.unwrap_or(0));
}

fn fcntl(fd: usize, command: usize, arg: usize) -> isize {
    // SAFETY: none of the commands touches memory.
    unsafe { syscall3(libc::SYS_fcntl, fd, command, arg) }
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

    fn pinned(file: &impl AsRawFd) -> Pinned {
        Pinned::new(file.as_raw_fd()).unwrap()
    }

    #[test]
    fn ids_are_counted_while_there_is_no_gap() {
        let (file, _writer) = pipe().unwrap();
        let vm = pinned(&file);
        assert_eq!(vm.next(), None);
        begin(file.as_raw_fd());
        for id in 0..3 {
            assert_eq!(vm.next(), Some(id));
            vm.made(Some(id));
        }
        vm.made(None);
        assert_eq!(vm.next(), None);
        begin(file.as_raw_fd());
        forget(file.as_raw_fd());
        assert_eq!(vm.next(), None);
    }

    #[test]
    fn the_count_is_the_files() {
        let (file, other) = pipe().unwrap();
        begin(file.as_raw_fd());
        let copy = file.try_clone().unwrap();
        pinned(&copy).made(Some(0));
        assert_eq!(pinned(&file).next(), Some(1));
        assert_eq!(pinned(&other).next(), None);
        assert!(Pinned::new(-1).is_none());
    }

    #[test]
    fn a_pin_is_out_of_the_way_until_it_is_dropped() {
        let (file, _writer) = pipe().unwrap();
        let pin = pinned(&file);
        let fd = pin.fd();
        assert!(fd >= PINS);
        drop(pin);
        assert!(fcntl(fd, F_GETSIG, 0) < 0);
    }

    #[test]
    fn an_id_beyond_the_limit_is_unknown() {
        let (file, _writer) = pipe().unwrap();
        let vm = pinned(&file);
        begin(file.as_raw_fd());
        for id in 0..MOST as c_ulong {
            assert_eq!(vm.next(), Some(id));
            vm.made(Some(id));
        }
        assert_eq!(vm.next(), None);
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
