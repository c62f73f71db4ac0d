//! kvm_create_vm, kvm_get_msr_index_list, kvm_get_vcpu_mmap_size,
//! kvm_create_vcpu, kvm_check_extension.

use std::os::fd::AsFd;

use kvm_api::kvm_sys::{KVM_CAP_NR_MEMSLOTS, KVM_MAX_MSR_ENTRIES, MsrList, kvm_run};
use kvm_api::{Errno, RunMapping};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::Needs::AnyVcpu;
use crate::{Stage, Test, raw};
use guests::TestVm;

pub const TESTS: &[Test] = &[
    ("kvm_create_vm::gives_a_machine_to_both", AnyVcpu, create_vm),
    ("kvm_create_vm::closes_on_exec", AnyVcpu, create_vm_cloexec),
    (
        "kvm_get_msr_index_list::lists_known_msrs",
        AnyVcpu,
        msr_index_list,
    ),
    (
        "kvm_get_msr_index_list::short_list_is_unchanged",
        AnyVcpu,
        msr_index_list_short,
    ),
    ("kvm_get_vcpu_mmap_size::holds_kvm_run", AnyVcpu, mmap_size),
    (
        "kvm_create_vcpu::takes_the_lowest_free_id",
        AnyVcpu,
        create_vcpu,
    ),
    (
        "kvm_create_vcpu::closes_on_exec",
        AnyVcpu,
        create_vcpu_cloexec,
    ),
    (
        "kvm_check_extension::answers_as_the_ioctl",
        AnyVcpu,
        check_extension,
    ),
];

fn create_vm(stage: &Stage) {
    let vm = stage.kvm.kvm_create_vm().unwrap();
    let vcpu = stage.witness.kvm_create_vcpu(vm.as_fd()).unwrap();
    let size = stage.witness.kvm_get_vcpu_mmap_size(vm.as_fd()).unwrap();
    RunMapping::new(vcpu.as_fd(), size).unwrap();
}

#[track_caller]
fn assert_cloexec(fd: impl AsFd) {
    let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
    assert!(flags.contains(FdFlag::FD_CLOEXEC));
}

fn create_vm_cloexec(stage: &Stage) {
    assert_cloexec(stage.kvm.kvm_create_vm().unwrap());
}

fn create_vcpu_cloexec(stage: &Stage) {
    let vm = stage.kvm.kvm_create_vm().unwrap();
    assert_cloexec(stage.kvm.kvm_create_vcpu(vm.as_fd()).unwrap());
}

fn msr_index_list(stage: &Stage) {
    const SYSENTER_CS: u32 = 0x174;
    let vm = stage.kvm.kvm_create_vm().unwrap();
    let device = raw::device();
    let mut lists = [(); 3].map(|()| MsrList::new(KVM_MAX_MSR_ENTRIES).unwrap());
    let [of_vm, of_device, witnessed] = &mut lists;
    stage.kvm.kvm_get_msr_index_list(vm.as_fd(), of_vm).unwrap();
    stage
        .kvm
        .kvm_get_msr_index_list(device.as_fd(), of_device)
        .unwrap();
    stage
        .witness
        .kvm_get_msr_index_list(vm.as_fd(), witnessed)
        .unwrap();
    assert!(of_vm.as_slice().len() < KVM_MAX_MSR_ENTRIES);
    assert!(of_vm.as_slice().contains(&SYSENTER_CS), "{of_vm:x?}");
    assert_eq!(of_vm, of_device);
    assert_eq!(of_vm, witnessed);
}

fn msr_index_list_short(stage: &Stage) {
    let vm = stage.kvm.kvm_create_vm().unwrap();
    let list_of = |room| {
        let mut list = MsrList::new(room).unwrap();
        let result = stage.kvm.kvm_get_msr_index_list(vm.as_fd(), &mut list);
        (result, list)
    };
    let (_, whole) = list_of(KVM_MAX_MSR_ENTRIES);
    let all = whole.as_slice().len();
    for short in [1, all - 1] {
        let (result, list) = list_of(short);
        assert_eq!(result, Err(Errno::E2BIG), "room for {short} of {all}");
        assert_eq!(list.as_slice(), vec![0; short]);
    }
    assert_eq!(list_of(all), (Ok(()), whole));
}

fn mmap_size(stage: &Stage) {
    let vm = stage.kvm.kvm_create_vm().unwrap();
    let size = stage.kvm.kvm_get_vcpu_mmap_size(vm.as_fd()).unwrap();
    assert!(size >= size_of::<kvm_run>(), "{size}");
    assert_eq!(
        stage.kvm.kvm_get_vcpu_mmap_size(raw::device().as_fd()),
        Ok(size)
    );
    assert_eq!(stage.witness.kvm_get_vcpu_mmap_size(vm.as_fd()), Ok(size));
}

fn create_vcpu(stage: &Stage) {
    let vm = stage.kvm.kvm_create_vm().unwrap();
    // The id 1 is taken already.
    let _one = raw::create_vcpu(vm.as_fd(), 1).unwrap();
    let _zero = stage.kvm.kvm_create_vcpu(vm.as_fd()).unwrap();
    assert_eq!(raw::create_vcpu(vm.as_fd(), 0).err(), Some(Errno::EEXIST));
    let _two = stage.kvm.kvm_create_vcpu(vm.as_fd()).unwrap();
    assert_eq!(raw::create_vcpu(vm.as_fd(), 2).err(), Some(Errno::EEXIST));
    assert!(raw::create_vcpu(vm.as_fd(), 3).is_ok());
}

fn check_extension(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let device = raw::device();
    for extension in 0..256 {
        let of_vm = (machine.vm(), machine.descriptor());
        for (fd, descriptor) in [of_vm, (device.as_fd(), device.as_fd())] {
            assert_eq!(
                stage.kvm.kvm_check_extension(fd, extension),
                raw::check_extension(descriptor, extension),
                "{extension}"
            );
        }
    }
    let slots = stage
        .kvm
        .kvm_check_extension(machine.vm(), KVM_CAP_NR_MEMSLOTS)
        .unwrap();
    assert!(slots >= 32, "{slots}");
}
