//! By system call as by ioctl, a user may make a virtual machine only if the user may
//! open `/dev/kvm`.

use guests::{DeviceNode, NODE};
use kvm_api::{Errno, Kvm};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, fork, geteuid, setgroups, setresgid, setresuid};

use crate::Needs::AnyVcpu;
use crate::{Stage, Test};
use kvm_api::Form;

pub const TESTS: &[(Form, Test)] = &[(
    Form::Syscall,
    (
        "kvm_create_vm::is_for_who_may_open_the_device",
        AnyVcpu,
        group,
    ),
)];

const GROUP: u32 = 1234;
const OTHER: u32 = 1235;

/// Makes a virtual machine as a user without privileges.
fn create_vm_as(kvm: &dyn Kvm, group: u32, supplementary: &[u32]) -> Result<(), Errno> {
    let attempt = || {
        let supplementary: Vec<_> = supplementary.iter().copied().map(Gid::from_raw).collect();
        setgroups(&supplementary)?;
        let (group, user) = (Gid::from_raw(group), Uid::from_raw(65534));
        setresgid(group, group, group)?;
        setresuid(user, user, user)?;
        kvm.kvm_create_vm().map(drop)
    };
    // SAFETY: the child makes system calls, and leaves without unwinding.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let code = attempt().err().map_or(0, |errno| errno as i32);
            // SAFETY: nothing of the parent's is touched on the way out.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, code) => Err(Errno::from_raw(code)),
            other => panic!("{other:?}"),
        },
    }
}

fn group(stage: &Stage) {
    assert!(geteuid().is_root(), "changing {NODE} takes root");
    let kvm = &*stage.kvm;
    let node = DeviceNode::remember().unwrap();
    node.set(OTHER, 0o600).unwrap();
    kvm.kvm_create_vm().unwrap();
    assert_eq!(create_vm_as(kvm, GROUP, &[]), Err(Errno::EACCES));
    node.set(GROUP, 0o660).unwrap();
    assert_eq!(create_vm_as(kvm, GROUP, &[]), Ok(()));
    assert_eq!(create_vm_as(kvm, OTHER, &[GROUP]), Ok(()));
    assert_eq!(create_vm_as(kvm, OTHER, &[]), Err(Errno::EACCES));
    // Read permission for the device is not enough.
    node.set(GROUP, 0o640).unwrap();
    assert_eq!(create_vm_as(kvm, GROUP, &[]), Err(Errno::EACCES));
}
