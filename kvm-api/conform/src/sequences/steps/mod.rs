//! The steps of a sequence: calls, and preparations for them.

mod generate;

use clap::ValueEnum;
use kvm_api::kvm_sys::FlatCall;
use serde::{Deserialize, Serialize};

pub use self::generate::{Hints, PAGES, SLOTS, any_step};
use super::model::guest::Program;
use super::region::Region;

/// A step, and the interface by which the mixed machine takes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    pub step: Step,
    pub flat: bool,
}

/// The room in a list of MSRs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Room {
    One,
    OneLess,
    Enough,
}

/// A file descriptor of the wrong kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Wrong {
    Closed,
    Pipe,
    /// A vCPU for a VM, a VM for a vCPU.
    Kind,
    /// Of a VM of another process.
    Foreign,
}

/// The place of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Pointer {
    Null,
    Unmapped,
    ReadOnly,
    /// At the end of a page. The next page is mapped.
    Straddling,
    /// At the end of a page. The next page is not mapped.
    HalfMapped,
    Odd,
}

/// A call on a vCPU that takes a pointer to registers and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Registers {
    GetRegs,
    SetRegs,
    GetSregs,
    SetSregs,
    GetFpu,
    SetFpu,
}

impl Registers {
    pub fn call(self) -> FlatCall {
        match self {
            Self::GetRegs => FlatCall::kvm_get_regs,
            Self::SetRegs => FlatCall::kvm_set_regs,
            Self::GetSregs => FlatCall::kvm_get_sregs,
            Self::SetSregs => FlatCall::kvm_set_sregs,
            Self::GetFpu => FlatCall::kvm_get_fpu,
            Self::SetFpu => FlatCall::kvm_set_fpu,
        }
    }

    /// The call that reads the same registers.
    pub fn getter(self) -> Self {
        match self {
            Self::GetRegs | Self::SetRegs => Self::GetRegs,
            Self::GetSregs | Self::SetSregs => Self::GetSregs,
            Self::GetFpu | Self::SetFpu => Self::GetFpu,
        }
    }

    /// Whether the call sets the registers.
    pub fn sets(self) -> bool {
        self != self.getter()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// Creates another VM. If `full`, no more files may be opened.
    CreateVm {
        full: bool,
    },
    CreateVcpu {
        full: bool,
    },
    MsrIndexList(Room),
    VcpuMmapSize,
    CheckExtension(u32),
    SetMemoryRegion(Region),
    /// Memory of the pool, from `offset` on.
    SetUserMemoryRegion {
        region: Region,
        offset: u64,
    },
    SetMemoryAlias {
        alias: Region,
        target: u64,
    },
    /// Reads the alias of this number.
    GetMemoryAlias(u32),
    MapMemory {
        address: u64,
        size: u64,
    },
    /// Fetches the dirty log of this slot.
    GetDirtyLog(u32),
    /// Makes the program of a page the handler of an interrupt.
    Vector {
        vector: u8,
        page: u64,
    },
    /// A call of the trait, by its number among the calls that take a descriptor.
    WrongFd {
        call: usize,
        fd: Wrong,
    },
    /// A step on the vCPU of this number.
    OnVcpu(usize, VcpuStep),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum VcpuStep {
    /// Loads a program into a page, and sets the vCPU's RIP to it.
    Start {
        page: u64,
        program: Program,
    },
    Run(Run),
    GetRegs,
    SetRegs {
        rax: u64,
        rbx: u64,
        rcx: u64,
        page: u64,
    },
    GetSregs,
    /// `bad`: a state that is invalid for any processor.
    SetSregs {
        ds: u16,
        cr2: u64,
        bad: bool,
    },
    Translate(u64),
    /// Queues this interrupt.
    Interrupt(u32),
    DebugGuest {
        single_step: bool,
    },
    GetMsrs(Vec<u32>),
    SetMsrs(Vec<(u32, u32)>),
    /// Reads the same MSR this number of times.
    ManyMsrs(usize),
    /// Sets these functions.
    SetCpuid(Vec<u32>),
    /// Sets the same function this number of times.
    ManyCpuid(usize),
    /// Sets whether the mask blocks the tests' signal. `None` removes the mask.
    SetSignalMask(Option<bool>),
    GetFpu,
    SetFpu {
        fcw: u16,
        xmm: u8,
    },
    WrongPointer(Registers, Pointer),
    /// Reads the parts of the state that only migration needs, and sets them, with the
    /// nested state or without.
    Migrate {
        nested: bool,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The result of a pending read.
    pub data: u8,
    /// Whether a blocked signal is pending.
    pub signal: bool,
    pub immediate_exit: bool,
}

impl Step {
    /// The call that the step makes. A call with a wrong descriptor is counted
    /// separately.
    pub fn call(&self) -> Option<&'static str> {
        let call = match self {
            Self::CreateVm { .. } => FlatCall::kvm_create_vm,
            Self::CreateVcpu { .. } => FlatCall::kvm_create_vcpu,
            Self::MsrIndexList(_) => FlatCall::kvm_get_msr_index_list,
            Self::VcpuMmapSize => FlatCall::kvm_get_vcpu_mmap_size,
            Self::CheckExtension(_) => FlatCall::kvm_check_extension,
            Self::SetMemoryRegion(_) => FlatCall::kvm_set_memory_region,
            Self::SetUserMemoryRegion { .. } => FlatCall::kvm_set_user_memory_region,
            Self::SetMemoryAlias { .. } => FlatCall::kvm_set_memory_alias,
            Self::GetMemoryAlias(_) => FlatCall::kvm_get_memory_alias,
            // The library makes it; it has no number.
            Self::MapMemory { .. } => return Some("kvm_map_memory"),
            Self::GetDirtyLog(_) => FlatCall::kvm_get_dirty_log,
            Self::OnVcpu(_, step) => step.call()?,
            Self::Vector { .. } | Self::WrongFd { .. } => return None,
        };
        Some(call.row().name)
    }
}

impl VcpuStep {
    fn call(&self) -> Option<FlatCall> {
        Some(match self {
            Self::Start { .. } | Self::Migrate { .. } => return None,
            Self::Run(_) => FlatCall::kvm_run,
            Self::GetRegs => FlatCall::kvm_get_regs,
            Self::SetRegs { .. } => FlatCall::kvm_set_regs,
            Self::GetSregs => FlatCall::kvm_get_sregs,
            Self::SetSregs { .. } => FlatCall::kvm_set_sregs,
            Self::Translate(_) => FlatCall::kvm_translate,
            Self::Interrupt(_) => FlatCall::kvm_interrupt,
            Self::DebugGuest { .. } => FlatCall::kvm_debug_guest,
            Self::GetMsrs(_) | Self::ManyMsrs(_) => FlatCall::kvm_get_msrs,
            Self::SetMsrs(_) => FlatCall::kvm_set_msrs,
            Self::SetCpuid(_) | Self::ManyCpuid(_) => FlatCall::kvm_set_cpuid,
            Self::SetSignalMask(_) => FlatCall::kvm_set_signal_mask,
            Self::GetFpu => FlatCall::kvm_get_fpu,
            Self::SetFpu { .. } => FlatCall::kvm_set_fpu,
            Self::WrongPointer(registers, _) => registers.call(),
        })
    }
}
