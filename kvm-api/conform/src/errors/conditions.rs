//! Calls that are wrong in the state of the machine, or because of a value
//! within a structure.

use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::ptr::NonNull;

use anyhow::{Context, Result};
use guests::msr::EFER;
use guests::{MEMORY, SLOT};
use kvm_api::{Kvm, Vm};
use kvm_sys::debug::*;
use kvm_sys::slot::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use kvm_sys::*;
use nix::errno::Errno::*;
use nix::sys::mman::{ProtFlags, mprotect};

use super::expected::Expectation::{Fails, Gives};
use super::expected::{Expectation, both};
use super::invocation::Invocation;
use super::misuse::{Made, Misuse};
use super::testbed::*;
use crate::child::pidfd;
use crate::requests::*;
use crate::tested_call::TestedCall::{self, *};

/// Changes a new machine and the call.
type Prepare = fn(&mut Testbed<'_>, &mut Invocation) -> Result<()>;

/// The call, the error, the expected result, and the function that causes the error.
struct Condition(TestedCall, &'static str, Expectation, Prepare);

#[rustfmt::skip]
const CONDITIONS: &[Condition] = &[
    Condition(Flat(FlatCall::kvm_set_memory_region), "a slot that is set, with another size", Fails(EINVAL),
        |_, it| region(it, KERNEL_SLOT, 0, KERNEL_MEMORY, PAGE)),
    Condition(Flat(FlatCall::kvm_set_memory_region), "a slot that has the caller's memory", Fails(EINVAL),
        |_, it| region(it, SLOT, 0, 0, MEMORY as u64)),
    Condition(Flat(FlatCall::kvm_set_memory_region), "a slot that is set, now read-only",
        Fails(EINVAL), |_, it| region(it, KERNEL_SLOT, KVM_MEM_READONLY, KERNEL_MEMORY, KERNEL_SIZE)),
    Condition(Flat(FlatCall::kvm_set_memory_region), "a slot that is set, moved to where another is",
        Fails(EEXIST), |_, it| region(it, KERNEL_SLOT, KVM_MEM_LOG_DIRTY_PAGES, 0, KERNEL_SIZE)),
    Condition(Flat(FlatCall::kvm_set_memory_region), "deletes memory that an alias shows", Fails(EBUSY), |testbed, it| {
        alias(testbed)?;
        region(it, KERNEL_SLOT, 0, 0, 0)
    }),
    Condition(Flat(FlatCall::kvm_create_vcpu), "beyond the limit of an enabled `KVM_CAP_MAX_VCPU_ID`",
        Fails(EINVAL), |testbed, it| {
            another_machine(testbed, it, |vm| enable(vm, KVM_CAP_MAX_VCPU_ID, 1))?;
            it.words[0] = testbed.machine.vm().as_raw_fd() as u64;
            set(it, "argument", 1)
        }),
    Condition(Flat(FlatCall::kvm_get_dirty_log), "the machine has dirty rings", Fails(ENXIO), |testbed, it| {
        another_machine(testbed, it, |vm| enable(vm, KVM_CAP_DIRTY_LOG_RING, 0x1_0000))?;
        it.words[0] = testbed.machine.vm().as_raw_fd() as u64;
        Ok(())
    }),
    Condition(Flat(FlatCall::kvm_run), "the guest's memory cannot be reached", Fails(EFAULT), |testbed, _| {
        let memory = NonNull::new(testbed.machine.memory.as_ptr()).context("no memory")?;
        // SAFETY: nothing refers to the memory, which is not used any more.
        Ok(unsafe { mprotect(memory.cast(), MEMORY, ProtFlags::PROT_NONE) }?)
    }),
    Condition(Flat(FlatCall::kvm_run), "`kvm_valid_regs` has an unknown bit", Fails(EINVAL),
        |testbed, _| { testbed.machine.run.set_valid_regs(1 << 31); Ok(()) }),
    Condition(Flat(FlatCall::kvm_run), "the vCPU waits for INIT, and gets an NMI", Fails(EAGAIN),
        |testbed, it| {
            another_machine(testbed, it, |vm| request(vm, KVM_CREATE_IRQCHIP, 0))?;
            // The first bit is set anyway.
            let vcpu = testbed.kvm().kvm_create_vcpu(testbed.machine.vm())?;
            request(vcpu.as_fd(), KVM_NMI, 0)?;
            use_vcpu(testbed, it, vcpu);
            Ok(())
        }),
    Condition(Flat(FlatCall::kvm_set_sregs), "CR4 has a bit that the processor lacks", Fails(EINVAL),
        |_, it| field(it, offset_of!(kvm_sregs, cr4), 1 << 31)),
    Condition(Flat(FlatCall::kvm_set_sregs), "CR0 has paging without protection", Fails(EINVAL),
        |_, it| field(it, offset_of!(kvm_sregs, cr0), 1 << 31)),
    Condition(Flat(FlatCall::kvm_set_sregs), "the APIC's base has an unknown bit", Fails(EINVAL),
        |_, it| field(it, offset_of!(kvm_sregs, apic_base), 1)),
    Condition(Flat(FlatCall::kvm_interrupt), "the interrupt controller is in the kernel", Fails(ENXIO),
        |testbed, it| another_machine(testbed, it, |vm| request(vm, KVM_CREATE_IRQCHIP, 0))),
    Condition(Flat(FlatCall::kvm_interrupt), "the local APIC is in the kernel, and an interrupt is pending",
        Fails(EEXIST), |testbed, it| {
            another_machine(testbed, it, |vm| enable(vm, KVM_CAP_SPLIT_IRQCHIP, 24))?;
            Ok(testbed.both.ioctl.kvm_interrupt(testbed.still.as_fd(), 33)?)
        }),
    Condition(Flat(FlatCall::kvm_debug_guest), "it injects an exception while one is pending", Fails(EBUSY),
        |testbed, it| {
            let debug = kvm_guest_debug {
                control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_BP,
                ..Default::default()
            };
            testbed.both.ioctl.kvm_debug_guest(testbed.still.as_fd(), &debug)?;
            set(it, "control", (KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB).into())
        }),
    Condition(Flat(FlatCall::kvm_get_msrs), "an MSR that does not exist", Gives(0),
        |_, it| msr(it, 0x1234_5678, 0)),
    Condition(Flat(FlatCall::kvm_set_msrs), "an MSR that does not exist", Gives(0),
        |_, it| msr(it, 0x1234_5678, 1)),
    Condition(Flat(FlatCall::kvm_set_msrs), "a value that the MSR cannot have", Gives(0),
        |_, it| msr(it, EFER, u64::MAX)),
    Condition(Flat(FlatCall::kvm_set_cpuid), "more leaves than before, after the vCPU has run", Fails(EINVAL),
        |testbed, it| {
            testbed.machine.run_to_hlt();
            it.words[0] = testbed.machine.vcpu().as_raw_fd() as u64;
            set(it, "nent", 1)
        }),
    Condition(Flat(FlatCall::kvm_set_cpuid), "addresses of 40 bits", Fails(EINVAL), |_, it| {
        let entry = size_of::<kvm_cpuid2>();
        it.put(entry + offset_of!(kvm_cpuid_entry2, function), &0x8000_0008_u32.to_le_bytes());
        it.put(entry + offset_of!(kvm_cpuid_entry2, eax), &(40_u32 << 8).to_le_bytes());
        set(it, "nent", 1)
    }),
    Condition(Flat(FlatCall::kvm_set_user_memory_region), "a slot that is set, with another size",
        Fails(EINVAL), |testbed, it| {
            user_region(testbed, it);
            region(it, SLOT, KVM_MEM_LOG_DIRTY_PAGES, 0, PAGE)
        }),
    Condition(Flat(FlatCall::kvm_set_user_memory_region), "a slot that is set, now read-only",
        Fails(EINVAL), |testbed, it| {
            user_region(testbed, it);
            region(it, SLOT, KVM_MEM_READONLY, 0, MEMORY as u64)
        }),
    Condition(Flat(FlatCall::kvm_set_user_memory_region), "a slot that is set, moved to where another is",
        Fails(EEXIST), |testbed, it| {
            user_region(testbed, it);
            region(it, SLOT, KVM_MEM_LOG_DIRTY_PAGES, KERNEL_MEMORY, MEMORY as u64)
        }),
    Condition(Flat(FlatCall::kvm_set_user_memory_region), "a slot that has the kernel's memory", Fails(EINVAL),
        |_, it| region(it, KERNEL_SLOT, KVM_MEM_LOG_DIRTY_PAGES, KERNEL_MEMORY, KERNEL_SIZE)),
    Condition(Flat(FlatCall::kvm_set_memory_alias), "an alias of an alias", Fails(EINVAL), |testbed, it| {
        alias(testbed)?;
        it.set("slot", 1);
        it.set("guest_phys_addr", 2 * FREE);
        set(it, "target_phys_addr", FREE)
    }),
    Condition(Flat(FlatCall::kvm_set_memory_alias), "an alias that is set, with another target", Fails(EINVAL),
        |testbed, it| {
            alias(testbed)?;
            set(it, "target_phys_addr", KERNEL_MEMORY + PAGE)
        }),
    Condition(Flat(FlatCall::kvm_set_memory_alias), "an alias that is set, with another size", Fails(EINVAL),
        |testbed, it| {
            alias(testbed)?;
            set(it, "memory_size", 2 * PAGE)
        }),
    Condition(Process(ProcessCall::kvm_map_memory), "the address of an alias", Fails(ENODEV),
        |testbed, it| {
            alias(testbed)?;
            set(it, "guest_phys_addr", FREE)
        }),
    Condition(Binding(BindingCall::kvm_bind), "the thread has a bound vCPU, this one",
        Fails(EEXIST), |testbed, _| {
            testbed.bind();
            Ok(())
        }),
    Condition(Binding(BindingCall::kvm_bind), "the thread has a bound vCPU, another one",
        Fails(EEXIST), |testbed, it| {
            testbed.bind();
            it.words[0] = testbed.machine.vcpu().as_raw_fd() as u64;
            Ok(())
        }),
    Condition(Binding(BindingCall::kvm_unbind), "the thread has no bound vCPU", Fails(ENXIO),
        |testbed, _| {
            testbed.unbind();
            Ok(())
        }),
    Condition(Process(ProcessCall::kvm_bind_vm), "the process has a bound VM, this one",
        Fails(EEXIST), |testbed, _| {
            testbed.bind_vm();
            Ok(())
        }),
    Condition(Process(ProcessCall::kvm_bind_vm), "the process has a bound VM, another one",
        Fails(EEXIST), |testbed, it| {
            testbed.bind_vm();
            another_machine(testbed, it, |_| Ok(()))?;
            it.words[0] = testbed.machine.vm().as_raw_fd() as u64;
            Ok(())
        }),
    Condition(Process(ProcessCall::kvm_unbind_vm), "the process has no bound VM", Fails(ENXIO),
        |testbed, _| {
            testbed.unbind_vm();
            Ok(())
        }),
    Condition(Process(ProcessCall::kvm_create_bound_vm), "the process has a bound VM",
        Fails(EEXIST), |testbed, _| {
            testbed.bind_vm();
            Ok(())
        }),
    Condition(Process(ProcessCall::kvm_create_bound_vcpu), "the process has no bound VM",
        Fails(EBADF), |testbed, _| {
            testbed.unbind_vm();
            Ok(())
        }),
    Condition(Process(ProcessCall::kvm_create_bound_vcpu), "the thread has a bound vCPU",
        Fails(EEXIST), |testbed, _| {
            testbed.bind();
            Ok(())
        }),
    Condition(Process(ProcessCall::kvm_create_bound_vcpu),
        "beyond the limit of an enabled `KVM_CAP_MAX_VCPU_ID`", Fails(EINVAL), |testbed, it| {
            another_machine(testbed, it, |vm| enable(vm, KVM_CAP_MAX_VCPU_ID, 1))?;
            testbed.bind_vm();
            Ok(())
        }),
    Condition(Process(ProcessCall::kvm_bound_mmap), "the thread has no bound vCPU",
        Fails(ENXIO), |testbed, _| {
            testbed.unbind();
            Ok(())
        }),
    Condition(Binding(BindingCall::kvm_kick), "the thread has no bound vCPU", Fails(ESRCH),
        |testbed, _| {
            testbed.unbind();
            Ok(())
        }),
    Condition(Binding(BindingCall::kvm_kick), "the thread has ended", Fails(ESRCH), |testbed, it| {
        let mut child = Command::new("/proc/self/exe").arg("--version").stdout(Stdio::null())
            .spawn()?;
        testbed.pidfd = pidfd(child.id())?;
        child.wait()?;
        it.words[0] = testbed.pidfd.as_raw_fd() as u64;
        Ok(())
    }),
];

/// A case for each condition, on a machine of its own.
pub fn cases() -> Vec<Misuse> {
    let case = |&Condition(call, text, answer, prepare): &Condition| {
        Misuse::new(call, text, both(answer), move |testbed, _| {
            let mut own = Testbed::new(testbed.both, testbed.route)?;
            let mut invocation = Invocation::good(call, &own);
            prepare(&mut own, &mut invocation).with_context(|| format!("{}, {text}", call.name))?;
            let before = own.state()?;
            let made = Made::of(&invocation, &mut own).with_slot(None);
            let wrong = own.state()?.difference(&before);
            Ok(made.but(wrong))
        })
    };
    CONDITIONS.iter().map(case).collect()
}

fn set(it: &mut Invocation, name: &str, value: u64) -> Result<()> {
    it.set(name, value);
    Ok(())
}

fn region(it: &mut Invocation, slot: u32, flags: u32, address: u64, size: u64) -> Result<()> {
    it.set("slot", slot.into());
    it.set("flags", flags.into());
    it.set("guest_phys_addr", address);
    set(it, "size", size)
}

/// The initial memory of the guest.
fn user_region(testbed: &Testbed<'_>, it: &mut Invocation) {
    let address = testbed.machine.memory.as_ptr().expose_provenance();
    it.set("userspace_addr", address as u64);
}

/// Sets alias 0: a page of the kernel's memory.
fn alias(testbed: &Testbed<'_>) -> Result<()> {
    let alias = kvm_memory_alias {
        guest_phys_addr: FREE,
        memory_size: PAGE,
        target_phys_addr: KERNEL_MEMORY,
        ..Default::default()
    };
    let vm = testbed.machine.vm();
    Ok(testbed.kvm().kvm_set_memory_alias(vm, &alias)?)
}

fn field(it: &mut Invocation, offset: usize, value: u64) -> Result<()> {
    it.put(offset, &value.to_le_bytes());
    Ok(())
}

fn msr(it: &mut Invocation, index: u32, data: u64) -> Result<()> {
    let entry = size_of::<kvm_msrs>();
    // The field behind the index is reserved, and 0.
    field(it, entry + offset_of!(kvm_msr_entry, index), index.into())?;
    field(it, entry + offset_of!(kvm_msr_entry, data), data)
}

/// Gives the testbed a machine with a capability that can be enabled only
/// before the first vCPU.
fn another_machine(
    testbed: &mut Testbed<'_>,
    it: &mut Invocation,
    change: fn(BorrowedFd<'_>) -> Result<()>,
) -> Result<()> {
    let kvm = testbed.kvm();
    let vm = kvm.kvm_create_vm()?;
    change(vm.as_fd())?;
    let vcpu = kvm.kvm_create_vcpu(vm.as_fd())?;
    testbed.forget_memory();
    testbed.machine.vm = Vm::Fd(vm);
    use_vcpu(testbed, it, vcpu);
    Ok(())
}

/// Makes the call on another vCPU.
fn use_vcpu(testbed: &mut Testbed<'_>, it: &mut Invocation, vcpu: OwnedFd) {
    testbed.still = vcpu;
    it.words[0] = testbed.still.as_raw_fd() as u64;
}
