//! The model: vCPUs that tasks bind, run and lose, in plain Rust.

use kvm_api::{Errno, Result};

use super::program::{JMP, OUT, START};
use super::steps::{By, Step, VCPUS};

/// A vCPU of the model.
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

    fn unbind(&mut self) {
        self.task = None;
        self.kicked = false;
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
            answer: Ok(()),
        }
    }

    /// The vcpu that is bound to a task.
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
        match *step {
            Step::Bind { task, vcpu } => {
                if self.bound_to(task).is_some() {
                    return Err(Errno::EEXIST);
                }
                if self.vcpus[vcpu].task.is_some() {
                    return Err(Errno::EBUSY);
                }
                self.vcpus[vcpu].task = Some(task);
            }
            Step::Unbind { task } => {
                let vcpu = self.bound_to(task).ok_or(Errno::ENXIO)?;
                self.vcpus[vcpu].unbind();
            }
            Step::Run { task, by } => return self.reach(task, by)?.run(),
            Step::GetRegs { task, by } | Step::Accessors { task, by } => {
                self.reach(task, by)?;
            }
            Step::SetRegs { task, by, rip, bx } => {
                let vcpu = self.reach(task, by)?;
                vcpu.rip = rip.unwrap_or(vcpu.rip);
                vcpu.bx = bx;
            }
            Step::Kick { task, .. } => {
                let vcpu = self.bound_to(task).ok_or(Errno::ESRCH)?;
                self.vcpus[vcpu].kicked = true;
            }
            Step::Spin { task, .. } => {
                let vcpu = self.bound_to(task).ok_or(Errno::ENXIO)?;
                let vcpu = &mut self.vcpus[vcpu];
                // The new RIP cancels the pending exit.
                vcpu.pending = false;
                vcpu.kicked = false;
                vcpu.rip = START;
                return Err(Errno::EINTR);
            }
            Step::Exit { task } => {
                if let Some(vcpu) = self.bound_to(task) {
                    self.vcpus[vcpu].unbind();
                }
            }
            Step::Child { vcpu, .. } => {
                // The child shares the memory, and so may bind a free vCPU.
                let vcpu = &mut self.vcpus[vcpu];
                if vcpu.task.is_some() {
                    return Err(Errno::EBUSY);
                }
                let answer = vcpu.run();
                vcpu.unbind();
                return answer;
            }
            Step::Fork { .. }
            | Step::Create { .. }
            | Step::Enable { .. }
            | Step::Move { .. }
            | Step::Sleep { .. } => {}
        }
        Ok(())
    }

    /// Whether the model knows the result of the step. A pending kick would end
    /// a spin too early.
    pub fn knows(&self, step: &Step) -> bool {
        match *step {
            Step::Spin { task, .. } => self.bound_to(task).is_none_or(|it| !self.vcpus[it].kicked),
            _ => true,
        }
    }
}
