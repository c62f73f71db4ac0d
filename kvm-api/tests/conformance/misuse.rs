//! The descriptors that each call refuses, and the errno, through the trait. Each call
//! of `kvm_sys::CALLS` has a row.

use std::io::pipe;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kvm_api::kvm_sys::*;
use kvm_api::{Backend, Errno, GuestMemory, Result, RunMapping};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::Needs::AnyVcpu;
use crate::{Stage, Test, raw};
use guests::{MEMORY, SLOT, TestVm};
use kvm_api::Form;

pub const TESTS: &[Test] = &[
    ("misuse::closed_fd", AnyVcpu, closed_fd),
    ("misuse::fd_of_a_pipe", AnyVcpu, pipe_fd),
    ("misuse::fd_of_the_device", AnyVcpu, device_fd),
    ("misuse::fd_of_a_vm", AnyVcpu, vm_fd),
    ("misuse::fd_of_a_vcpu", AnyVcpu, vcpu_fd),
    ("misuse::fd_of_another_process", AnyVcpu, other_process),
    (
        "misuse::every_call_succeeds_with_good_arguments",
        AnyVcpu,
        good_arguments,
    ),
];

/// Makes a call through the trait, with `fd` and otherwise valid arguments.
fn invoke(kvm: &Backend, call: FlatCall, fd: BorrowedFd<'_>, run: &mut RunMapping) -> Result<()> {
    let mut word = 0;
    let (mut a, mut b, mut c) = (0, 0, 0);
    // An address outside the memory of the machines.
    let far = 0x100_0000;
    let memory = GuestMemory::anonymous(0x1000).unwrap();
    let address = memory.as_ptr().expose_provenance() as u64;
    let alias = |size| kvm_memory_alias {
        guest_phys_addr: 2 * far,
        memory_size: size,
        ..Default::default()
    };
    let vcpu = || kvm.vcpu(fd);
    match call {
        FlatCall::kvm_create_vm => kvm.kvm_create_vm().map(drop),
        FlatCall::kvm_get_msr_index_list => {
            kvm.kvm_get_msr_index_list(fd, &mut MsrList::new(KVM_MAX_MSR_ENTRIES).unwrap())
        }
        FlatCall::kvm_get_vcpu_mmap_size => kvm.kvm_get_vcpu_mmap_size(fd).map(drop),
        FlatCall::kvm_set_memory_region => kvm.kvm_set_memory_region(fd, 5, 0, far, 0x1000),
        FlatCall::kvm_create_vcpu => kvm.kvm_create_vcpu(fd).map(drop),
        FlatCall::kvm_get_dirty_log => {
            let mut bitmap = [0; MEMORY / 0x1000 / 64 + 1];
            // SAFETY: the bitmap has a bit for each page of a machine's memory.
            unsafe { kvm.kvm_get_dirty_log(fd, SLOT, &mut bitmap) }
        }
        FlatCall::kvm_get_memory_alias => kvm.kvm_get_memory_alias(fd, &mut alias(0)),
        FlatCall::kvm_run => {
            run.set_immediate_exit(true);
            match vcpu()?.kvm_run(run).map(drop) {
                // Without a guest, the call succeeds with this error.
                Err(Errno::EINTR) => Ok(()),
                other => other,
            }
        }
        FlatCall::kvm_get_regs => vcpu()?.kvm_get_regs(&mut kvm_regs::default()),
        FlatCall::kvm_set_regs => vcpu()?.kvm_set_regs(&kvm_regs {
            rflags: 2,
            ..Default::default()
        }),
        FlatCall::kvm_get_sregs => vcpu()?.kvm_get_sregs(&mut kvm_sregs::default()),
        FlatCall::kvm_set_sregs => vcpu()?.kvm_set_sregs(&kvm_sregs::default()),
        FlatCall::kvm_translate => vcpu()?.kvm_translate(0, &mut word, &mut a, &mut b, &mut c),
        FlatCall::kvm_interrupt => vcpu()?.kvm_interrupt(32),
        FlatCall::kvm_debug_guest => vcpu()?.kvm_debug_guest(&kvm_guest_debug::default()),
        FlatCall::kvm_get_msrs => vcpu()?.kvm_get_msrs(&mut Msrs::new(1).unwrap()).map(drop),
        FlatCall::kvm_set_msrs => vcpu()?.kvm_set_msrs(&Msrs::new(1).unwrap()).map(drop),
        FlatCall::kvm_set_cpuid => vcpu()?.kvm_set_cpuid(&CpuId::new(0).unwrap()),
        FlatCall::kvm_set_signal_mask => vcpu()?.kvm_set_signal_mask(None),
        FlatCall::kvm_get_fpu => vcpu()?.kvm_get_fpu(&mut kvm_fpu::default()),
        FlatCall::kvm_set_fpu => vcpu()?.kvm_set_fpu(&kvm_fpu::default()),
        FlatCall::kvm_check_extension => kvm.kvm_check_extension(fd, 0).map(drop),
        FlatCall::kvm_set_user_memory_region => {
            // SAFETY: if it is set, it is deleted before the memory goes.
            unsafe {
                kvm.kvm_set_user_memory_region(fd, 6, 0, 3 * far, 0x1000, address)?;
                kvm.kvm_set_user_memory_region(fd, 6, 0, 3 * far, 0, 0)
            }
        }
        FlatCall::kvm_set_memory_alias => kvm.kvm_set_memory_alias(fd, &alias(0x1000)),
    }
}

/// The errno of a call on a file descriptor that is not a vCPU: the errno of openat(2) if
/// the form opens the files of the vCPU, otherwise `errno`.
fn no_vcpu(stage: &Stage, errno: Errno) -> Errno {
    match stage.form {
        Form::Files => Errno::ENOTDIR,
        _ => errno,
    }
}

/// The VM, the vCPU, the run mapping and the memory of a machine. The vCPU is not bound.
fn parts(machine: TestVm<'_>) -> (OwnedFd, OwnedFd, RunMapping, GuestMemory) {
    let vcpu = machine.vcpu_fd();
    let TestVm {
        vm, run, memory, ..
    } = machine;
    (vm.into_fd().unwrap(), vcpu, run, memory)
}

/// Asserts that calls refuse `fd`, each with its `errno`, if it has one.
fn refuse(stage: &Stage, fd: BorrowedFd<'_>, errno: impl Fn(FlatCall) -> Option<Errno>) {
    let (_vm, _vcpu, mut run, _memory) = parts(TestVm::of_form(&stage.kvm, 0));
    for call in calls(stage) {
        if let Some(errno) = errno(call) {
            let result = invoke(&stage.kvm, call, fd, &mut run);
            assert_eq!(result, Err(errno), "{}", call.name);
        }
    }
}

/// The flat calls that the form under test has.
fn calls(stage: &Stage) -> impl Iterator<Item = FlatCall> {
    let form = stage.form;
    FlatCall::ALL
        .into_iter()
        .filter(move |call| !form.lacks(call))
}

fn good_arguments(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, slot::KVM_MEM_LOG_DIRTY_PAGES);
    let (vm, vcpu, mut run, _memory) = parts(machine);
    for call in calls(stage) {
        let fd = if call.fd == Fd::Vcpu { &vcpu } else { &vm };
        let result = invoke(&stage.kvm, call, fd.as_fd(), &mut run);
        assert_eq!(result, Ok(()), "{}", call.name);
    }
}

fn closed_fd(stage: &Stage) {
    // SAFETY: it is open nowhere, as limits do not go that high; nor is it
    // closed here.
    let fd = unsafe { BorrowedFd::borrow_raw(i32::MAX) };
    refuse(stage, fd, |call| {
        (call.fd != Fd::None).then_some(Errno::EBADF)
    });
    assert_eq!(
        stage.kvm.kvm_map_memory(fd, 0, 0x1000).err(),
        Some(Errno::EBADF)
    );
}

fn pipe_fd(stage: &Stage) {
    let (reader, _writer) = pipe().unwrap();
    let fd = reader.as_fd();
    refuse(stage, fd, |call| match call.fd {
        Fd::None | Fd::VcpuOrTask => None,
        Fd::Vcpu => Some(no_vcpu(stage, Errno::ENOTTY)),
        Fd::System | Fd::Vm => Some(Errno::ENOTTY),
    });
    assert_eq!(
        stage.kvm.kvm_map_memory(fd, 0, 0x1000).err(),
        Some(Errno::ENOTTY)
    );
}

fn device_fd(stage: &Stage) {
    let device = raw::device();
    refuse(stage, device.as_fd(), |call| match call.fd {
        // On the device, the ioctl of this code is another request, which reads the MSRs
        // with features.
        Fd::Vcpu if call.request == Some(KVM_GET_MSRS) && stage.form == Form::Ioctl => None,
        Fd::Vcpu => Some(no_vcpu(stage, Errno::EINVAL)),
        Fd::Vm => Some(Errno::EINVAL),
        Fd::None | Fd::System | Fd::VcpuOrTask => None,
    });
    let result = stage.kvm.kvm_map_memory(device.as_fd(), 0, 0x1000);
    let errno = match stage.form {
        Form::Ioctl => Errno::ENODEV,
        _ => Errno::EINVAL,
    };
    assert_eq!(result.err(), Some(errno));
}

fn vm_fd(stage: &Stage) {
    let vm = stage.kvm.kvm_create_vm().unwrap();
    refuse(stage, vm.as_fd(), |call| {
        (call.fd == Fd::Vcpu).then(|| no_vcpu(stage, Errno::ENOTTY))
    });
}

fn vcpu_fd(stage: &Stage) {
    let (_vm, vcpu, _run, _memory) = parts(TestVm::of_form(&stage.kvm, 0));
    refuse(stage, vcpu.as_fd(), |call| match call.fd {
        Fd::Vm | Fd::System => Some(Errno::EINVAL),
        Fd::None | Fd::Vcpu | Fd::VcpuOrTask => None,
    });
    let result = stage.kvm.kvm_map_memory(vcpu.as_fd(), 0, 0x1000);
    assert_eq!(result.err(), Some(Errno::EINVAL));
}

fn other_process(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, slot::KVM_MEM_LOG_DIRTY_PAGES);
    // SAFETY: the child makes system calls, takes memory from an allocator that
    // survives a fork, and leaves without unwinding.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let (vm, vcpu, mut run, _memory) = parts(machine);
            let wrong = FlatCall::ALL.into_iter().position(|call| {
                let fd = if call.fd == Fd::Vcpu { &vcpu } else { &vm };
                call.fd != Fd::None
                    && !stage.form.lacks(&call)
                    && invoke(&stage.kvm, call, fd.as_fd(), &mut run) != Err(Errno::EIO)
            });
            let code = wrong.map_or(0, |index| 1 + index as i32);
            // SAFETY: nothing of the parent's is touched on the way out.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, 0) => {}
            WaitStatus::Exited(_, code) => {
                panic!(
                    "{} is not refused with EIO",
                    FlatCall::ALL[code as usize - 1].name
                )
            }
            other => panic!("{other:?}"),
        },
    }
}
