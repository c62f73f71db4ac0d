//! The model: vCPUs that tasks bind, run and lose, in plain Rust.

use kvm_api::{Errno, Result};
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use super::program::{JMP, OUT, START};
use super::steps::{Action, By, Kicked, Step, VCPUS, VMS, any_step};

#[derive(Clone, Copy, Debug)]
pub struct ModelVcpu {
    /// The task to which it is bound.
    pub task: Option<usize>,
    /// Whether the next run must return at once.
    kicked: bool,
    /// Whether the next run must complete the exit of the OUT.
    pending: bool,
    pub rip: u64,
    pub bx: u16,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub vcpus: [ModelVcpu; VCPUS],
    /// The VM that is bound to the address space.
    pub vm: Option<usize>,
    /// How many pages ranges have added to the memory of each VM.
    pub pages: [u64; VMS],
    /// The result of the last step.
    pub answer: Result<()>,
}

impl ModelVcpu {
    /// Runs to the next exit, or returns at once.
    fn run(&mut self) -> Result<()> {
        if std::mem::take(&mut self.pending) && self.rip == OUT {
            self.rip = JMP;
        }
        if std::mem::take(&mut self.kicked) {
            return Err(Errno::EINTR);
        }
        if self.rip != OUT {
            self.bx = self.bx.wrapping_add(1);
        }
        self.rip = OUT;
        self.pending = true;
        Ok(())
    }

    /// A kick stays until a run has taken it.
    fn unbind(&mut self) {
        self.task = None;
    }
}

impl Model {
    pub fn new() -> Self {
        let vcpu = ModelVcpu {
            task: None,
            kicked: false,
            pending: false,
            rip: START,
            bx: 0,
        };
        Self {
            vcpus: [vcpu; VCPUS],
            vm: None,
            pages: [0; VMS],
            answer: Ok(()),
        }
    }

    /// The vCPU that is bound to a task.
    pub fn bound_to(&self, task: usize) -> Option<usize> {
        self.vcpus.iter().position(|vcpu| vcpu.task == Some(task))
    }

    /// The vCPU that a task names.
    pub fn named(&self, task: usize, by: By) -> Option<usize> {
        match by {
            By::Binding => self.bound_to(task),
            By::Ioctl(vcpu) | By::Syscall(vcpu) => Some(vcpu),
        }
    }

    /// The vCPU that a task names, unless it is bound to another task.
    fn reach(&mut self, task: usize, by: By) -> Result<&mut ModelVcpu> {
        let vcpu = self.named(task, by).ok_or(Errno::ENXIO)?;
        let vcpu = &mut self.vcpus[vcpu];
        if vcpu.task.is_some_and(|owner| owner != task) {
            return Err(Errno::EBUSY);
        }
        Ok(vcpu)
    }

    pub fn take(&mut self, step: &Step) {
        self.answer = self.answer_to(step);
    }

    fn answer_to(&mut self, step: &Step) -> Result<()> {
        let task = step.task;
        match step.action {
            Action::Bind(vcpu) => {
                if self.bound_to(task).is_some() {
                    return Err(Errno::EEXIST);
                }
                if self.vcpus[vcpu].task.is_some() {
                    return Err(Errno::EBUSY);
                }
                self.vcpus[vcpu].task = Some(task);
            }
            Action::Unbind => {
                let vcpu = self.bound_to(task).ok_or(Errno::ENXIO)?;
                self.vcpus[vcpu].unbind();
            }
            Action::Run(by) => return self.reach(task, by)?.run(),
            Action::GetRegs(by) | Action::Accessors(by) => {
                self.reach(task, by)?;
            }
            Action::SetRegs { by, rip, bx } => {
                let vcpu = self.reach(task, by)?;
                vcpu.rip = rip.unwrap_or(vcpu.rip);
                vcpu.bx = bx;
            }
            Action::Kick(kicked) => {
                let vcpu = match kicked {
                    Kicked::Task(task) => self.bound_to(task).ok_or(Errno::ESRCH)?,
                    Kicked::Vcpu(vcpu) => vcpu,
                };
                self.vcpus[vcpu].kicked = true;
            }
            Action::Spin { .. } => {
                let vcpu = self.bound_to(task).ok_or(Errno::ENXIO)?;
                let vcpu = &mut self.vcpus[vcpu];
                // The new RIP cancels the pending exit.
                vcpu.pending = false;
                vcpu.kicked = false;
                vcpu.rip = START;
                return Err(Errno::EINTR);
            }
            Action::Exit => {
                if let Some(vcpu) = self.bound_to(task) {
                    self.vcpus[vcpu].unbind();
                }
            }
            Action::Child { vcpu, .. } => {
                // The child shares the memory, and so may bind a free vCPU.
                let vcpu = &mut self.vcpus[vcpu];
                if vcpu.task.is_some() {
                    return Err(Errno::EBUSY);
                }
                let answer = vcpu.run();
                vcpu.unbind();
                return answer;
            }
            Action::BindVm(vm) => {
                if self.vm.is_some() {
                    return Err(Errno::EEXIST);
                }
                self.vm = Some(vm);
            }
            Action::UnbindVm => drop(self.vm.take().ok_or(Errno::ENXIO)?),
            Action::CreateBound => {
                self.vm.ok_or(Errno::EBADF)?;
                if self.bound_to(task).is_some() {
                    return Err(Errno::EEXIST);
                }
            }
            Action::Resize { vm, pages } => self.pages[vm] = pages,
            Action::Fork
            | Action::Create(_)
            | Action::Enable(_)
            | Action::Move(_)
            | Action::Sleep => {}
        }
        Ok(())
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::new()).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        any_step().boxed()
    }

    /// Whether the model knows the result of the step. A pending kick would end
    /// a spin too early.
    fn preconditions(model: &Self, step: &Step) -> bool {
        match step.action {
            Action::Spin { .. } => {
                let vcpu = model.bound_to(step.task);
                vcpu.is_none_or(|vcpu| !model.vcpus[vcpu].kicked)
            }
            _ => true,
        }
    }

    fn apply(mut model: Self, step: &Step) -> Self {
        model.take(step);
        model
    }
}
