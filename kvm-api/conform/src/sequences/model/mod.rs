//! The model: the result of each step, and its effect on the machine, in plain
//! Rust.

pub mod guest;
pub mod memory;
mod vcpu;

use kvm_api::Errno::{self, *};
use kvm_api::kvm_sys::{Fd, kvm_memory_alias, kvm_regs};
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use self::guest::{Cpu, GuestExit, PROGRAM_AT};
use self::memory::{Memory, Owner, PAGE};
use super::facts::Facts;
use super::region::Region;
use super::steps::{Hints, PAGES, Room, Run, SLOTS, Step, Taken, VcpuStep, Wrong, any_step};
use crate::trait_calls;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Nothing,
    Number(u64),
    Numbers(Vec<u64>),
    Regs(kvm_regs),
    Alias(kvm_memory_alias),
    Exit(GuestExit),
    /// A result that the model does not know. The machines must agree on it.
    Unknown,
    /// The dirty pages; for the model, also the pages that may be dirty.
    Dirty(u64, u64),
}

impl Value {
    pub fn numbers(numbers: &[u32]) -> Self {
        Self::Numbers(numbers.iter().map(|&number| number.into()).collect())
    }
}

pub type StepResult = Result<Value, Errno>;

/// Whether the result of a machine agrees with the model.
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

/// The result of a step without a value.
pub fn done(result: Result<(), Errno>) -> StepResult {
    result.map(|()| Value::Nothing)
}

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
        let set = memory.set_user(FIRST_REGION, 0);
        set.expect("the first region can be set");
        Self {
            memory,
            vcpus: vec![Cpu::new(facts)],
            answer: DONE,
        }
    }

    /// Whether the model knows the effect of the step. Steps may not change a
    /// guest between an exit and its completion, and guests may only run
    /// programs.
    pub fn knows(&self, step: &Step) -> bool {
        match *step {
            Step::CreateVcpu { full } => full || self.vcpus.len() < VCPUS,
            Step::SetUserMemoryRegion { region, .. } if region.size == 0 => {
                !self.memory.is_aliased(region.slot)
            }
            Step::Vector { .. } => self.memory.place(0).is_some(),
            Step::OnVcpu(vcpu, ref step) => {
                let cpu = self.vcpus.get(vcpu);
                cpu.is_some_and(|cpu| self.knows_on_vcpu(cpu, step))
            }
            _ => true,
        }
    }

    pub fn hints(&self) -> Hints {
        let vcpus = self.vcpus.len();
        let run = VcpuStep::Run(Run::default());
        let runs = |vcpu: &usize| self.knows_on_vcpu(&self.vcpus[*vcpu], &run);
        let owner = |page: u64| Some(self.memory.place(page * PAGE)?.owner);
        let kernel = |page: &u64| owner(*page).is_some_and(|owner| owner != Owner::Pool);
        let is_set = |slot: &u32| self.memory.is_set(*slot);
        Hints {
            vcpus,
            ready: (0..vcpus).filter(runs).collect(),
            backed: (0..PAGES).filter(|page| owner(*page).is_some()).collect(),
            kernel: (0..PAGES).filter(kernel).collect(),
            slots: (0..SLOTS).filter(is_set).collect(),
        }
    }

    pub fn take(&mut self, step: &Step) {
        self.answer = self.step(step);
    }

    fn step(&mut self, step: &Step) -> StepResult {
        let facts = Facts::get();
        match *step {
            Step::CreateVm { full: true } | Step::CreateVcpu { full: true } => Err(EMFILE),
            Step::CreateVm { .. } => DONE,
            Step::CreateVcpu { .. } => {
                self.vcpus.push(Cpu::new(facts));
                DONE
            }
            Step::MsrIndexList(Room::Enough) => Ok(Value::numbers(&facts.msrs)),
            Step::MsrIndexList(_) => Err(E2BIG),
            Step::VcpuMmapSize => Ok(Value::Number(facts.mmap_size as u64)),
            Step::CheckExtension(extension) => {
                Ok(Value::Number(facts.extensions[&extension] as u64))
            }
            Step::SetMemoryRegion(region) => done(self.memory.set_kernel(region)),
            Step::SetUserMemoryRegion { region, offset } => {
                done(self.memory.set_user(region, offset))
            }
            Step::SetMemoryAlias { alias, target } => done(self.memory.set_alias(alias, target)),
            Step::GetMemoryAlias(slot) => self.memory.alias(slot).map(Value::Alias),
            Step::MapMemory { address, size } => done(self.memory.map(address, size).map(drop)),
            Step::GetDirtyLog(slot) => {
                let (written, used) = self.memory.dirty_log(slot)?;
                Ok(Value::Dirty(written, used))
            }
            Step::Vector { vector, page } => {
                self.memory.put(self.memory.vector(vector), &entry(page));
                DONE
            }
            Step::WrongFd { call, fd } => Err(wrong_fd(call, fd)),
            Step::OnVcpu(vcpu, ref step) => self.on_vcpu(vcpu, step),
        }
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Taken;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::new()).boxed()
    }

    fn transitions(model: &Self) -> BoxedStrategy<Taken> {
        any_step(model.hints())
    }

    fn preconditions(model: &Self, taken: &Taken) -> bool {
        model.knows(&taken.step)
    }

    fn apply(mut model: Self, taken: &Taken) -> Self {
        model.take(&taken.step);
        model
    }
}

/// A machine's initial memory, from the start of the pool on.
pub const FIRST_REGION: Region = Region {
    slot: 0,
    flags: 1,
    address: 0,
    size: 2 * PAGE,
};

/// The function that [`VcpuStep::ManyCpuid`] repeats.
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
    (program_at(page) as u32).to_le_bytes()
}

/// The address of the program of a page.
pub fn program_at(page: u64) -> u64 {
    page * PAGE + PROGRAM_AT
}

fn wrong_fd(call: usize, fd: Wrong) -> Errno {
    let on_vcpu = trait_calls::nth(call).0.fd == Fd::Vcpu;
    match fd {
        Wrong::Closed => EBADF,
        Wrong::Pipe => ENOTTY,
        Wrong::Kind if on_vcpu => ENOTTY,
        Wrong::Kind => EINVAL,
        Wrong::Foreign => EIO,
    }
}
