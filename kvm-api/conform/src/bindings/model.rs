//! What must become of vcpus that tasks bind, run and lose, in plain Rust.

use kvm_api::{Errno, Result};

use super::program::{JMP, OUT, START};
use super::steps::{By, Step, VCPUS};

/// A vCPU of the model.
#[derive(Clone, Copy, Debug)]
pub struct ModelVcpu {
    /// The task that it is bound to.
    pub task: Option<usize>,
    /// Whether it is to return before it runs.
    kicked: bool,
    /// Whether the exit for the OUT is to be completed.
    pending: bool,
    pub rip: u64,
    pub bx: u16,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub vcpus: [ModelVcpu; VCPUS],
    /// What the last step gives.
    pub answer: Result<()>,
}

impl ModelVcpu {
    /// Runs up to the next exit, or not at all.
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

    /// Which vcpu a task means.
    pub fn named(&self, task: usize, by: By) -> Option<usize> {
        match by {
            By::Binding => self.bound_to(task),
            By::Ioctl(vcpu) | By::Syscall(vcpu) => Some(vcpu),
        }
    }

    /// That vcpu, unless it is another task's.
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
                // It is moved away from the exit that is pending.
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
                // It shares the memory, and so may bind what is nobody's.
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

    /// Whether it is known what the step gives: a kick that waits would end a
    /// spin before the one that is to end it.
    pub fn knows(&self, step: &Step) -> bool {
        match *step {
            Step::Spin { task, .. } => self.bound_to(task).is_none_or(|it| !self.vcpus[it].kicked),
            _ => true,
        }
    }
}
