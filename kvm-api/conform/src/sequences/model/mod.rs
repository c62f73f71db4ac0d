//! The model: the result of each step, and its effect on the machine, in plain
//! Rust.

pub mod guest;
pub mod memory;
mod vcpu;

use kvm_api::Errno::{self, *};
use kvm_api::kvm_sys::{Fd, kvm_memory_alias, kvm_regs};

use self::guest::{Cpu, GuestExit, PROGRAM_AT};
use self::memory::{Memory, Owner, PAGE, Place};
use super::facts::Facts;
use super::machine::traits::OF_TRAIT;

use super::steps::{Hints, PAGES, Room, SLOTS, Step, Wrong};

/// The result of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Nothing,
    Number(u64),
    Numbers(Vec<u64>),
    Alias(kvm_memory_alias),
    Exit(GuestExit),
    /// A result that the model does not know. The machines must agree on it.
    Unknown,
    /// The dirty pages; for the model, also the pages that may be dirty.
    Dirty(u64, u64),
}

pub type StepResult = Result<Value, Errno>;

/// Whether the result of a machine is that of the model.
pub fn agree(expected: &StepResult, answer: &StepResult) -> bool {
    match (expected, answer) {
        (Ok(Value::Dirty(are, may)), Ok(Value::Dirty(dirty, _))) => {
            are & !dirty == 0 && dirty & !may == 0
        }
        (Ok(Value::Unknown), answer) => answer.is_ok(),
        _ => expected == answer,
    }
}

const DONE: StepResult = Ok(Value::Nothing);

/// The machine as it should be.
#[derive(Clone, Debug)]
pub struct Model {
    pub memory: Memory,
    pub vcpus: Vec<Cpu>,
    /// The result of the last step.
    pub answer: StepResult,
}

/// The maximum number of vCPUs of a sequence.
pub const VCPUS: usize = 3;

impl Model {
    /// A machine with one vCPU, and with memory of the caller.
    pub fn new() -> Self {
        let facts = Facts::get();
        let mut memory = Memory::new(facts.slots);
        let [slot, flags, address, size, offset] = FIRST_REGION;
        memory
            .set_user(slot as u32, flags as u32, address, size, offset)
            .expect("the first region can be set");
        Self {
            memory,
            vcpus: vec![Cpu::new(facts)],
            answer: DONE,
        }
    }

    /// A machine without memory or vCPUs.
    pub fn without_machine() -> Self {
        Self {
            memory: Memory::new(Facts::get().slots),
            vcpus: Vec::new(),
            answer: DONE,
        }
    }

    /// Whether the model knows the effect of the step. Steps may not change a
    /// guest between an exit and its completion, and guests may only run
    /// programs.
    pub fn knows(&self, step: &Step) -> bool {
        let idle = |vcpu: usize| self.vcpus.get(vcpu).is_some_and(|it| it.pending.is_none());
        match *step {
            Step::CreateVcpu { full } => full || self.vcpus.len() < VCPUS,
            Step::SetUserMemoryRegion { slot, size: 0, .. } => !self.memory.is_aliased(slot),
            Step::Start { vcpu, page, .. } => {
                let at = page * PAGE + PROGRAM_AT;
                idle(vcpu) && self.memory.place(at).is_some()
            }
            Step::Vector { .. } => self.memory.place(0).is_some(),
            Step::Run { .. } => self.clone().run(step).is_some(),
            Step::SetRegs { vcpu, .. }
            | Step::SetSregs { vcpu, .. }
            | Step::DebugGuest { vcpu, .. }
            | Step::WrongPointer { vcpu, .. } => idle(vcpu),
            _ => self
                .vcpu_of(step)
                .is_none_or(|vcpu| vcpu < self.vcpus.len()),
        }
    }

    pub fn hints(&self) -> Hints {
        let vcpus = self.vcpus.len();
        let runs = |vcpu: &usize| {
            self.knows(&Step::Run {
                vcpu: *vcpu,
                data: 0,
                signal: false,
                immediate_exit: false,
            })
        };
        let pages = |is: fn(Owner) -> bool| {
            let behind = |page: &u64| self.memory.place(page * PAGE);
            let pages = 0..PAGES;
            pages
                .filter(|page| behind(page).is_some_and(|place| is(place.owner)))
                .collect()
        };
        Hints {
            vcpus,
            ready: (0..vcpus).filter(runs).collect(),
            backed: pages(|_| true),
            kernel: pages(|owner| owner != Owner::Pool),
            slots: (0..SLOTS)
                .filter(|slot| self.memory.is_set(*slot))
                .collect(),
        }
    }

    fn vcpu_of(&self, step: &Step) -> Option<usize> {
        match *step {
            Step::GetRegs { vcpu }
            | Step::GetSregs { vcpu }
            | Step::Translate { vcpu, .. }
            | Step::Interrupt { vcpu, .. }
            | Step::GetMsrs { vcpu, .. }
            | Step::SetMsrs { vcpu, .. }
            | Step::ManyMsrs { vcpu, .. }
            | Step::SetCpuid { vcpu, .. }
            | Step::ManyCpuid { vcpu, .. }
            | Step::SetSignalMask { vcpu, .. }
            | Step::GetFpu { vcpu }
            | Step::SetFpu { vcpu, .. } => Some(vcpu),
            _ => None,
        }
    }

    fn run(&mut self, step: &Step) -> Option<StepResult> {
        let Step::Run {
            vcpu,
            data,
            signal,
            immediate_exit,
        } = *step
        else {
            return None;
        };
        let cpu = self.vcpus.get_mut(vcpu)?;
        let interrupted = signal && cpu.mask == Some(false);
        let exit = cpu.run(&mut self.memory, data, interrupted || immediate_exit)?;
        Some(exit.map(Value::Exit).ok_or(EINTR))
    }

    /// Takes a step.
    pub fn take(&mut self, step: &Step) {
        self.answer = self.step(step);
    }

    fn step(&mut self, step: &Step) -> StepResult {
        let facts = Facts::get();
        match *step {
            Step::CreateVm { full } if full => Err(EMFILE),
            Step::CreateVm { .. } => DONE,
            Step::CreateVcpu { full } if full => Err(EMFILE),
            Step::CreateVcpu { .. } => {
                self.vcpus.push(Cpu::new(facts));
                DONE
            }
            Step::MsrIndexList { room: Room::Enough } => {
                let numbers = facts.msrs.iter().map(|&msr| msr.into());
                Ok(Value::Numbers(numbers.collect()))
            }
            Step::MsrIndexList { .. } => Err(E2BIG),
            Step::VcpuMmapSize => Ok(Value::Number(facts.mmap_size as u64)),
            Step::CheckExtension { extension } => {
                Ok(Value::Number(facts.extensions[&extension] as u64))
            }
            Step::SetMemoryRegion {
                slot,
                flags,
                address,
                size,
            } => done(self.memory.set_kernel(slot, flags, address, size)),
            Step::SetUserMemoryRegion {
                slot,
                flags,
                address,
                size,
                offset,
            } => done(self.memory.set_user(slot, flags, address, size, offset)),
            Step::SetMemoryAlias { .. } => done(self.memory.set_alias(&alias_of(step))),
            Step::GetMemoryAlias { slot } => self.memory.alias(slot).map(Value::Alias),
            Step::MapMemory { address, size } => done(self.memory.map(address, size).map(drop)),
            Step::GetDirtyLog { slot } => {
                let pages = self.memory.dirty_log(slot)?;
                Ok(Value::Dirty(pages.0, pages.1))
            }
            Step::Start {
                vcpu,
                page,
                program,
            } => {
                let at = page * PAGE + PROGRAM_AT;
                let place = self.memory.place(at).expect("it is known");
                self.memory.put(place, &program.bytes());
                let cpu = &mut self.vcpus[vcpu];
                cpu.cs = 0;
                cpu.set_regs(regs_at(at, &cpu.regs));
                DONE
            }
            Step::Vector { vector, page } => {
                let place = self.memory.place(0).expect("it is known");
                let at = Place {
                    offset: place.offset + u64::from(vector) * 4,
                    ..place
                };
                self.memory.put(at, &entry(page));
                DONE
            }
            Step::Run { .. } => self.run(step).expect("it is known"),
            Step::WrongFd { call, fd } => Err(wrong_fd(call, fd)),
            _ => self.of_vcpu(step),
        }
    }
}

/// The slot, flags, address, size and offset in the pool of a machine's initial
/// memory.
pub const FIRST_REGION: [u64; 5] = [0, 1, 0, 2 * PAGE, 0];

/// The function that [`Step::ManyCpuid`] repeats.
pub const MANY_FUNCTION: u32 = 0x4000_0200;

/// Registers at the start of a program, with a stack. The others remain.
pub fn regs_at(rip: u64, regs: &kvm_regs) -> kvm_regs {
    kvm_regs {
        rip,
        rsp: 0x1800,
        rflags: 2,
        ..*regs
    }
}

/// An entry of the interrupt vector table: the program of a page.
pub fn entry(page: u64) -> [u8; 4] {
    ((page * PAGE + PROGRAM_AT) as u32).to_le_bytes()
}

pub fn alias_of(step: &Step) -> kvm_memory_alias {
    let Step::SetMemoryAlias {
        slot,
        flags,
        address,
        size,
        target,
    } = *step
    else {
        unreachable!("{step:?} sets no alias");
    };
    kvm_memory_alias {
        slot,
        flags,
        guest_phys_addr: address,
        memory_size: size,
        target_phys_addr: target,
    }
}

/// The general registers, one after the other.
pub fn numbers(regs: &kvm_regs) -> Vec<u64> {
    let kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    } = *regs;
    vec![
        rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags,
    ]
}

fn done(result: Result<(), Errno>) -> StepResult {
    result.map(|()| Value::Nothing)
}

fn wrong_fd(call: usize, fd: Wrong) -> Errno {
    let on_vcpu = OF_TRAIT[call % OF_TRAIT.len()].call.fd == Fd::Vcpu;
    match fd {
        Wrong::Closed => EBADF,
        Wrong::Pipe => ENOTTY,
        Wrong::Kind if on_vcpu => ENOTTY,
        Wrong::Kind => EINVAL,
        Wrong::Foreign => EIO,
    }
}
