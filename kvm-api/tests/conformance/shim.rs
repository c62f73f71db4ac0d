//! The number of instructions of a call in user space, counted by single-stepping: the
//! instructions of the shim beyond the bare `syscall`, and of the ioctl backend compared
//! with `kvm-ioctls`.

use std::hint::black_box;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kvm_api::ioctl::Ioctl;
use kvm_api::kvm_sys::{CpuId, Msrs, kvm_fpu, kvm_guest_debug, kvm_msr_entry, kvm_regs, kvm_sregs};
use kvm_api::syscall::Syscall;
use kvm_api::{Kvm, RunMapping};

use crate::Needs::AnyVcpu;
use crate::steps::{count, overhead};
use crate::{Stage, Test};
use kvm_api::Form;

pub const TESTS: &[(Form, Test)] = &[
    (
        Form::Ioctl,
        ("instructions::no_more_than_kvm_ioctls", AnyVcpu, peer),
    ),
    (
        Form::Syscall,
        ("instructions::shim_adds_at_most_12", AnyVcpu, shim),
    ),
];

/// A backend, and a vCPU with its run mapping, which live until the end. The vCPU
/// starts at halts.
fn vcpu<K: Kvm + 'static>(kvm: K) -> (&'static K, BorrowedFd<'static>, RunMapping) {
    let kvm: &K = Box::leak(Box::new(kvm));
    let vm: &OwnedFd = Box::leak(Box::new(kvm.kvm_create_vm().unwrap()));
    let page = vec![0xf4; 0x1000];
    let reset = 0x1_0000_0000 - page.len() as u64;
    kvm.kvm_set_memory_region(vm.as_fd(), 0, 0, reset, page.len() as u64)
        .unwrap();
    let mut memory = kvm.kvm_map_memory(vm.as_fd(), reset, page.len()).unwrap();
    memory.write(0, &page).unwrap();
    let vcpu: &OwnedFd = Box::leak(Box::new(kvm.kvm_create_vcpu(vm.as_fd()).unwrap()));
    let size = kvm.kvm_get_vcpu_mmap_size(vm.as_fd()).unwrap();
    let run = RunMapping::new(vcpu.as_fd(), size).unwrap();
    (kvm, vcpu.as_fd(), run)
}

/// The same call on each backend. As in a program, the type of the backend is known.
macro_rules! calls {
    ($kvm:ident, $vcpu:ident, $run:ident, $($name:literal => { $($set_up:tt)* } $call:expr;)*) => {
        /// Counts each call on the backend that `open` opens.
        fn counted<K: Kvm + 'static>(open: impl Fn() -> K + Copy) -> Vec<(&'static str, usize)> {
            vec![$(($name, count(move || {
                #[allow(unused_mut, unused_variables)]
                let ($kvm, $vcpu, mut $run) = vcpu(open());
                $($set_up)*
                move || if let Err(error) = $call { failed(error) }
            })),)*]
        }
    };
}

calls! { kvm, vcpu, run,
    "kvm_get_regs" => { let mut regs = kvm_regs::default(); }
        kvm.kvm_get_regs(vcpu, &mut regs);
    "kvm_set_regs" => { let regs = kvm_regs { rflags: 2, ..Default::default() }; }
        kvm.kvm_set_regs(vcpu, &regs);
    "kvm_get_sregs" => { let mut sregs = kvm_sregs::default(); }
        kvm.kvm_get_sregs(vcpu, &mut sregs);
    "kvm_set_sregs" => {
        let mut sregs = kvm_sregs::default();
        kvm.kvm_get_sregs(vcpu, &mut sregs).unwrap();
    }
        kvm.kvm_set_sregs(vcpu, &sregs);
    "kvm_debug_guest" => { let debug = kvm_guest_debug::default(); }
        kvm.kvm_debug_guest(vcpu, &debug);
    "kvm_get_msrs" => { let mut msrs = Msrs::from_entries(&[TSC]).unwrap(); }
        kvm.kvm_get_msrs(vcpu, &mut msrs);
    "kvm_set_msrs" => { let msrs = Msrs::from_entries(&[TSC]).unwrap(); }
        kvm.kvm_set_msrs(vcpu, &msrs);
    "kvm_set_cpuid" => { let cpuid = CpuId::new(0).unwrap(); }
        kvm.kvm_set_cpuid(vcpu, &cpuid);
    "kvm_set_fpu" => {
        let mut fpu = kvm_fpu::default();
        kvm.kvm_get_fpu(vcpu, &mut fpu).unwrap();
    }
        kvm.kvm_set_fpu(vcpu, &fpu);
    "kvm_get_fpu" => { let mut fpu = kvm_fpu::default(); }
        kvm.kvm_get_fpu(vcpu, &mut fpu);
    "kvm_interrupt" => {}
        kvm.kvm_interrupt(vcpu, 32);
    "kvm_set_signal_mask" => { let mask = kvm_api::SigSet::empty(); }
        kvm.kvm_set_signal_mask(vcpu, Some(&mask));
    "kvm_translate" => { let (mut p, mut v, mut w, mut u) = (0, 0, 0, 0); }
        kvm.kvm_translate(vcpu, 0, &mut p, &mut v, &mut w, &mut u);
    "kvm_run" => {}
        kvm.kvm_run(vcpu, &mut run);
    "kvm_run, immediate_exit" => { run.set_immediate_exit(true); }
        kvm.kvm_run(vcpu, &mut run);
}

/// An MSR that every vCPU has.
const TSC: kvm_msr_entry = kvm_msr_entry {
    index: 0x10,
    reserved: 0,
    data: 0,
};

/// A program handles an error outside the path of success.
#[cold]
fn failed<E>(error: E) {
    black_box(error);
}

fn shim(_: &Stage) {
    let overhead = overhead();
    for (name, steps) in counted(|| Syscall::open().unwrap()) {
        // Everything except the instruction itself.
        let added = steps - overhead - 1;
        println!("{name}: {added} instructions beside syscall");
        // This is always an error, so the call looks up its number.
        let fails = name == "kvm_run, immediate_exit";
        assert!(added <= 12 || fails, "{name}: {added}");
    }
}

fn peer(_: &Stage) {
    let overhead = overhead();
    let ours = counted(|| Ioctl::open().unwrap());
    for (name, peer) in peers() {
        let (_, ours) = ours.iter().find(|(ours, _)| *ours == name).unwrap();
        let (ours, peer) = (ours - overhead, peer - overhead);
        println!("{name}: {ours} instructions, kvm-ioctls {peer}");
        assert!(ours <= peer, "{name}: {ours}, but kvm-ioctls {peer}");
    }
}

/// A vCPU of kvm-ioctls, whose machine stays until the end.
fn peer_vcpu() -> kvm_ioctls::VcpuFd {
    let kvm = kvm_ioctls::Kvm::new().unwrap();
    let vm = Box::leak(Box::new(kvm.create_vm().unwrap()));
    vm.create_vcpu(0).unwrap()
}

/// The same calls by kvm-ioctls, which returns structures by value.
macro_rules! peers {
    ($vcpu:ident, $($name:literal => { $($set_up:tt)* } $call:expr;)*) => {
        /// Counts each call that kvm-ioctls has.
        fn peers() -> Vec<(&'static str, usize)> {
            vec![$(($name, count(|| {
                #[allow(unused_mut)]
                let mut $vcpu = peer_vcpu();
                $($set_up)*
                move || if let Err(error) = $call { failed(error) }
            })),)*]
        }
    };
}

peers! { vcpu,
    "kvm_get_regs" => {}
        vcpu.get_regs();
    "kvm_set_regs" => { let regs = kvm_regs { rflags: 2, ..Default::default() }; }
        vcpu.set_regs(&regs);
    "kvm_get_sregs" => {}
        vcpu.get_sregs();
    "kvm_set_sregs" => { let sregs = vcpu.get_sregs().unwrap(); }
        vcpu.set_sregs(&sregs);
    "kvm_debug_guest" => { let debug = kvm_guest_debug::default(); }
        vcpu.set_guest_debug(&debug);
    "kvm_get_msrs" => { let mut msrs = Msrs::from_entries(&[TSC]).unwrap(); }
        vcpu.get_msrs(&mut msrs);
    "kvm_set_msrs" => { let msrs = Msrs::from_entries(&[TSC]).unwrap(); }
        vcpu.set_msrs(&msrs);
    "kvm_set_cpuid" => { let cpuid = CpuId::new(0).unwrap(); }
        vcpu.set_cpuid2(&cpuid);
    "kvm_get_fpu" => {}
        vcpu.get_fpu();
    "kvm_set_fpu" => { let fpu = vcpu.get_fpu().unwrap(); }
        vcpu.set_fpu(&fpu);
    "kvm_translate" => {}
        vcpu.translate_gva(0);
    "kvm_run, immediate_exit" => { vcpu.set_kvm_immediate_exit(1); }
        vcpu.run();
}
