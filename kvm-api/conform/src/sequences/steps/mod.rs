//! The steps of a sequence: calls, and preparations for them.

mod generate;

use serde::{Deserialize, Serialize};

pub use self::generate::{Hints, PAGES, SLOTS, any_step};
use super::model::guest::Program;

/// A step, and the interface by which the mixed machine takes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    pub step: Step,
    pub flat: bool,
}

/// The room in a list of MSRs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Room {
    One,
    OneLess,
    Enough,
}

/// A file descriptor of the wrong kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wrong {
    Closed,
    Pipe,
    /// A vcpu for a VM, a VM for a vcpu.
    Kind,
    /// Of another process.
    Foreign,
}

/// The place of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// A call on a vcpu that takes a pointer to registers and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Registers {
    GetRegs,
    SetRegs,
    GetSregs,
    SetSregs,
    GetFpu,
    SetFpu,
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
    MsrIndexList {
        room: Room,
    },
    VcpuMmapSize,
    CheckExtension {
        extension: u32,
    },
    SetMemoryRegion {
        slot: u32,
        flags: u32,
        address: u64,
        size: u64,
    },
    /// Memory of the pool, from `offset` on.
    SetUserMemoryRegion {
        slot: u32,
        flags: u32,
        address: u64,
        size: u64,
        offset: u64,
    },
    SetMemoryAlias {
        slot: u32,
        flags: u32,
        address: u64,
        size: u64,
        target: u64,
    },
    GetMemoryAlias {
        slot: u32,
    },
    MapMemory {
        address: u64,
        size: u64,
    },
    GetDirtyLog {
        slot: u32,
    },
    /// Loads a program into a page, and sets the vCPU's RIP to it.
    Start {
        vcpu: usize,
        page: u64,
        program: Program,
    },
    /// Makes the program of a page the handler of an interrupt.
    Vector {
        vector: u8,
        page: u64,
    },
    /// `data` is the result of a pending read. A blocked signal may be pending.
    Run {
        vcpu: usize,
        data: u8,
        signal: bool,
        immediate_exit: bool,
    },
    GetRegs {
        vcpu: usize,
    },
    SetRegs {
        vcpu: usize,
        rax: u64,
        rbx: u64,
        rcx: u64,
        page: u64,
    },
    GetSregs {
        vcpu: usize,
    },
    /// `bad`: a state that is invalid for any processor.
    SetSregs {
        vcpu: usize,
        ds: u16,
        cr2: u64,
        bad: bool,
    },
    Translate {
        vcpu: usize,
        address: u64,
    },
    Interrupt {
        vcpu: usize,
        irq: u32,
    },
    DebugGuest {
        vcpu: usize,
        single_step: bool,
    },
    GetMsrs {
        vcpu: usize,
        indices: Vec<u32>,
    },
    SetMsrs {
        vcpu: usize,
        entries: Vec<(u32, u32)>,
    },
    /// The same MSR, `count` times.
    ManyMsrs {
        vcpu: usize,
        count: usize,
    },
    SetCpuid {
        vcpu: usize,
        functions: Vec<u32>,
    },
    /// The same function, `count` times.
    ManyCpuid {
        vcpu: usize,
        count: usize,
    },
    SetSignalMask {
        vcpu: usize,
        /// Whether to block the tests' signal. `None` removes the mask.
        mask: Option<bool>,
    },
    GetFpu {
        vcpu: usize,
    },
    SetFpu {
        vcpu: usize,
        fcw: u16,
        xmm: u8,
    },
    /// A call of the trait, by its index among those that take a descriptor.
    WrongFd {
        call: usize,
        fd: Wrong,
    },
    WrongPointer {
        vcpu: usize,
        call: Registers,
        pointer: Pointer,
    },
}
