//! Threads that take a descriptor from under a request.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvm_api::Errno;
use kvm_preload::ROUTES;
use libc::c_int;
use nix::sched::{CloneFlags, unshare};

use super::files::{Files, NAMES, of_parent};
use super::in_child;
use super::requests::{good, of_ioctl, of_library, route};
use crate::Stage;

/// A descriptor that no file of a test has.
const RACED: RawFd = 100;

/// How often each request is made.
const ROUNDS: usize = 200;

/// Sets a flag at the end of a test, even if it fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The answer to a request is one that the ioctl gives on one of the files.
pub fn replaced(stage: &Stage) {
    let parents = of_parent(&*stage.kvm);
    in_child(|| {
        let files = Files::of_child(&*stage.kvm, parents);
        let argument = |route| good(route, files.named("a vCPU"), files.page);
        let mut possible: HashMap<&str, Vec<Result<c_int, Errno>>> = HashMap::new();
        for route in &ROUTES {
            let answer = |name: &str| of_ioctl(files.named(name), route, argument(route)).0;
            let answers = possible.entry(route.name).or_default();
            answers.extend(NAMES.map(answer));
            if route.name == "KVM_CREATE_VCPU" {
                // The requests before have taken the id.
                answers.push(Err(Errno::EEXIST));
            }
        }
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for name in NAMES {
                        files.put(RACED, name);
                        thread::yield_now();
                    }
                }
            });
            let _stop = Stop(&stop);
            for _ in 0..ROUNDS {
                for route in &ROUTES {
                    let (answer, _) = of_library(RACED, route, argument(route));
                    let possible = &possible[route.name];
                    assert!(possible.contains(&answer), "{}: {answer:?}", route.name);
                    thread::yield_now();
                }
            }
        });
    });
}

/// A thread with descriptors of its own, which the memory of the process does not fit.
pub fn unshared(stage: &Stage) {
    let parents = of_parent(&*stage.kvm);
    in_child(|| {
        let files = Files::of_child(&*stage.kvm, parents);
        files.put(RACED, "a vCPU");
        let get_regs = || {
            let regs = route("KVM_GET_REGS");
            of_library(RACED, regs, good(regs, files.named("a vCPU"), files.page)).0
        };
        assert_eq!(get_regs(), Ok(0));
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FILES).unwrap();
                files.put(RACED, "a pipe");
                assert_eq!(get_regs(), Err(Errno::ENOTTY));
                files.put(RACED, "nothing");
                assert_eq!(get_regs(), Err(Errno::EBADF));
            });
            other.join().unwrap();
        });
        assert_eq!(get_regs(), Ok(0));
    });
}
