//! The report that a process writes at its end.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use guests::{TestVm, programs};
use kvm_api::kvm_sys::{
    KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_GET_API_VERSION, KVM_GET_REGS, KVM_RUN, kvm_regs,
};
use kvm_preload::{BIND_VARIABLE, Change, REPORT_VARIABLE, finish, hand_over};
use libc::c_ulong;

use super::{in_child, in_child_with};
use crate::{Stage, raw};

/// Makes a request by the library.
fn request(fd: RawFd, request: c_ulong, arg: c_ulong) -> i32 {
    // SAFETY: the requests of this test take numbers, or the address of a structure.
    unsafe { hand_over(fd, request, arg) }
}

fn made(fd: i32) -> OwnedFd {
    assert!(fd >= 0);
    // SAFETY: it is a new file descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub fn written(_: &Stage) {
    let path = std::env::temp_dir().join(format!("report-{}", std::process::id()));
    // SAFETY: this process has one thread that does anything.
    unsafe { std::env::set_var(REPORT_VARIABLE.to_str().unwrap(), &path) };
    in_child(|| {
        let device = raw::device();
        request(device.as_raw_fd(), KVM_GET_API_VERSION, 0);
        let vm = made(request(device.as_raw_fd(), KVM_CREATE_VM, 0));
        let vcpu = made(request(vm.as_raw_fd(), KVM_CREATE_VCPU, 0));
        // Beyond the next id.
        made(request(vm.as_raw_fd(), KVM_CREATE_VCPU, 2));
        let mut regs = kvm_regs::default();
        let address = (&raw mut regs).expose_provenance() as c_ulong;
        for _ in 0..3 {
            request(vcpu.as_raw_fd(), KVM_GET_REGS, address);
        }
        // The library remembers a vCPU.
        // SAFETY: the descriptor is that of the vCPU.
        unsafe { libc::dup2(device.as_raw_fd(), vcpu.as_raw_fd()) };
        request(vcpu.as_raw_fd(), KVM_GET_REGS, address);
        request(vcpu.as_raw_fd(), KVM_GET_REGS, address);
        finish();
        finish();
    });
    // SAFETY: as above.
    unsafe { std::env::remove_var(REPORT_VARIABLE.to_str().unwrap()) };
    let report = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let lines: Vec<_> = report.lines().collect();
    assert!(lines[0].contains("5 of 9 KVM ioctls"), "{report}");
    let words = |line: &&str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<_> = lines[2..].iter().map(words).collect();
    assert_eq!(
        lines,
        [
            "3 KVM_GET_REGS kvm_get_regs",
            "1 KVM_CREATE_VM kvm_create_vm",
            "1 KVM_CREATE_VCPU kvm_create_vcpu",
            "1 KVM_CREATE_VCPU ioctl: the call would give another id, or the id is not known",
            "1 KVM_GET_REGS ioctl: the file is of another kind",
            "1 KVM_GET_REGS ioctl: the call was refused",
            "1 KVM_GET_API_VERSION ioctl: no call replaces it",
        ]
    );
}

pub fn of_bound(stage: &Stage) {
    let path = std::env::temp_dir().join(format!("report-{}", std::process::id()));
    let text = path.to_str().unwrap();
    let variables = [(REPORT_VARIABLE, text), (BIND_VARIABLE, "without-fd")];
    in_child_with(&variables, || {
        let mut machine = TestVm::new(&*stage.kvm);
        machine.load(programs::OUT);
        let vcpu = machine.vcpu().as_raw_fd();
        let mut regs = kvm_regs::default();
        let address = (&raw mut regs).expose_provenance() as c_ulong;
        for _ in 0..2 {
            assert_eq!(request(vcpu, KVM_RUN, 0), 0);
            assert_eq!(request(vcpu, KVM_GET_REGS, address), 0);
        }
        Change::of(vcpu as u32, vcpu as u32).done();
        assert_eq!(request(vcpu, KVM_GET_REGS, address), 0);
        finish();
    });
    let report = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let lines: Vec<_> = report.lines().collect();
    assert!(lines[0].contains("5 of 5 KVM ioctls"), "{report}");
    assert!(
        lines[1].contains("1 times a thread bound its vCPU"),
        "{report}"
    );
    assert!(lines[2].contains("1 times it was unbound"), "{report}");
    let words = |line: &&str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<_> = lines[4..].iter().map(words).collect();
    assert_eq!(
        lines,
        [
            "2 KVM_RUN kvm_bound_run",
            "2 KVM_GET_REGS kvm_bound_get_regs",
            "1 KVM_GET_REGS kvm_get_regs",
        ]
    );
}
