//! The calls into which faults are injected, in each situation in which they
//! take another path through the kernel.

use std::os::fd::AsFd;

use guests::msr::SYSENTER_CS;
use guests::{MEMORY, SLOT, TestVm, programs};
use kvm_api::{GuestMemory, Result};
use kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_sys::{
    CpuId, MsrList, Msrs, kvm_cpuid_entry2, kvm_fpu, kvm_guest_debug, kvm_memory_alias,
    kvm_msr_entry,
};
use nix::sys::signal::{SigSet, Signal};

/// Makes the call. The memory for it is allocated before.
pub type Act = Box<dyn FnMut(&mut TestVm<'_>) -> Result<()>>;

/// A call, and the state of the machine when it is made.
pub struct Situation {
    pub call: &'static str,
    /// The special condition, if any.
    pub name: &'static str,
    /// Whether an ioctl does the same.
    pub ioctl: bool,
    /// Whether the call changes the state, so that each attempt needs a new
    /// machine.
    pub fresh: bool,
    /// Brings the machine into the state, and returns the call.
    pub prepare: fn(&mut TestVm<'_>) -> Act,
}

/// A slot that is not set.
const FREE: u32 = 3;
/// The address at which memory is added.
const ADDRESS: u64 = 0x10_0000;
const SIZE: u64 = 0x4000;
/// SYSENTER_CS, which every vcpu has.
const MSR: u32 = SYSENTER_CS;

type Prepare = fn(&mut TestVm<'_>) -> Act;

impl Situation {
    /// A call that has an ioctl, and can be repeated.
    const fn new(call: &'static str, name: &'static str, prepare: Prepare) -> Self {
        Self {
            call,
            name,
            ioctl: true,
            fresh: false,
            prepare,
        }
    }

    /// No ioctl does the same.
    const fn flat(self) -> Self {
        Self {
            ioctl: false,
            ..self
        }
    }

    /// Each attempt needs a new machine.
    const fn fresh(self) -> Self {
        Self {
            fresh: true,
            ..self
        }
    }
}

/// All situations, in the order of the proposal.
pub const ALL: &[Situation] = &[
    Situation::new("kvm_create_vm", "", |_| {
        Box::new(|m| m.kvm.kvm_create_vm().map(drop))
    }),
    Situation::new("kvm_get_msr_index_list", "", |_| {
        let mut list = MsrList::new(256).unwrap();
        Box::new(move |m| m.kvm.kvm_get_msr_index_list(m.vm(), &mut list))
    }),
    Situation::new("kvm_get_vcpu_mmap_size", "", |_| {
        Box::new(|m| m.kvm.kvm_get_vcpu_mmap_size(m.vm()).map(drop))
    }),
    Situation::new("kvm_set_memory_region", "new", |_| {
        Box::new(|m| m.kvm.kvm_set_memory_region(m.vm(), FREE, 0, ADDRESS, SIZE))
    })
    .flat()
    .fresh(),
    Situation::new("kvm_set_memory_region", "moved", |m| {
        add(m, 0);
        Box::new(|m| {
            m.kvm
                .kvm_set_memory_region(m.vm(), FREE, 0, 2 * ADDRESS, SIZE)
        })
    })
    .flat()
    .fresh(),
    Situation::new("kvm_set_memory_region", "logged", |m| {
        add(m, 0);
        Box::new(|m| {
            let flags = KVM_MEM_LOG_DIRTY_PAGES;
            m.kvm
                .kvm_set_memory_region(m.vm(), FREE, flags, ADDRESS, SIZE)
        })
    })
    .flat()
    .fresh(),
    Situation::new("kvm_set_memory_region", "deleted", |m| {
        add(m, 0);
        Box::new(|m| m.kvm.kvm_set_memory_region(m.vm(), FREE, 0, 0, 0))
    })
    .flat()
    .fresh(),
    Situation::new("kvm_create_vcpu", "", |_| {
        Box::new(|m| m.kvm.kvm_create_vcpu(m.vm()).map(drop))
    })
    .fresh(),
    Situation::new("kvm_get_dirty_log", "", |m| {
        let flags = KVM_MEM_LOG_DIRTY_PAGES;
        own(m, SLOT, flags, 0, MEMORY as u64, address(&m.memory)).unwrap();
        let mut bitmap = [0; MEMORY / 0x1000 / 64 + 1];
        Box::new(move |m| {
            // SAFETY: it has a bit for each page.
            unsafe { m.kvm.kvm_get_dirty_log(m.vm(), SLOT, &mut bitmap) }
        })
    }),
    Situation::new("kvm_get_memory_alias", "", |m| {
        m.kvm.kvm_set_memory_alias(m.vm(), &alias()).unwrap();
        let mut got = kvm_memory_alias::default();
        Box::new(move |m| m.kvm.kvm_get_memory_alias(m.vm(), &mut got))
    })
    .flat(),
    Situation::new("kvm_run", "the first", |m| {
        m.load(programs::HLT);
        Box::new(|m| m.try_run().map(drop))
    })
    .fresh(),
    Situation::new("kvm_run", "", |m| {
        m.load(programs::HLT);
        m.run_to_hlt();
        m.start_at(guests::ENTRY);
        Box::new(|m| m.try_run().map(drop))
    })
    .fresh(),
    Situation::new("kvm_get_regs", "", |_| {
        let mut regs = Default::default();
        Box::new(move |m| m.kvm.kvm_get_regs(m.vcpu(), &mut regs))
    }),
    Situation::new("kvm_set_regs", "", |m| {
        let mut regs = m.regs();
        regs.rax = 0x1234;
        Box::new(move |m| m.kvm.kvm_set_regs(m.vcpu(), &regs))
    }),
    Situation::new("kvm_get_sregs", "", |_| {
        let mut sregs = Default::default();
        Box::new(move |m| m.kvm.kvm_get_sregs(m.vcpu(), &mut sregs))
    }),
    Situation::new("kvm_set_sregs", "", |m| {
        let mut sregs = m.sregs();
        sregs.cr2 = 0x1234;
        Box::new(move |m| m.kvm.kvm_set_sregs(m.vcpu(), &sregs))
    }),
    Situation::new("kvm_translate", "", |_| {
        Box::new(|m| {
            let (mut address, mut valid, mut writeable, mut usermode) = (0, 0, 0, 0);
            let (a, v, w, u) = (&mut address, &mut valid, &mut writeable, &mut usermode);
            m.kvm.kvm_translate(m.vcpu(), 0x1000, a, v, w, u)
        })
    }),
    Situation::new("kvm_interrupt", "", |_| {
        Box::new(|m| m.kvm.kvm_interrupt(m.vcpu(), 0x21))
    })
    .fresh(),
    Situation::new("kvm_debug_guest", "", |_| {
        let debug = kvm_guest_debug {
            control: kvm_sys::debug::KVM_GUESTDBG_ENABLE,
            ..Default::default()
        };
        Box::new(move |m| m.kvm.kvm_debug_guest(m.vcpu(), &debug))
    }),
    Situation::new("kvm_get_msrs", "one", |_| get_msrs(1)),
    Situation::new("kvm_get_msrs", "many", |_| get_msrs(255)),
    Situation::new("kvm_set_msrs", "one", |_| set_msrs(1)),
    Situation::new("kvm_set_msrs", "many", |_| set_msrs(255)),
    Situation::new("kvm_set_cpuid", "", |_| {
        let leaf = |function| kvm_cpuid_entry2 {
            function,
            ..Default::default()
        };
        let leaves: Vec<_> = (0..100).map(leaf).collect();
        let cpuid = CpuId::from_entries(&leaves).unwrap();
        Box::new(move |m| m.kvm.kvm_set_cpuid(m.vcpu(), &cpuid))
    }),
    Situation::new("kvm_set_signal_mask", "", |_| {
        let mask = SigSet::from(Signal::SIGUSR1);
        Box::new(move |m| m.kvm.kvm_set_signal_mask(m.vcpu(), Some(&mask)))
    }),
    Situation::new("kvm_get_fpu", "", |_| {
        let mut fpu = kvm_fpu::default();
        Box::new(move |m| m.kvm.kvm_get_fpu(m.vcpu(), &mut fpu))
    }),
    Situation::new("kvm_set_fpu", "", |m| {
        let mut fpu = kvm_fpu::default();
        m.kvm.kvm_get_fpu(m.vcpu(), &mut fpu).unwrap();
        Box::new(move |m| m.kvm.kvm_set_fpu(m.vcpu(), &fpu))
    }),
    Situation::new("kvm_check_extension", "", |_| {
        Box::new(|m| m.kvm.kvm_check_extension(m.vm(), 3).map(drop))
    }),
    Situation::new("kvm_set_user_memory_region", "new", |_| {
        let memory = GuestMemory::anonymous(SIZE as usize).unwrap();
        Box::new(move |m| own(m, FREE, 0, ADDRESS, SIZE, address(&memory)))
    })
    .fresh(),
    Situation::new("kvm_set_user_memory_region", "logged", |_| {
        Box::new(move |m| {
            let flags = KVM_MEM_LOG_DIRTY_PAGES;
            own(m, SLOT, flags, 0, MEMORY as u64, address(&m.memory))
        })
    })
    .fresh(),
    Situation::new("kvm_set_user_memory_region", "deleted", |_| {
        Box::new(|m| own(m, SLOT, 0, 0, 0, 0))
    })
    .fresh(),
    Situation::new("kvm_set_memory_alias", "new", |_| {
        Box::new(|m| m.kvm.kvm_set_memory_alias(m.vm(), &alias()))
    })
    .flat()
    .fresh(),
    Situation::new("kvm_set_memory_alias", "deleted", |m| {
        m.kvm.kvm_set_memory_alias(m.vm(), &alias()).unwrap();
        let gone = kvm_memory_alias::default();
        Box::new(move |m| m.kvm.kvm_set_memory_alias(m.vm(), &gone))
    })
    .flat()
    .fresh(),
    Situation::new("kvm_map_memory", "", |m| {
        add(m, 0);
        Box::new(|m| {
            m.kvm
                .kvm_map_memory(m.vm(), ADDRESS, SIZE as usize)
                .map(drop)
        })
    })
    .flat(),
    Situation::new("kvm_map_memory", "touched", |m| {
        add(m, 0);
        let memory = m.kvm.kvm_map_memory(m.vm(), ADDRESS, SIZE as usize);
        let mut memory = memory.unwrap();
        Box::new(move |_| memory.write(0, &[1]))
    })
    .flat(),
];

/// Adds memory that the kernel allocates.
fn add(machine: &TestVm<'_>, flags: u32) {
    let (kvm, vm) = (machine.kvm, machine.vm());
    kvm.kvm_set_memory_region(vm, FREE, flags, ADDRESS, SIZE)
        .unwrap();
}

/// Sets memory that the caller has allocated.
fn own(
    machine: &TestVm<'_>,
    slot: u32,
    flags: u32,
    guest_phys_addr: u64,
    size: u64,
    address: u64,
) -> Result<()> {
    let vm = machine.vm.as_fd();
    // SAFETY: the memory is one of the situation's, which outlives the guest's
    // last run, and nobody but the guest uses it.
    unsafe {
        machine
            .kvm
            .kvm_set_user_memory_region(vm, slot, flags, guest_phys_addr, size, address)
    }
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
    let entry = kvm_msr_entry {
        index: MSR,
        data: 8,
        ..Default::default()
    };
    Msrs::from_entries(&vec![entry; count]).unwrap()
}

fn get_msrs(count: usize) -> Act {
    let mut msrs = msrs(count);
    Box::new(move |m| m.kvm.kvm_get_msrs(m.vcpu(), &mut msrs).map(drop))
}

fn set_msrs(count: usize) -> Act {
    let msrs = msrs(count);
    Box::new(move |m| m.kvm.kvm_set_msrs(m.vcpu(), &msrs).map(drop))
}
