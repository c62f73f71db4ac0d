//! The steps of a sequence: a call each, or what makes one worth while.

mod generate;

use serde::{Deserialize, Serialize};

pub use self::generate::{Hints, PAGES, SLOTS, any_step};
use super::model::guest::Program;

/// A step, and by which interface the machine is to take it that has both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    pub step: Step,
    pub flat: bool,
}

/// How much room a list of MSRs has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Room {
    One,
    OneLess,
    Enough,
}

/// A file descriptor that is not what the call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wrong {
    Closed,
    Pipe,
    /// A vcpu for a VM, a VM for a vcpu.
    Kind,
    /// Another process'.
    Foreign,
}

/// Where a structure is pointed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pointer {
    Null,
    Unmapped,
    ReadOnly,
    /// To the end of a page; the next one is mapped.
    Straddling,
    /// To the end of a page; the next one is not mapped.
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
    /// Makes another machine; `full` says that no file may be opened any more.
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
    /// Puts a program into a page, and the vcpu before it.
    Start {
        vcpu: usize,
        page: u64,
        program: Program,
    },
    /// Has an interrupt handled by the program of a page.
    Vector {
        vector: u8,
        page: u64,
    },
    /// `data` is what the guest reads if it waits for that. A signal that is
    /// blocked may be pending.
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
    /// `bad` says that it is a state that no processor can be in.
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
    /// So many times the same MSR.
    ManyMsrs {
        vcpu: usize,
        count: usize,
    },
    SetCpuid {
        vcpu: usize,
        functions: Vec<u32>,
    },
    /// So many times the same function.
    ManyCpuid {
        vcpu: usize,
        count: usize,
    },
    SetSignalMask {
        vcpu: usize,
        /// Whether to block the signal that the tests send; `None` for no mask.
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
    /// A call of the trait, by its place among those that take a descriptor.
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
