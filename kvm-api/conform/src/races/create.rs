//! Several threads create VMs and vCPUs at once, or one thread uses them as
//! soon as another has created them.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use guests::msr::POLL_CONTROL;
use kvm_api::bound::BoundVcpu;
use kvm_api::kvm_sys::Msrs;
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, RunMapping, Vcpu};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Race;
use super::round::Round;
use super::threads::wait_until;
use crate::audit::open_files;
use crate::requests::msrs;

pub const RACES: &[Race] = &[
    ("vCPUs that are created at once have the lowest IDs", vcpus),
    ("file descriptors run out while VMs are created", vms),
    ("a vCPU is complete when it can be used", |round| {
        complete(round, |vcpu, msrs| round.other().kvm_get_msrs(vcpu, msrs));
    }),
    ("a vCPU is complete when it can be bound", |round| {
        let flat = Syscall::open().unwrap();
        complete(round, |vcpu, msrs| {
            let bound = BoundVcpu::bind(flat, vcpu)?;
            let read = bound.kvm_get_msrs(msrs)?;
            // The run loads the vCPU, and ends before the guest.
            let mut run = RunMapping::new(vcpu, PAGE)?;
            run.set_immediate_exit(true);
            assert_eq!(bound.kvm_run(&mut run).err(), Some(Errno::EINTR));
            Ok(read)
        });
    }),
];

/// The part of the run mapping that the kernel and the program share.
const PAGE: usize = 0x1000;
const THREADS: usize = 3;
/// The number of vCPUs that a thread creates.
const EACH: usize = 3;

fn vcpus(round: &Round) {
    let vm = round.runner().kvm_create_vm().unwrap();
    let vcpus: Vec<OwnedFd> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let (kvm, vm) = (round.interface(n), vm.as_fd());
                scope.spawn(move || {
                    [(); EACH].map(|()| {
                        round.pause();
                        kvm.kvm_create_vcpu(vm).unwrap()
                    })
                })
            })
            .collect();
        let threads = threads.into_iter();
        let vcpus = threads.map(|thread| thread.join().expect("a panic ends the process"));
        vcpus.flatten().collect()
    });
    let ids: BTreeSet<usize> = vcpus.iter().map(id).collect();
    assert!(ids.into_iter().eq(0..THREADS * EACH));
}

/// The number of vCPUs that are created in a round, and used before their
/// descriptors are published.
const VCPUS: usize = 20;

/// A thread creates vCPUs. Another thread reads an MSR of each vCPU by the number
/// that its descriptor will have, as soon as that works.
fn complete(
    round: &Round,
    get_msrs: impl Fn(BorrowedFd<'_>, &mut Msrs) -> Result<usize, Errno> + Sync,
) {
    /// No next number yet, and no more numbers.
    const NONE: RawFd = -1;
    const OVER: RawFd = -2;
    let vm = round.runner().kvm_create_vm().unwrap();
    let next = AtomicI32::new(NONE);
    thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                let number = match next.load(Ordering::SeqCst) {
                    OVER => break,
                    NONE => continue,
                    number => number,
                };
                // SAFETY: the calls say so if the number is no file's. It is not
                // given to another file before `next` is changed.
                let vcpu = unsafe { BorrowedFd::borrow_raw(number) };
                // KVM sets it to 1 as the last step of creating a vCPU.
                let mut msrs = msrs([(POLL_CONTROL, 0)]);
                match get_msrs(vcpu, &mut msrs) {
                    Err(error) => assert_eq!(error, Errno::EBADF),
                    Ok(count) => {
                        let values: Vec<u64> = msrs.as_slice().iter().map(|it| it.data).collect();
                        assert_eq!((count, &values[..]), (1, &[1][..]));
                        round.pause();
                        next.store(NONE, Ordering::SeqCst);
                    }
                }
            }
        });
        let mut vcpus = Vec::new();
        for _ in 0..VCPUS {
            // The next file gets the lowest free number.
            let number = vm.try_clone().unwrap().as_raw_fd();
            next.store(number, Ordering::SeqCst);
            round.pause();
            let vcpu = round.runner().kvm_create_vcpu(vm.as_fd()).unwrap();
            assert_eq!(vcpu.as_raw_fd(), number);
            vcpus.push(vcpu);
            wait_until(|| next.load(Ordering::SeqCst) == NONE);
        }
        next.store(OVER, Ordering::SeqCst);
    });
}

/// The ID of a vCPU, from the name of its file.
fn id(vcpu: &OwnedFd) -> usize {
    let link = format!("/proc/self/fd/{}", vcpu.as_raw_fd());
    let name = fs::read_link(link).unwrap();
    let name = name.to_string_lossy();
    let (_, id) = name.rsplit_once("kvm-vcpu:").expect("a vCPU's file");
    id.parse().expect("an ID")
}

fn vms(round: &Round) {
    const ROOM: u64 = 10;
    let before = open_files().unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let numbers = before.iter().map(|it| it.parse::<u64>().expect("a number"));
    let highest = numbers.max().expect("some are open") + 1;
    setrlimit(Resource::RLIMIT_NOFILE, highest + ROOM, hard).unwrap();
    thread::scope(|scope| {
        for n in 0..THREADS {
            scope.spawn(move || {
                let mut files = Vec::new();
                let mut create = || -> Result<(), Errno> {
                    let vm = round.interface(n).kvm_create_vm()?;
                    let vcpu = round.interface(n + 1).kvm_create_vcpu(vm.as_fd());
                    files.push(vm);
                    files.push(vcpu?);
                    Ok(())
                };
                let error = loop {
                    if let Err(error) = create() {
                        break error;
                    }
                };
                assert_eq!(error, Errno::EMFILE);
                round.pause();
            });
        }
    });
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert_eq!(open_files().unwrap(), before);
}
