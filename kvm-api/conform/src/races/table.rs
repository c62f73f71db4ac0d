//! A descriptor number changes between kinds of files, while calls use it.

use std::fs::File;
use std::io::pipe;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvm_api::Errno;
use kvm_api::kvm_sys::KVM_CAP_NR_MEMSLOTS;

use super::Race;
use super::accessors::{ON_VCPU, ON_VM};
use super::guest::Guest;
use super::round::Round;

pub const RACES: &[Race] = &[Race::new("a call gets one file or the other", race)];

/// The number of changes of the file in a round.
const CHANGES: usize = 50;

fn race(round: &Round) {
    let guest = Guest::counting(round.runner());
    let (pipe, _writer) = pipe().unwrap();
    let device = File::open("/dev/kvm").unwrap();
    // Calls that succeed on one of the files. The others refuse them, each with
    // its own errno.
    let files = [
        guest.vm.as_fd(),
        guest.vcpu.as_fd(),
        pipe.as_fd(),
        device.as_fd(),
    ];
    let number: OwnedFd = guest.vm.try_clone().unwrap();
    let fd = number.as_fd();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let calls = |n: usize| {
            let (over, kvm) = (&over, round.interface(n));
            move || {
                while !over.load(Ordering::Relaxed) {
                    let (name, call) = ON_VCPU[round.random.below(13) as usize];
                    refused_or_done(name, call(kvm, fd));
                    let (name, call) = ON_VM[round.random.below(9) as usize];
                    refused_or_done(name, call(kvm, fd));
                    // Never the result of another file.
                    match kvm.kvm_check_extension(fd, KVM_CAP_NR_MEMSLOTS) {
                        Ok(slots) => assert!(slots > 0),
                        Err(error) => refused_or_done("kvm_check_extension", Err(error)),
                    }
                }
            }
        };
        scope.spawn(calls(0));
        scope.spawn(calls(1));
        for _ in 0..CHANGES {
            let file: BorrowedFd<'_> = files[round.random.below(4) as usize];
            // SAFETY: the call touches no memory; the number stays open.
            let set = unsafe { libc::dup2(file.as_raw_fd(), fd.as_raw_fd()) };
            Errno::result(set).unwrap();
            round.pause();
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// The valid results of a call whose file may change at any step, while another
/// thread makes the same call.
fn refused_or_done(name: &str, answer: Result<(), Errno>) {
    use Errno::{EBUSY, EEXIST, EINVAL, ENOENT, ENOTTY};
    assert!(
        matches!(
            answer,
            Ok(()) | Err(EBUSY | EEXIST | EINVAL | ENOENT | ENOTTY)
        ),
        "{name}: {answer:?}"
    );
}
