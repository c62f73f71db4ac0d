//! Random steps of tasks.

use proptest::prelude::*;
use proptest::sample::select;

use super::program::{OUT, START};

pub const TASKS: usize = 3;
/// The number of vCPUs. The first two belong to one VM, the last to another.
pub const VCPUS: usize = 3;
pub const VMS: usize = 2;
/// The maximum number of pages of a VM that ranges add to its memory.
pub const PAGES: u64 = 8;

/// The VM of a vCPU.
pub const fn vm_of(vcpu: usize) -> usize {
    vcpu / (VCPUS - 1)
}

/// How a task names a vCPU.
#[derive(Clone, Copy, Debug)]
pub enum By {
    /// As the vCPU that is bound to it.
    Binding,
    /// By the file descriptor, for an ioctl.
    Ioctl(usize),
    /// By the file descriptor, for a system call.
    Syscall(usize),
}

/// How a kick names a vCPU.
#[derive(Clone, Copy, Debug)]
pub enum Kicked {
    /// By the pidfd of the task that it is bound to.
    Task(usize),
    /// By the file descriptor.
    Vcpu(usize),
}

#[derive(Clone, Debug)]
pub struct Step {
    pub task: usize,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    Bind(usize),
    Unbind,
    /// Runs up to the next exit.
    Run(By),
    GetRegs(By),
    /// Sets `bx`, and `rip` or not.
    SetRegs {
        by: By,
        rip: Option<u64>,
        bx: u16,
    },
    /// Reads the special registers and the floating point registers, and writes
    /// them back.
    Accessors(By),
    Kick(Kicked),
    /// Runs a spinning guest on the bound vCPU, while another task tries to use
    /// the vCPU, until a kick or a signal ends the run.
    Spin {
        signal: bool,
        migrate: bool,
    },
    /// The task ends. A new one takes its place.
    Exit,
    /// The task forks. Its child has no vCPU, and may not use any.
    Fork,
    /// A child that shares the memory binds the vCPU, runs it, and ends, or
    /// executes a program.
    Child {
        vcpu: usize,
        exec: bool,
    },
    /// The task adds a vCPU to the VM of this one. Creating a vCPU loads it on
    /// the processor, where the task's own may be loaded.
    Create(usize),
    /// The task binds this VM to the address space, which all tasks share.
    BindVm(usize),
    UnbindVm,
    /// The task adds a vCPU without a descriptor to the VM of the address space, which
    /// is bound to the task, and unbinds it.
    CreateBound,
    /// The task grows or shrinks the memory of this VM, beside all its vCPUs, to that number
    /// of added pages.
    Resize {
        vm: usize,
        pages: u64,
    },
    /// The task enables a capability of the VM of this vCPU, which concerns all
    /// vCPUs of the VM.
    Enable(usize),
    /// The task moves to this processor.
    Move(usize),
    /// The task sleeps, so that others use its processor.
    Sleep,
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
        let step = move |action| Step { task, action };
        prop_oneof![
            6 => (0..VCPUS).prop_map(Action::Bind).prop_map(step),
            2 => Just(step(Action::Unbind)),
            10 => by().prop_map(Action::Run).prop_map(step),
            4 => by().prop_map(Action::GetRegs).prop_map(step),
            4 => (by(), rip(), any::<u16>())
                .prop_map(move |(by, rip, bx)| step(Action::SetRegs { by, rip, bx })),
            3 => by().prop_map(Action::Accessors).prop_map(step),
            2 => (0..TASKS).prop_map(Kicked::Task).prop_map(Action::Kick).prop_map(step),
            1 => (0..VCPUS).prop_map(Kicked::Vcpu).prop_map(Action::Kick).prop_map(step),
            2 => (any::<bool>(), any::<bool>())
                .prop_map(move |(signal, migrate)| step(Action::Spin { signal, migrate })),
            1 => Just(step(Action::Exit)),
            1 => Just(step(Action::Fork)),
            1 => (0..VCPUS, prop::bool::weighted(0.2))
                .prop_map(move |(vcpu, exec)| step(Action::Child { vcpu, exec })),
            1 => (0..VCPUS).prop_map(Action::Create).prop_map(step),
            3 => (0..VMS).prop_map(Action::BindVm).prop_map(step),
            1 => Just(step(Action::UnbindVm)),
            1 => Just(step(Action::CreateBound)),
            2 => (0..VMS, 0..=PAGES)
                .prop_map(move |(vm, pages)| step(Action::Resize { vm, pages })),
            1 => (0..VCPUS).prop_map(Action::Enable).prop_map(step),
            3 => (0..2_usize).prop_map(Action::Move).prop_map(step),
            2 => Just(step(Action::Sleep)),
        ]
    })
}
