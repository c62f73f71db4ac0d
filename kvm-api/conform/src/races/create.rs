//! Machines and vcpus are made by several threads at once.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;

use kvm_api::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Race;
use super::round::Round;

pub const RACES: &[Race] = &[
    Race::new("vcpus made at once have the lowest ids", vcpus),
    Race::new("file descriptors run out while machines are made", machines),
];

const THREADS: usize = 3;
/// How many vcpus a thread makes.
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
        let vcpus = threads.into_iter();
        vcpus
            .flat_map(|thread| thread.join().expect("a panic ends all"))
            .collect()
    });
    let ids: BTreeSet<usize> = vcpus.iter().map(id).collect();
    assert!(ids.into_iter().eq(0..THREADS * EACH));
}

/// A vcpu's id, of which its file is named.
fn id(vcpu: &OwnedFd) -> usize {
    let link = format!("/proc/self/fd/{}", vcpu.as_raw_fd());
    let name = fs::read_link(link).unwrap();
    let name = name.to_string_lossy();
    let (_, id) = name.rsplit_once("kvm-vcpu:").expect("a vcpu's file");
    id.parse().expect("an id")
}

fn machines(round: &Round) {
    const ROOM: u64 = 10;
    let before = open_files();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let highest = before.iter().max().expect("some are open") + 1;
    setrlimit(Resource::RLIMIT_NOFILE, highest + ROOM, hard).unwrap();
    thread::scope(|scope| {
        for n in 0..THREADS {
            scope.spawn(move || {
                let mut files = Vec::new();
                let error = loop {
                    match round.interface(n).kvm_create_vm() {
                        Ok(vm) => {
                            let vcpu = round.interface(n + 1).kvm_create_vcpu(vm.as_fd());
                            files.push(vm);
                            match vcpu {
                                Ok(vcpu) => files.push(vcpu),
                                Err(error) => break error,
                            }
                        }
                        Err(error) => break error,
                    }
                };
                assert_eq!(error, Errno::EMFILE);
                round.pause();
            });
        }
    });
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert_eq!(open_files(), before);
}

/// The numbers of the open files, but for the one that lists them.
fn open_files() -> BTreeSet<u64> {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    let numbers = names.map(|name| name.to_string_lossy().parse().expect("a number"));
    let listed: Vec<u64> = numbers.collect();
    // The directory is closed by now.
    let open = |number: &u64| fs::read_link(format!("/proc/self/fd/{number}")).is_ok();
    listed.into_iter().filter(open).collect()
}
