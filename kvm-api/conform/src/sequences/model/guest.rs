//! A model of the processor, for the few instructions of the guests' programs.

use guests::msr::SYSENTER_CS;
use guests::programs;
use kvm_api::kvm_sys::kvm_regs;
use kvm_api::{Direction, Reason};
use serde::{Deserialize, Serialize};

use super::memory::Memory;
use crate::sequences::facts::Facts;

const OUT_PORT: u8 = programs::OUT_PORT as u8;

const CARRY: u64 = 1 << 0;
const PARITY: u64 = 1 << 2;
const ADJUST: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const OVERFLOW: u64 = 1 << 11;
const INTERRUPTS: u64 = 1 << 9;
const ARITHMETIC: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;
/// The flags that an interrupt clears: trap, interrupt, resume, and alignment
/// check.
const MASKED: u64 = 1 << 8 | INTERRUPTS | 1 << 16 | 1 << 18;
/// The flags that a program can set from the stack.
const POPPED: u64 = 0x7fd5;

/// The offset of the program in a page.
pub const PROGRAM_AT: u64 = 0x800;

/// A program for real mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    Halt,
    Nops,
    Store {
        address: u16,
        value: u8,
    },
    /// Loads a byte, and writes it to a port.
    Load {
        address: u16,
    },
    /// Reads a byte from a port, and writes its successor to another.
    In,
    Out {
        value: u8,
    },
    Add,
    /// Increments the MSR whose number is in ECX.
    IncrementMsr,
    /// Returns from an interrupt.
    Return,
}

impl Program {
    pub fn bytes(self) -> Vec<u8> {
        let [low, high] = match self {
            Self::Store { address, .. } | Self::Load { address } => address.to_le_bytes(),
            _ => [0, 0],
        };
        match self {
            Self::Halt => programs::HLT.to_vec(),
            Self::Nops => programs::NOPS.to_vec(),
            Self::Store { value, .. } => vec![0xc6, 0x06, low, high, value, 0xf4],
            Self::Load { .. } => vec![0xa0, low, high, 0xe6, OUT_PORT, 0xf4],
            Self::In => programs::IN.to_vec(),
            Self::Out { value } => vec![0xb0, value, 0xe6, OUT_PORT, 0xf4],
            Self::Add => programs::ADD.to_vec(),
            Self::IncrementMsr => vec![0x0f, 0x32, 0x66, 0x40, 0x0f, 0x30, 0xf4],
            Self::Return => vec![0xcf],
        }
    }
}

/// An exit, and its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestExit {
    pub reason: Reason,
    pub data: Vec<u8>,
}

impl GuestExit {
    /// An exit with the bytes that the guest has written, if any.
    fn new(reason: Reason, written: impl IntoIterator<Item = u8>) -> Self {
        let data = written.into_iter().collect();
        Self { reason, data }
    }
}

/// The access that the next run must complete first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    In,
    Out,
    Load,
    Store,
}

/// The SYSENTER MSRs: CS, ESP and EIP, from this number on.
pub const MSRS: u32 = SYSENTER_CS;

#[derive(Clone, Debug)]
pub struct Cpu {
    pub regs: kvm_regs,
    pub cs: u16,
    pub ds: u16,
    pub cr2: u64,
    pub msrs: [u64; 3],
    pub pending: Option<Pending>,
    pub interrupt: Option<u8>,
    /// Single-step mode, since the instruction at this linear address.
    pub single_step: Option<u64>,
    /// Whether the trap flag is set for single steps. KVM loses it when the
    /// registers are set at another instruction.
    trap: bool,
    pub entered: bool,
    /// The functions of CPUID.
    pub cpuid: Vec<u32>,
    /// Whether the signal mask of the vCPU blocks the tests' signals, if it has
    /// a mask.
    pub mask: Option<bool>,
    /// The control word of the FPU, and a byte of an SSE register, until the
    /// next run. KVM_SET_FPU does not mark them as used, so the processor
    /// decides whether the guest gets them.
    pub fpu: Option<(u16, u8)>,
}

/// Whether to continue.
enum Flow {
    On,
    Exit(GuestExit),
}

/// More instructions than any program takes to its next exit.
const MANY: usize = 64;

impl Cpu {
    /// A new vCPU, with its code segment at 0.
    pub fn new(facts: &Facts) -> Self {
        Self {
            regs: facts.regs,
            cs: 0,
            ds: 0,
            cr2: 0,
            msrs: [0; 3],
            pending: None,
            interrupt: None,
            single_step: None,
            trap: false,
            entered: false,
            cpuid: Vec::new(),
            mask: None,
            fpu: Some((facts.fcw, 0)),
        }
    }

    /// Continues the last run. `data` is the result of a pending read; with
    /// `stop`, the run ends before it enters the guest. Returns `None` if the
    /// model does not know the outcome.
    pub fn run(&mut self, memory: &mut Memory, data: u8, stop: bool) -> Option<Option<GuestExit>> {
        self.fpu = None;
        match self.pending.take() {
            Some(Pending::In) => {
                self.set_al(data);
                self.regs.rip += 2;
            }
            Some(Pending::Out) => self.regs.rip += 2,
            Some(Pending::Load) => {
                self.set_al(data);
                self.regs.rip += 3;
            }
            Some(Pending::Store) | None => {}
        }
        if stop {
            return Some(None);
        }
        self.entered = true;
        if let Some(vector) = self.interrupt.take() {
            self.deliver(memory, vector)?;
        }
        for _ in 0..MANY {
            if let Flow::Exit(exit) = self.instruction(memory)? {
                return Some(Some(exit));
            }
            if self.trap {
                let reason = Reason::Debug {
                    exception: 1,
                    pc: self.linear(),
                    dr6: 0xffff_4ff0,
                    dr7: 0x400,
                };
                return Some(Some(GuestExit::new(reason, [])));
            }
        }
        None
    }

    fn linear(&self) -> u64 {
        u64::from(self.cs) * 16 + self.regs.rip
    }

    /// Enables or disables single-step mode.
    pub fn debug(&mut self, single_step: bool) {
        self.single_step = single_step.then(|| self.linear());
        self.trap = single_step;
    }

    /// Sets the registers, including the flags.
    pub fn set_regs(&mut self, regs: kvm_regs) {
        self.regs = regs;
        self.trap = self.single_step == Some(self.linear());
    }

    fn set_al(&mut self, value: u8) {
        self.regs.rax = self.regs.rax & !0xff | u64::from(value);
    }

    fn fetch(&self, memory: &mut Memory, offset: u64) -> Option<u8> {
        memory.read(self.linear() + offset)
    }

    fn instruction(&mut self, memory: &mut Memory) -> Option<Flow> {
        let bytes = |memory: &mut Memory, at: u64| {
            let low = self.fetch(memory, at)?;
            let high = self.fetch(memory, at + 1)?;
            Some(u64::from(u16::from_le_bytes([low, high])))
        };
        let data = u64::from(self.ds) * 16;
        let opcode = self.fetch(memory, 0)?;
        // Instructions that exit or are emulated do not end a single step like
        // the others.
        let plain = [0x90, 0x01, 0xb0].contains(&opcode);
        let emulated = [0xa0, 0xc6].contains(&opcode);
        if self.trap && !plain || self.single_step.is_some() && emulated {
            return None;
        }
        let length = match opcode {
            0x01 if self.fetch(memory, 1)? == 0xcb => {
                let (bx, cx) = (self.regs.rbx as u16, self.regs.rcx as u16);
                let sum = bx.wrapping_add(cx);
                self.regs.rbx = self.regs.rbx & !0xffff | u64::from(sum);
                self.regs.rflags = self.regs.rflags & !ARITHMETIC
                    | result_flags(sum.into(), 16)
                    | flag(CARRY, sum < bx)
                    | flag(OVERFLOW, (sum ^ bx) & (sum ^ cx) & 0x8000 != 0)
                    | flag(ADJUST, (sum ^ bx ^ cx) & 0x10 != 0);
                2
            }
            0x0f => match self.fetch(memory, 1)? {
                0x32 => {
                    let value = *self.msr()?;
                    self.regs.rax = value & 0xffff_ffff;
                    self.regs.rdx = value >> 32;
                    2
                }
                0x30 => {
                    let (low, high) = (self.regs.rax as u32, self.regs.rdx as u32);
                    *self.msr()? = u64::from(high) << 32 | u64::from(low);
                    2
                }
                _ => return None,
            },
            // inc %eax
            0x66 if self.fetch(memory, 1)? == 0x40 => {
                let sum = (self.regs.rax as u32).wrapping_add(1);
                self.regs.rax = sum.into();
                self.incremented(sum.into(), 32);
                2
            }
            0x90 => 1,
            0xa0 => {
                let address = data + bytes(memory, 1)?;
                let Some(value) = memory.read(address) else {
                    self.pending = Some(Pending::Load);
                    return Some(mmio(address, None));
                };
                self.set_al(value);
                3
            }
            0xb0 => {
                let value = self.fetch(memory, 1)?;
                self.set_al(value);
                2
            }
            // movb $imm8,addr16
            0xc6 if self.fetch(memory, 1)? == 0x06 => {
                let address = data + bytes(memory, 2)?;
                let value = self.fetch(memory, 4)?;
                if memory.write(address, value).is_none() {
                    self.regs.rip += 5;
                    self.pending = Some(Pending::Store);
                    return Some(mmio(address, Some(value)));
                }
                5
            }
            0xcf => {
                self.go_back(memory)?;
                0
            }
            0xe4 => {
                self.pending = Some(Pending::In);
                let port = self.fetch(memory, 1)?;
                return Some(io(Direction::In, port, None));
            }
            0xe6 => {
                self.pending = Some(Pending::Out);
                let port = self.fetch(memory, 1)?;
                return Some(io(Direction::Out, port, Some(self.regs.rax as u8)));
            }
            0xf4 => {
                self.regs.rip += 1;
                return Some(Flow::Exit(GuestExit::new(Reason::Hlt, [])));
            }
            // inc %al
            0xfe if self.fetch(memory, 1)? == 0xc0 => {
                let sum = (self.regs.rax as u8).wrapping_add(1);
                self.set_al(sum);
                self.incremented(sum.into(), 8);
                2
            }
            _ => return None,
        };
        self.regs.rip += length;
        Some(Flow::On)
    }

    fn incremented(&mut self, sum: u64, bits: u32) {
        self.regs.rflags = self.regs.rflags & !(ARITHMETIC & !CARRY)
            | result_flags(sum, bits)
            | flag(OVERFLOW, sum == 1 << (bits - 1))
            | flag(ADJUST, sum & 0xf == 0);
    }

    /// The MSR whose number is in ECX.
    fn msr(&mut self) -> Option<&mut u64> {
        let index = (self.regs.rcx as u32).checked_sub(MSRS)?;
        // The width of the others depends on the vendor in CPUID.
        (index == 0).then_some(&mut self.msrs[0])
    }

    /// Enters the interrupt's handler.
    fn deliver(&mut self, memory: &mut Memory, vector: u8) -> Option<()> {
        if self.single_step.is_some() {
            return None;
        }
        for value in [self.regs.rflags as u16, self.cs, self.regs.rip as u16] {
            let sp = (self.regs.rsp as u16).checked_sub(2)?;
            self.regs.rsp = self.regs.rsp & !0xffff | u64::from(sp);
            for (address, byte) in (u64::from(sp)..).zip(value.to_le_bytes()) {
                memory.write(address, byte)?;
            }
        }
        let entry = u64::from(vector) * 4;
        self.regs.rip = memory.read_word(entry)?.into();
        self.cs = memory.read_word(entry + 2)?;
        self.regs.rflags &= !MASKED;
        Some(())
    }

    /// Returns to the interrupted instruction.
    fn go_back(&mut self, memory: &mut Memory) -> Option<()> {
        let sp = self.regs.rsp & 0xffff;
        if sp > 0xfffa {
            return None;
        }
        self.regs.rip = memory.read_word(sp)?.into();
        self.cs = memory.read_word(sp + 2)?;
        let flags = u64::from(memory.read_word(sp + 4)?);
        self.regs.rflags = self.regs.rflags & !POPPED | flags & POPPED | 2;
        self.regs.rsp = self.regs.rsp & !0xffff | (sp + 6);
        Some(())
    }
}

fn flag(flag: u64, is: bool) -> u64 {
    if is { flag } else { 0 }
}

/// The flags that depend on the result alone.
fn result_flags(result: u64, bits: u32) -> u64 {
    flag(ZERO, result == 0)
        | flag(SIGN, result >> (bits - 1) & 1 != 0)
        | flag(PARITY, (result as u8).count_ones().is_multiple_of(2))
}

fn io(direction: Direction, port: u8, written: Option<u8>) -> Flow {
    let reason = Reason::Io {
        direction,
        port: port.into(),
        size: 1,
        count: 1,
    };
    Flow::Exit(GuestExit::new(reason, written))
}

fn mmio(phys_addr: u64, written: Option<u8>) -> Flow {
    let reason = Reason::Mmio {
        phys_addr,
        len: 1,
        is_write: written.is_some(),
    };
    Flow::Exit(GuestExit::new(reason, written))
}
