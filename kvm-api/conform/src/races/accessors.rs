//! Calls on a vCPU wait for its run to end. Calls on its VM do not wait.

use std::os::fd::AsFd;
use std::thread::{self, sleep};
use std::time::Duration;

use kvm_api::{ByFd, Kvm};

use super::Race;
use super::guest::wait_for_count;
use super::round::Round;
use crate::signal::{kick, spawn};
use crate::trait_calls::{ON_VCPU, ON_VM};

pub const RACES: &[Race] = &[
    ("calls on a running vCPU wait for it", on_the_vcpu),
    ("calls on a running vCPU's VM do not wait", on_the_vm),
];

fn on_the_vcpu(round: &Round) {
    let guest = round.counting();
    let (call, make) = ON_VCPU[round.number as usize % ON_VCPU.len()];
    guest.while_running(round.runner(), |stop| {
        thread::scope(|scope| {
            let (thread, caller) = spawn(scope, || {
                let vcpu = ByFd::<dyn Kvm, _>::new(round.other(), &guest.vcpu);
                assert_eq!(make(&vcpu), Ok(()), "{call:?}, after the run");
            });
            sleep(Duration::from_millis(2));
            // Only a fatal signal ends the wait.
            kick(thread);
            wait_for_count(&guest.memory);
            sleep(Duration::from_millis(1));
            wait_for_count(&guest.memory);
            assert!(!caller.is_finished(), "{call:?} did not wait for the vCPU");
            stop();
        });
    });
}

fn on_the_vm(round: &Round) {
    let guest = round.counting();
    guest.while_running(round.runner(), |_| {
        for (call, make) in ON_VM {
            // If the call waited for the vCPU, it would wait forever.
            assert_eq!(make(round.other(), guest.vm.as_fd()), Ok(()), "{call:?}");
            round.pause();
        }
        wait_for_count(&guest.memory);
    });
}
