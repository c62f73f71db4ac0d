//! Runs the tests of kvm-api inside the patched machine, with both backends, and with KVM as
//! modules and built in.

use std::process::Command;

/// The abilities of the machine. A test that lacks one of them fails there, and is skipped on
/// a host.
const EXPECT: &str = "KVM_API_EXPECT=ioctl,syscall,longmode,processor,private";

fn kvm_api_in(variant: &str) {
    let status = Command::new(kernel_patch::beside("kernel-patch").unwrap())
        .args(["cargo", "--wait", "--variant", variant, "--env", EXPECT])
        .arg("--strict")
        .args(["--", "test", "--package", "kvm-api"])
        .status()
        .unwrap();
    assert!(
        status.success(),
        "kvm-api's tests inside the machine, KVM as {variant}: {status}"
    );
}

/// One after the other, because both build a kernel.
#[test]
fn kvm_api() {
    kvm_api_in("module");
    kvm_api_in("builtin");
}
