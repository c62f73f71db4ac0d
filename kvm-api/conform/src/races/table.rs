//! A descriptor number changes between kinds of files, while calls use it.

use std::fs::File;
use std::io::pipe;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use kvm_api::kvm_sys::{FlatCall, KVM_CAP_NR_MEMSLOTS};
use kvm_api::{ByFd, Errno, Kvm};

use super::Race;
use super::round::Round;
use super::threads::repeating;
use crate::trait_calls::{ON_VCPU, ON_VM};

pub const RACES: &[Race] = &[("a call gets one file or the other", race)];

/// The number of changes of the file in a round.
const CHANGES: usize = 50;

fn race(round: &Round) {
    let guest = round.counting();
    let (pipe, _writer) = pipe().unwrap();
    let device = File::open("/dev/kvm").unwrap();
    // Each call succeeds on one kind of file. The other kinds refuse it with different
    // errnos.
    let files = [
        guest.vm.as_fd(),
        guest.vcpu.as_fd(),
        pipe.as_fd(),
        device.as_fd(),
    ];
    let number: OwnedFd = guest.vm.try_clone().unwrap();
    let fd = number.as_fd();
    repeating(|threads| {
        for n in 0..2 {
            let kvm = round.interface(n);
            threads.repeat(move || {
                let (call, make) = ON_VCPU[round.random.below(ON_VCPU.len() as u64) as usize];
                refused_or_done(call, make(&ByFd::<dyn Kvm, _>::new(kvm, fd)));
                let (call, make) = ON_VM[round.random.below(ON_VM.len() as u64) as usize];
                refused_or_done(call, make(kvm, fd));
                // Never the result of another file.
                match kvm.kvm_check_extension(fd, KVM_CAP_NR_MEMSLOTS) {
                    Ok(slots) => assert!(slots > 0),
                    Err(error) => refused_or_done(FlatCall::kvm_check_extension, Err(error)),
                }
            });
        }
        for _ in 0..CHANGES {
            let file: BorrowedFd<'_> = files[round.random.below(4) as usize];
            // SAFETY: the call touches no memory; the number stays open.
            let set = unsafe { libc::dup2(file.as_raw_fd(), fd.as_raw_fd()) };
            Errno::result(set).unwrap();
            round.pause();
        }
    });
}

/// The valid results of a call whose file may change at any step, while another
/// thread makes the same call.
fn refused_or_done(call: FlatCall, answer: Result<(), Errno>) {
    use Errno::{EBUSY, EEXIST, EINVAL, ENOENT, ENOTTY};
    match answer {
        Ok(()) | Err(EBUSY | EEXIST | EINVAL | ENOENT | ENOTTY) => {}
        Err(_) => panic!("{call:?}: {answer:?}"),
    }
}
