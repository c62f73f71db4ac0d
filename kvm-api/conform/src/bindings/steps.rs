//! Random steps of tasks.

use proptest::prelude::*;
use proptest::sample::select;

use super::program::{OUT, START};

/// The number of tasks.
pub const TASKS: usize = 3;
/// The number of vCPUs. The first two belong to one VM, the last to another.
pub const VCPUS: usize = 3;

/// How a task names a vcpu.
#[derive(Clone, Copy, Debug)]
pub enum By {
    /// As the vCPU that is bound to it.
    Binding,
    /// By the file descriptor, for an ioctl.
    Ioctl(usize),
    /// By the file descriptor, for a system call.
    Syscall(usize),
}

/// A step of a task.
#[derive(Clone, Debug)]
pub enum Step {
    Bind {
        task: usize,
        vcpu: usize,
    },
    Unbind {
        task: usize,
    },
    /// Runs up to the next exit.
    Run {
        task: usize,
        by: By,
    },
    GetRegs {
        task: usize,
        by: By,
    },
    /// Sets `bx`, and `rip` or not.
    SetRegs {
        task: usize,
        by: By,
        rip: Option<u64>,
        bx: u16,
    },
    /// Reads the special registers and the floating point registers, and writes
    /// them back.
    Accessors {
        task: usize,
        by: By,
    },
    /// Kicks the vcpu that is bound to `task`.
    Kick {
        from: usize,
        task: usize,
    },
    /// Runs a spinning guest on the bound vCPU, while another task tries to use
    /// the vCPU, until a kick or a signal ends the run.
    Spin {
        task: usize,
        signal: bool,
        migrate: bool,
    },
    /// The task ends. A new one takes its place.
    Exit {
        task: usize,
    },
    /// The task forks. Its child has no vCPU, and may not use any.
    Fork {
        task: usize,
    },
    /// A child that shares the memory binds the vcpu, runs it, and ends, or
    /// executes a program.
    Child {
        task: usize,
        vcpu: usize,
        exec: bool,
    },
    /// The task adds a vCPU to the VM of this one. Creating a vCPU loads it on
    /// the processor, where the task's own may be loaded.
    Create {
        task: usize,
        vcpu: usize,
    },
    /// The task enables a capability of the VM, which concerns all its vCPUs.
    Enable {
        task: usize,
        vcpu: usize,
    },
    /// The task moves to another processor.
    Move {
        task: usize,
        cpu: usize,
    },
    /// The task sleeps, so that others use its processor.
    Sleep {
        task: usize,
    },
}

impl Step {
    /// The task that takes the step.
    pub fn task(&self) -> usize {
        match *self {
            Self::Kick { from, .. } => from,
            Self::Bind { task, .. }
            | Self::Unbind { task }
            | Self::Run { task, .. }
            | Self::GetRegs { task, .. }
            | Self::SetRegs { task, .. }
            | Self::Accessors { task, .. }
            | Self::Spin { task, .. }
            | Self::Exit { task }
            | Self::Fork { task }
            | Self::Child { task, .. }
            | Self::Create { task, .. }
            | Self::Enable { task, .. }
            | Self::Move { task, .. }
            | Self::Sleep { task } => task,
        }
    }
}

fn by() -> impl Strategy<Value = By> {
    prop_oneof![
        6 => Just(By::Binding),
        1 => (0..VCPUS).prop_map(By::Ioctl),
        1 => (0..VCPUS).prop_map(By::Syscall),
    ]
}

/// A random step, mostly one that uses bound vCPUs.
pub fn any_step() -> impl Strategy<Value = Step> {
    let rip = || select(vec![None, None, None, Some(START), Some(OUT)]);
    (0..TASKS).prop_flat_map(move |task| {
        prop_oneof![
            6 => (0..VCPUS).prop_map(move |vcpu| Step::Bind { task, vcpu }),
            2 => Just(Step::Unbind { task }),
            10 => by().prop_map(move |by| Step::Run { task, by }),
            4 => by().prop_map(move |by| Step::GetRegs { task, by }),
            4 => (by(), rip(), any::<u16>())
                .prop_map(move |(by, rip, bx)| Step::SetRegs { task, by, rip, bx }),
            3 => by().prop_map(move |by| Step::Accessors { task, by }),
            3 => (0..TASKS).prop_map(move |from| Step::Kick { from, task }),
            2 => (any::<bool>(), any::<bool>())
                .prop_map(move |(signal, migrate)| Step::Spin { task, signal, migrate }),
            1 => Just(Step::Exit { task }),
            1 => Just(Step::Fork { task }),
            1 => (0..VCPUS, prop::bool::weighted(0.2))
                .prop_map(move |(vcpu, exec)| Step::Child { task, vcpu, exec }),
            1 => (0..VCPUS).prop_map(move |vcpu| Step::Create { task, vcpu }),
            1 => (0..VCPUS).prop_map(move |vcpu| Step::Enable { task, vcpu }),
            3 => (0..2_usize).prop_map(move |cpu| Step::Move { task, cpu }),
            2 => Just(Step::Sleep { task }),
        ]
    })
}
