//! The tasks, and the vCPUs that they bind.

use std::iter;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use guests::{TestVm, programs};
use kvm_api::ioctl::Ioctl;
use kvm_api::kvm_sys::exit::KVM_EXIT_IO;
use kvm_api::kvm_sys::*;
use kvm_api::merged::MergedVcpu;
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, GuestMemory, Kvm, Result, RunMapping, SetState, State};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::calls::{
    Call, GUEST_VECTOR, accessors, child, create, done, forked, interrupt, kick, move_to, set_regs,
};
use super::host_state::has_pkru;
use super::model::Model;
use super::program::{SPIN, START};
use super::steps::{By, Step, TASKS, VCPUS};
use super::tasks::Task;
use super::watch;
use crate::requests::{KVM_CAP_EXCEPTION_PAYLOAD, enable};

/// A vCPU: the parts that its tasks and this thread need.
struct TaskVcpu {
    fd: OwnedFd,
    run: RunMapping,
    vm: Arc<(OwnedFd, GuestMemory)>,
}

pub struct TaskSet {
    vcpus: Vec<TaskVcpu>,
    tasks: Vec<Task>,
    /// A task that binds nothing.
    other: Task,
    /// The number of tasks that were created.
    born: u64,
    /// The number of processors.
    processors: usize,
}

/// Protection keys, and so PKRU: the bits in CPUID and in CR4.
const PKU: u32 = 1 << 3;
const PKE: u64 = 1 << 22;

/// The flag by which a guest takes interrupts. The guest gets none, but Bochs
/// delivers the host's interrupts only if the flag is set.
const IF: u64 = 1 << 9;

impl TaskSet {
    pub fn new() -> Self {
        let kvm = Ioctl::open().expect("KVM is available");
        let mut vcpus = Vec::new();
        for count in [VCPUS - 1, 1] {
            let mut machine = TestVm::new(&kvm);
            machine.load(programs::COUNT_OUT);
            machine
                .memory
                .write(SPIN as usize, programs::SPIN)
                .expect("it fits");
            let others: Vec<_> = (1..count).map(|_| machine.add_vcpu()).collect();
            let vcpu = machine.vcpu_fd();
            let TestVm {
                vm, memory, run, ..
            } = machine;
            let vm = Arc::new((vm, memory));
            for (fd, run) in iter::once((vcpu, run)).chain(others) {
                vcpus.push(settled(&kvm, fd, run, &vm));
            }
        }
        let tasks = (0..TASKS as u64).map(Task::new).collect();
        Self {
            vcpus,
            tasks,
            born: TASKS as u64 + 1,
            other: Task::new(TASKS as u64),
            processors: processors(),
        }
    }

    fn fd(&self, vcpu: usize) -> RawFd {
        self.vcpus[vcpu].fd.as_raw_fd()
    }

    fn vm(&self, vcpu: usize) -> RawFd {
        self.vcpus[vcpu].vm.0.as_raw_fd()
    }

    /// Takes a step. `before` is the model before the step.
    pub fn take(&mut self, step: &Step, before: &Model) -> Result<()> {
        let task = &self.tasks[step.task()];
        match *step {
            Step::Bind { vcpu, .. } => {
                let fd = self.fd(vcpu);
                task.does(move |state| done(state, __NR_kvm_bind, fd as usize, 0))
            }
            Step::Unbind { .. } => task.does(|state| done(state, __NR_kvm_unbind, 0, 0)),
            Step::Run { by, .. } => {
                let call = self.call(by, FlatCall::kvm_run);
                let answer = task.does(move |state| call.make(state, 0));
                if answer.is_ok() {
                    let vcpu = before.named(step.task(), by).expect("it has run");
                    let exit = self.vcpus[vcpu].run.exit().exit_reason();
                    assert_eq!(exit, KVM_EXIT_IO, "of vcpu {vcpu}");
                }
                answer
            }
            Step::GetRegs { by, .. } => {
                let call = self.call(by, FlatCall::kvm_get_regs);
                task.does(move |state| {
                    let mut regs = kvm_regs::default();
                    call.make(state, (&raw mut regs).expose_provenance())
                })
            }
            Step::SetRegs { by, rip, bx, .. } => {
                let get = self.call(by, FlatCall::kvm_get_regs);
                let set = self.call(by, FlatCall::kvm_set_regs);
                task.does(move |state| set_regs(state, &get, &set, rip, bx))
            }
            Step::Accessors { by, .. } => {
                let calls = [
                    self.call(by, FlatCall::kvm_get_sregs),
                    self.call(by, FlatCall::kvm_set_sregs),
                    self.call(by, FlatCall::kvm_get_fpu),
                    self.call(by, FlatCall::kvm_set_fpu),
                ];
                task.does(move |state| accessors(state, &calls))
            }
            Step::Kick { task, .. } => {
                let target = self.tasks[task].id();
                self.tasks[step.task()].does(move |state| kick(state, target))
            }
            Step::Spin {
                task,
                signal,
                migrate,
            } => {
                let Some(vcpu) = before.bound_to(task) else {
                    return Err(Errno::ENXIO);
                };
                self.spin(task, vcpu, signal, migrate)
            }
            Step::Exit { task } => {
                self.tasks[task] = Task::new(self.born);
                self.born += 1;
                Ok(())
            }
            Step::Fork { .. } => {
                let fd = self.fd(0);
                task.does(move |_| forked(fd))
            }
            Step::Child { vcpu, exec, .. } => {
                let fd = self.fd(vcpu);
                task.does(move |_| child(fd, exec))
            }
            Step::Create { vcpu, .. } => {
                let vm = self.vm(vcpu);
                task.does(move |state| create(state, vm))
            }
            Step::Enable { vcpu, .. } => {
                let vm = Arc::clone(&self.vcpus[vcpu].vm);
                // The tests do not use this capability, so it has no effect.
                task.does(move |_| enable(vm.0.as_fd(), KVM_CAP_EXCEPTION_PAYLOAD, 0))
                    .expect("a machine can be enabled to do it");
                Ok(())
            }
            Step::Move { cpu, .. } => {
                let set = self.processor(cpu);
                task.does(move |_| sched_setaffinity(Pid::from_raw(0), &set))
            }
            Step::Sleep { .. } => {
                task.does(|_| sleep(Duration::from_millis(1)));
                Ok(())
            }
        }
    }

    /// The processor of that number, modulo the number of processors.
    fn processor(&self, cpu: usize) -> CpuSet {
        let mut set = CpuSet::new();
        set.set(cpu % self.processors).expect("the number is small");
        set
    }

    /// One of the tasks.
    pub fn task(&self, task: usize) -> &Task {
        &self.tasks[task]
    }

    /// Kicks a task, from the task that binds nothing.
    pub fn kick(&self, task: usize) -> Result<()> {
        let target = self.tasks[task].id();
        self.other.does(move |state| kick(state, target))
    }

    /// The call, as a task makes it on the vCPU that `by` names.
    fn call(&self, by: By, call: FlatCall) -> Call {
        match by {
            By::Binding => Call::Bound(call.bound.expect("it is a call on a vCPU")),
            By::Ioctl(vcpu) => {
                Call::Ioctl(self.fd(vcpu), call.request.expect("Linux has the ioctl"))
            }
            By::Syscall(vcpu) => Call::Flat(self.fd(vcpu), call.number),
        }
    }

    fn spin(&self, task: usize, vcpu: usize, signal: bool, migrate: bool) -> Result<()> {
        let (target, fd) = (&self.tasks[task], self.fd(vcpu));
        let get = self.call(By::Binding, FlatCall::kvm_get_regs);
        let set = self.call(By::Binding, FlatCall::kvm_set_regs);
        let run = self.call(By::Binding, FlatCall::kvm_run);
        let (get2, set2) = (get, set);
        target.does(move |state| move_to(state, &get, &set, SPIN))?;
        let running = target.begin(move |state| run.make(state, 0));
        // The vCPU is not bound to this thread.
        let kvm = Ioctl::open().expect("KVM is available");
        for _ in 0..3 {
            let refused = kvm.kvm_get_regs(self.vcpus[vcpu].fd.as_fd(), &mut kvm_regs::default());
            assert_eq!(refused, Err(Errno::EBUSY), "of vcpu {fd}, which spins");
            if migrate {
                for cpu in [1, 0] {
                    sched_setaffinity(target.id(), &self.processor(cpu))
                        .expect("a task can be moved");
                }
            }
        }
        if !signal {
            self.kick(task)?;
        }
        let end = loop {
            if signal {
                // A signal that comes before the run is lost.
                interrupt(target.id());
            }
            if let Some(end) = running.try_end() {
                break end;
            }
        };
        target.does(move |state| move_to(state, &get2, &set2, START))?;
        end
    }

    /// Describes a difference to the model, if any.
    pub fn difference(&self, model: &Model) -> Option<String> {
        let kvm = Ioctl::open().expect("KVM is available");
        for (number, (vcpu, expected)) in self.vcpus.iter().zip(&model.vcpus).enumerate() {
            let mut regs = kvm_regs::default();
            let answer = match expected.task {
                None => kvm.kvm_get_regs(vcpu.fd.as_fd(), &mut regs),
                Some(task) => {
                    let refused = kvm.kvm_get_regs(vcpu.fd.as_fd(), &mut regs);
                    assert_eq!(refused, Err(Errno::EBUSY), "vcpu {number}");
                    let call = self.call(By::Binding, FlatCall::kvm_get_regs);
                    let (answer, its) = self.tasks[task].does(move |state| {
                        let mut regs = kvm_regs::default();
                        let answer = call.make(state, (&raw mut regs).expose_provenance());
                        (answer, regs)
                    });
                    regs = its;
                    answer
                }
            };
            let found = (answer, regs.rip, regs.rbx as u16);
            if found != (Ok(()), expected.rip, expected.bx) {
                return Some(format!("vcpu {number} has {found:x?}, not {expected:x?}"));
            }
        }
        None
    }
}

/// The number of processors that are online.
fn processors() -> usize {
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN);
    let online = online.ok().flatten().expect("the kernel counts them");
    online as usize
}

/// A vCPU whose registers have values to recognize where the host has its own.
fn settled(
    kvm: &Ioctl,
    fd: OwnedFd,
    mut run: RunMapping,
    vm: &Arc<(OwnedFd, GuestMemory)>,
) -> TaskVcpu {
    if has_pkru() {
        let features = CpuId::from_entries(&[kvm_cpuid_entry2 {
            function: 7,
            // The leaf has several subleaves.
            flags: 1,
            ecx: PKU,
            ..Default::default()
        }]);
        let features = features.expect("one entry fits");
        kvm.kvm_set_cpuid(fd.as_fd(), &features)
            .expect("the value is valid");
    }
    // The first run resets values that were set before it.
    run.set_immediate_exit(true);
    assert!(kvm.kvm_run(fd.as_fd(), &mut run).is_err());
    run.set_immediate_exit(false);
    let mut fpu = kvm_fpu::default();
    kvm.kvm_get_fpu(fd.as_fd(), &mut fpu).expect("it has one");
    fpu.xmm = [GUEST_VECTOR; 16];
    kvm.kvm_set_fpu(fd.as_fd(), &fpu)
        .expect("the value is valid");
    let mut sregs = kvm_sregs::default();
    kvm.kvm_get_sregs(fd.as_fd(), &mut sregs)
        .expect("the vCPU has them");
    (sregs.fs.base, sregs.gs.base) = (0xf000, 0xe000);
    if has_pkru() {
        sregs.cr4 |= PKE;
    }
    kvm.kvm_set_sregs(fd.as_fd(), &sregs)
        .expect("the values are valid");
    let mut regs = kvm_regs::default();
    kvm.kvm_get_regs(fd.as_fd(), &mut regs)
        .expect("the vCPU has them");
    regs.rflags |= IF;
    kvm.kvm_set_regs(fd.as_fd(), &regs)
        .expect("the values are valid");
    let debugregs = watch::guests();
    let flat = Syscall::open().expect("the kernel has the calls");
    MergedVcpu::new(flat, fd.as_fd())
        .kvm_set_state(&SetState::new().debugregs(&debugregs))
        .expect("the values are valid");
    let vm = Arc::clone(vm);
    TaskVcpu { fd, run, vm }
}
