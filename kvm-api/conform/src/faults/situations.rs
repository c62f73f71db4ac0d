//! The calls into which faults are injected, in each situation in which they
//! take another path through the kernel.

use std::iter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use guests::{MEMORY, SLOT, TestVm, programs};
use kvm_api::bound::BoundVcpu;
use kvm_api::merged::MergedVcpu;
use kvm_api::process::BoundVm;
use kvm_api::ranges::{RangeMemory, range};
use kvm_api::syscall::Syscall;
use kvm_api::{Form, GetState, GuestMemory, Result, SetState, State, kick};
use kvm_sys::BindingCall::*;
use kvm_sys::FlatCall::*;
use kvm_sys::MergedCall::*;
use kvm_sys::ProcessCall::*;
use kvm_sys::RangeCall::*;
use kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_sys::{MsrList, Msrs, kvm_fpu, kvm_guest_debug, kvm_memory_alias, kvm_regs};
use nix::sys::signal::{SigSet, Signal};

use crate::child::pidfd;
use crate::migrated::Migrated;
use crate::requests;
use crate::tested_call::TestedCall::{self, *};
use crate::vcpu_state::MSR;

/// Makes the call. The memory for it is allocated before.
pub type Act = Box<dyn FnMut(&mut TestVm<'_>) -> Result<()>>;

/// A call, and the state of the machine when it is made.
pub struct Situation {
    pub call: TestedCall,
    /// The special condition, if any.
    pub name: &'static str,
    /// Whether the call changes the state, so that each attempt needs a new
    /// machine.
    pub fresh: bool,
    /// Brings the machine into the state, and returns the call.
    pub prepare: Prepare,
}

type Prepare = fn(&mut TestVm<'_>) -> Act;

impl Situation {
    /// A call that can be repeated.
    const fn new(call: TestedCall, name: &'static str, prepare: Prepare) -> Self {
        Self {
            call,
            name,
            fresh: false,
            prepare,
        }
    }

    /// A call that needs a new machine for each attempt.
    const fn fresh(call: TestedCall, name: &'static str, prepare: Prepare) -> Self {
        Self {
            fresh: true,
            ..Self::new(call, name, prepare)
        }
    }

    /// The forms by which the call is made.
    pub fn forms(&self) -> impl Iterator<Item = Form> {
        let call = self.call;
        Form::ALL.into_iter().filter(move |form| match call {
            // The calls of ranges have situations of their own.
            TestedCall::Flat(_) => match form {
                Form::Ioctl => call.request.is_some(),
                Form::Ranges => false,
                // Its calls on VMs and vCPUs are those of other forms. The calls that only it
                // has have situations of their own.
                Form::Process => false,
                form => form.has_own(&call),
            },
            TestedCall::Merged(_) => *form == Form::Merged,
            TestedCall::Range(_) => *form == Form::Ranges,
            TestedCall::Binding(_) | TestedCall::Process(_) => *form == Form::Syscall,
        })
    }
}

/// A slot that is initially free.
const FREE: u32 = 3;
/// The address at which memory is added.
const ADDRESS: u64 = 0x10_0000;
const SIZE: u64 = 0x4000;
/// All situations, in the order of the proposal.
pub const ALL: &[Situation] = &[
    Situation::new(Flat(kvm_create_vm), "", |_| {
        Box::new(|m| m.kvm.kvm_create_vm().map(drop))
    }),
    Situation::new(Flat(kvm_get_msr_index_list), "", |_| {
        let mut list = MsrList::new(256).unwrap();
        Box::new(move |m| m.kvm.kvm_get_msr_index_list(m.vm(), &mut list))
    }),
    Situation::new(Flat(kvm_get_vcpu_mmap_size), "", |_| {
        Box::new(|m| m.kvm.kvm_get_vcpu_mmap_size(m.vm()).map(drop))
    }),
    Situation::fresh(Flat(kvm_set_memory_region), "new", |_| {
        Box::new(|m| set(m, 0, ADDRESS, SIZE))
    }),
    Situation::fresh(Flat(kvm_set_memory_region), "moved", |m| {
        set(m, 0, ADDRESS, SIZE).unwrap();
        Box::new(|m| set(m, 0, 2 * ADDRESS, SIZE))
    }),
    Situation::fresh(Flat(kvm_set_memory_region), "logged", |m| {
        set(m, 0, ADDRESS, SIZE).unwrap();
        Box::new(|m| set(m, KVM_MEM_LOG_DIRTY_PAGES, ADDRESS, SIZE))
    }),
    Situation::fresh(Flat(kvm_set_memory_region), "deleted", |m| {
        set(m, 0, ADDRESS, SIZE).unwrap();
        Box::new(|m| set(m, 0, 0, 0))
    }),
    Situation::fresh(Flat(kvm_create_vcpu), "", |_| {
        Box::new(|m| m.kvm.kvm_create_vcpu(m.vm()).map(drop))
    }),
    Situation::new(Flat(kvm_get_dirty_log), "", |m| {
        log(m).unwrap();
        let mut bitmap = [0; MEMORY / 0x1000 / 64 + 1];
        Box::new(move |m| {
            // SAFETY: it has a bit for each page.
            unsafe { m.kvm.kvm_get_dirty_log(m.vm(), SLOT, &mut bitmap) }
        })
    }),
    Situation::new(Flat(kvm_get_memory_alias), "", |m| {
        m.kvm.kvm_set_memory_alias(m.vm(), &alias()).unwrap();
        let mut got = kvm_memory_alias::default();
        Box::new(move |m| m.kvm.kvm_get_memory_alias(m.vm(), &mut got))
    }),
    Situation::fresh(Flat(kvm_run), "the first", |m| {
        m.load(programs::HLT);
        Box::new(|m| m.try_run().map(drop))
    }),
    Situation::fresh(Flat(kvm_run), "", |m| {
        m.load(programs::HLT);
        m.run_to_hlt();
        m.start_at(guests::ENTRY);
        Box::new(|m| m.try_run().map(drop))
    }),
    Situation::new(Flat(kvm_get_regs), "", |_| {
        let mut regs = Default::default();
        Box::new(move |m| m.vcpu.kvm_get_regs(&mut regs))
    }),
    Situation::new(Flat(kvm_set_regs), "", |m| {
        let mut regs = m.regs();
        regs.rax = 0x1234;
        Box::new(move |m| m.vcpu.kvm_set_regs(&regs))
    }),
    Situation::new(Flat(kvm_get_sregs), "", |_| {
        let mut sregs = Default::default();
        Box::new(move |m| m.vcpu.kvm_get_sregs(&mut sregs))
    }),
    Situation::new(Flat(kvm_set_sregs), "", |m| {
        let mut sregs = m.sregs();
        sregs.cr2 = 0x1234;
        Box::new(move |m| m.vcpu.kvm_set_sregs(&sregs))
    }),
    Situation::new(Flat(kvm_translate), "", |_| {
        Box::new(|m| {
            let (mut address, mut valid, mut writeable, mut usermode) = (0, 0, 0, 0);
            let (a, v, w, u) = (&mut address, &mut valid, &mut writeable, &mut usermode);
            m.vcpu.kvm_translate(0x1000, a, v, w, u)
        })
    }),
    Situation::fresh(Flat(kvm_interrupt), "", |_| {
        Box::new(|m| m.vcpu.kvm_interrupt(0x21))
    }),
    Situation::new(Flat(kvm_debug_guest), "", |_| {
        let debug = kvm_guest_debug {
            control: kvm_sys::debug::KVM_GUESTDBG_ENABLE,
            ..Default::default()
        };
        Box::new(move |m| m.vcpu.kvm_debug_guest(&debug))
    }),
    Situation::new(Flat(kvm_get_msrs), "one", |_| get_msrs(1)),
    Situation::new(Flat(kvm_get_msrs), "many", |_| get_msrs(255)),
    Situation::new(Flat(kvm_set_msrs), "one", |_| set_msrs(1)),
    Situation::new(Flat(kvm_set_msrs), "many", |_| set_msrs(255)),
    Situation::new(Flat(kvm_set_cpuid), "", |_| {
        let cpuid = requests::cpuid(0..100);
        Box::new(move |m| m.vcpu.kvm_set_cpuid(&cpuid))
    }),
    Situation::new(Flat(kvm_set_signal_mask), "", |_| {
        let mask = SigSet::from(Signal::SIGUSR1);
        Box::new(move |m| m.vcpu.kvm_set_signal_mask(Some(&mask)))
    }),
    Situation::new(Flat(kvm_get_fpu), "", |_| {
        let mut fpu = kvm_fpu::default();
        Box::new(move |m| m.vcpu.kvm_get_fpu(&mut fpu))
    }),
    Situation::new(Flat(kvm_set_fpu), "", |m| {
        let mut fpu = kvm_fpu::default();
        m.vcpu.kvm_get_fpu(&mut fpu).unwrap();
        Box::new(move |m| m.vcpu.kvm_set_fpu(&fpu))
    }),
    Situation::new(Flat(kvm_check_extension), "", |_| {
        Box::new(|m| m.kvm.kvm_check_extension(m.vm(), 3).map(drop))
    }),
    Situation::fresh(Flat(kvm_set_user_memory_region), "new", |_| {
        let memory = GuestMemory::anonymous(SIZE as usize).unwrap();
        Box::new(move |m| own(m, FREE, 0, ADDRESS, SIZE, address(&memory)))
    }),
    Situation::fresh(Flat(kvm_set_user_memory_region), "logged", |_| {
        Box::new(|m| log(m))
    }),
    Situation::fresh(Flat(kvm_set_user_memory_region), "deleted", |_| {
        Box::new(|m| own(m, SLOT, 0, 0, 0, 0))
    }),
    Situation::fresh(Flat(kvm_set_memory_alias), "new", |_| {
        Box::new(|m| m.kvm.kvm_set_memory_alias(m.vm(), &alias()))
    }),
    Situation::fresh(Flat(kvm_set_memory_alias), "deleted", |m| {
        m.kvm.kvm_set_memory_alias(m.vm(), &alias()).unwrap();
        let gone = kvm_memory_alias::default();
        Box::new(move |m| m.kvm.kvm_set_memory_alias(m.vm(), &gone))
    }),
    Situation::new(Process(kvm_map_memory), "", |m| {
        set(m, 0, ADDRESS, SIZE).unwrap();
        Box::new(|m| map(m).map(drop))
    }),
    Situation::new(Process(kvm_map_memory), "touched", |m| {
        set(m, 0, ADDRESS, SIZE).unwrap();
        let mut memory = map(m).unwrap();
        Box::new(move |_| memory.write(0, &[1]))
    }),
    Situation::new(Merged(kvm_get_state), "", |m| {
        get_state(MergedVcpu::new(flat(), m.vcpu_fd()))
    }),
    Situation::new(Merged(kvm_get_state), "bound", |m| get_state(bound(m))),
    Situation::new(Merged(kvm_set_state), "", |m| {
        set_state(m.regs(), MergedVcpu::new(flat(), m.vcpu_fd()))
    }),
    Situation::new(Merged(kvm_set_state), "bound", |m| {
        set_state(m.regs(), bound(m))
    }),
    Situation::new(Merged(kvm_get_state), "migrated", |m| {
        let (vcpu, mut saved) = (bound(m), Migrated::room());
        Box::new(move |_| saved.get(&vcpu))
    }),
    Situation::new(Merged(kvm_set_state), "migrated", |m| {
        let (vcpu, mut saved) = (bound(m), Migrated::room());
        saved.get(&vcpu).unwrap();
        saved.sregs2.cr2 += 8;
        Box::new(move |_| saved.set(&vcpu, true))
    }),
    Situation::fresh(Range(kvm_map_range), "new", |_| {
        let memory = GuestMemory::anonymous(SIZE as usize).unwrap();
        Box::new(move |m| map_range(m, ADDRESS, 0, &memory))
    }),
    Situation::fresh(Range(kvm_map_range), "replaced", |_| {
        let memory = GuestMemory::anonymous(SIZE as usize).unwrap();
        Box::new(move |m| map_range(m, 0x4000, 0, &memory))
    }),
    Situation::fresh(Range(kvm_unmap_range), "", |_| {
        Box::new(|m| ranges(m).kvm_unmap_range(0, 0x4000, SIZE))
    }),
    // A part of a range, so that it is cut.
    Situation::fresh(Range(kvm_protect_range), "", |_| {
        // SAFETY: the guest may write to the memory anyway.
        Box::new(|m| unsafe {
            ranges(m).kvm_protect_range(0, 0x4000, SIZE, KVM_MEM_LOG_DIRTY_PAGES)
        })
    }),
    Situation::new(Range(kvm_set_memory_attributes), "", |_| {
        Box::new(|m| ranges(m).kvm_set_memory_attributes(ADDRESS, SIZE, 0))
    }),
    Situation::new(Range(kvm_get_dirty_range), "", |m| {
        let memory = GuestMemory::anonymous(SIZE as usize).unwrap();
        map_range(m, ADDRESS, KVM_MEM_LOG_DIRTY_PAGES, &memory).unwrap();
        let mut bitmap = [0];
        Box::new(move |m| {
            let _ = &memory;
            // SAFETY: it has a bit for each page.
            unsafe { ranges(m).kvm_get_dirty_range(0, ADDRESS, SIZE, &mut bitmap, 0) }
        })
    }),
    Situation::new(Range(kvm_clear_dirty_range), "", |m| {
        let memory = GuestMemory::anonymous(SIZE as usize).unwrap();
        map_range(m, ADDRESS, KVM_MEM_LOG_DIRTY_PAGES, &memory).unwrap();
        Box::new(move |m| {
            let _ = &memory;
            // SAFETY: it has a bit for each page.
            unsafe { ranges(m).kvm_clear_dirty_range(0, ADDRESS, SIZE, &[1]) }
        })
    }),
    Situation::new(Binding(kvm_bind), "", |_| {
        Box::new(|m| BoundVcpu::bind(flat(), m.vcpu()).map(drop))
    }),
    Situation::new(Binding(kvm_unbind), "", |m| {
        let mut bound = Some(bound(m));
        Box::new(move |_| {
            bound.take();
            Ok(())
        })
    }),
    Situation::new(Binding(kvm_kick), "vCPU", |_| {
        Box::new(|m| kick(flat(), m.vcpu()))
    }),
    Situation::new(Binding(kvm_kick), "thread", |m| {
        let bound = bound(m);
        let pidfd = pidfd(std::process::id()).unwrap();
        Box::new(move |_| {
            let _ = &bound;
            kick(flat(), pidfd.as_fd())
        })
    }),
    Situation::new(Process(kvm_bind_vm), "", |_| {
        Box::new(|m| BoundVm::bind(flat(), m.vm()).map(drop))
    }),
    Situation::new(Process(kvm_unbind_vm), "", |m| {
        let mut bound = Some(BoundVm::bind(flat(), m.vm()).unwrap());
        Box::new(move |_| {
            bound.take();
            Ok(())
        })
    }),
    Situation::new(Process(kvm_create_bound_vm), "", |_| {
        Box::new(|_| BoundVm::create(flat()).map(drop))
    }),
    Situation::fresh(Process(kvm_create_bound_vcpu), "", |m| {
        let bound = BoundVm::bind(flat(), m.vm()).unwrap();
        Box::new(move |_| bound.create_vcpu().map(drop))
    }),
    Situation::new(Process(kvm_bound_mmap), "", |m| {
        let vm = BoundVm::bind(flat(), m.vm()).unwrap();
        let vcpu = BoundVcpu::bind_and_close(flat(), m.vcpu_fd()).unwrap();
        Box::new(move |_| vm.map_run(&vcpu).map(drop))
    }),
];

/// The system calls, which the machine has been made with.
fn flat() -> Syscall {
    Syscall::open().expect("the machine has them")
}

/// The vCPU, bound to this thread.
fn bound(machine: &TestVm<'_>) -> BoundVcpu<OwnedFd> {
    BoundVcpu::bind(flat(), machine.vcpu_fd()).unwrap()
}

fn get_state(vcpu: impl State + 'static) -> Act {
    let (mut regs, mut msrs) = (kvm_regs::default(), msrs(255));
    Box::new(move |_| {
        let mut state = GetState::new().regs(&mut regs).msrs(&mut msrs);
        vcpu.kvm_get_state(&mut state).map(drop)
    })
}

fn set_state(regs: kvm_regs, vcpu: impl State + 'static) -> Act {
    let msrs = msrs(255);
    Box::new(move |_| {
        let state = SetState::new().regs(&regs).msrs(&msrs);
        vcpu.kvm_set_state(&state).map(drop)
    })
}

fn ranges<'m>(machine: &'m TestVm<'_>) -> RangeMemory<BorrowedFd<'m>> {
    RangeMemory::new(flat(), machine.vm())
}

fn map_range(machine: &TestVm<'_>, at: u64, flags: u32, memory: &GuestMemory) -> Result<()> {
    // SAFETY: the memory is one of the situation's, which outlives the guest's
    // last run, and nobody but the guest uses it.
    unsafe { ranges(machine).kvm_map_range(&range(at, SIZE, address(memory), flags)) }
}

/// Sets the free slot to memory that the kernel allocates.
fn set(machine: &TestVm<'_>, flags: u32, at: u64, size: u64) -> Result<()> {
    let (kvm, vm) = (machine.kvm, machine.vm());
    kvm.kvm_set_memory_region(vm, FREE, flags, at, size)
}

/// Maps the memory of the free slot.
fn map(machine: &TestVm<'_>) -> Result<GuestMemory> {
    let (kvm, vm) = (machine.kvm, machine.vm());
    kvm.kvm_map_memory(vm, ADDRESS, SIZE as usize)
}

/// Begins a dirty log of the machine's memory.
fn log(m: &TestVm<'_>) -> Result<()> {
    let flags = KVM_MEM_LOG_DIRTY_PAGES;
    own(m, SLOT, flags, 0, MEMORY as u64, address(&m.memory))
}

/// Sets a slot to memory that the caller has allocated.
fn own(
    machine: &TestVm<'_>,
    slot: u32,
    flags: u32,
    at: u64,
    size: u64,
    address: u64,
) -> Result<()> {
    let (kvm, vm) = (machine.kvm, machine.vm());
    // SAFETY: the memory is one of the situation's, which outlives the guest's
    // last run, and nobody but the guest uses it.
    unsafe { kvm.kvm_set_user_memory_region(vm, slot, flags, at, size, address) }
}

fn address(memory: &GuestMemory) -> u64 {
    memory.as_ptr().expose_provenance() as u64
}

fn alias() -> kvm_memory_alias {
    kvm_memory_alias {
        guest_phys_addr: ADDRESS,
        memory_size: 0x1000,
        target_phys_addr: 0x2000,
        ..Default::default()
    }
}

fn msrs(count: usize) -> Msrs {
    requests::msrs(iter::repeat_n((MSR, 8), count))
}

fn get_msrs(count: usize) -> Act {
    let mut msrs = msrs(count);
    Box::new(move |m| m.vcpu.kvm_get_msrs(&mut msrs).map(drop))
}

fn set_msrs(count: usize) -> Act {
    let msrs = msrs(count);
    Box::new(move |m| m.vcpu.kvm_set_msrs(&msrs).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_has_a_situation() {
        for call in TestedCall::all() {
            let mut situations = ALL.iter().filter(|situation| situation.call == call);
            assert!(
                situations.any(|situation| situation.forms().next().is_some()),
                "{}",
                call.name
            );
        }
    }
}
