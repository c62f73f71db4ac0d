//! The tasks, and the vCPUs that they bind.

use std::iter;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread::{available_parallelism, sleep};
use std::time::Duration;

use guests::{TestVm, programs};
use kvm_api::ioctl::Ioctl;
use kvm_api::kvm_sys::exit::KVM_EXIT_IO;
use kvm_api::kvm_sys::*;
use kvm_api::merged::MergedVcpu;
use kvm_api::{Errno, GuestMemory, Kvm, Result, RunMapping, SetState, State, Vm};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::calls::{
    Call, GUEST_VECTOR, accessors, added, alias_of, bound_vm, change_regs, child, create,
    create_bound, flat, forked, kick, kick_thread, resize, syscall,
};
use super::host_state::has_pkru;
use super::model::Model;
use super::program::{SPIN, START};
use super::steps::{Action, By, Kicked, PAGES, Step, TASKS, VCPUS, VMS, vm_of};
use super::tasks::Task;
use super::watch;
use crate::requests::{KVM_CAP_EXCEPTION_PAYLOAD, enable, filled};
use crate::signal;

/// A vCPU: the parts that its tasks and this thread need.
struct TaskVcpu {
    fd: OwnedFd,
    run: RunMapping,
    vm: Arc<(Vm, GuestMemory)>,
}

pub struct TaskSet {
    vcpus: Vec<TaskVcpu>,
    tasks: Vec<Task>,
    /// A task that binds nothing.
    other: Task,
    /// The number of tasks that were created.
    created: u64,
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
        for (number, count) in [VCPUS - 1, 1].into_iter().enumerate() {
            let mut machine = TestVm::new(&kvm);
            machine.load(programs::COUNT_OUT);
            let written = machine.memory.write(SPIN as usize, programs::SPIN);
            written.expect("it fits");
            let others: Vec<_> = (1..count).map(|_| machine.add_vcpu()).collect();
            let vcpu = machine.vcpu_fd();
            let aliased = flat().kvm_set_memory_alias(machine.vm(), &alias_of(number));
            aliased.expect("nothing is there");
            let TestVm {
                vm, memory, run, ..
            } = machine;
            let vm = Arc::new((vm, memory));
            for (fd, mut run) in iter::once((vcpu, run)).chain(others) {
                settle(&kvm, fd.as_fd(), &mut run).expect("the values are valid");
                let vm = Arc::clone(&vm);
                vcpus.push(TaskVcpu { fd, run, vm });
            }
        }
        let processors = available_parallelism().expect("the kernel counts the processors");
        Self {
            vcpus,
            tasks: (0..TASKS as u64).map(Task::new).collect(),
            created: TASKS as u64 + 1,
            other: Task::new(TASKS as u64),
            processors: processors.get(),
        }
    }

    /// A VM, and its memory.
    fn vm(&self, vm: usize) -> &Arc<(Vm, GuestMemory)> {
        let vcpu = (0..VCPUS).find(|&vcpu| vm_of(vcpu) == vm);
        &self.vcpus[vcpu.expect("each VM has one")].vm
    }

    fn fd(&self, vcpu: usize) -> RawFd {
        self.vcpus[vcpu].fd.as_raw_fd()
    }

    /// Takes a step. `before` is the model before the step.
    pub fn take(&mut self, step: &Step, before: &Model) -> Result<()> {
        let task = &self.tasks[step.task];
        match step.action {
            Action::Bind(vcpu) => {
                let fd = self.fd(vcpu);
                task.execute(move |state| {
                    syscall(state, __NR_kvm_bind, [fd as usize, 0, 0]).map(drop)
                })
            }
            Action::Unbind => {
                task.execute(|state| syscall(state, __NR_kvm_unbind, [0; 3]).map(drop))
            }
            Action::Run(by) => {
                let call = self.call(by, FlatCall::kvm_run);
                let answer = task.execute(move |state| call.make(state, 0));
                if answer.is_ok() {
                    let vcpu = before.named(step.task, by).expect("it has run");
                    let exit = self.vcpus[vcpu].run.exit().exit_reason();
                    assert_eq!(exit, KVM_EXIT_IO, "of vCPU {vcpu}");
                }
                answer
            }
            Action::GetRegs(by) => {
                let call = self.call(by, FlatCall::kvm_get_regs);
                task.execute(move |state| call.get::<kvm_regs>(state).map(drop))
            }
            Action::SetRegs { by, rip, bx } => {
                let calls = self.access_regs(by);
                task.execute(move |state| {
                    change_regs(state, calls, |regs| {
                        regs.rip = rip.unwrap_or(regs.rip);
                        regs.rbx = bx.into();
                    })
                })
            }
            Action::Accessors(by) => {
                use FlatCall::{kvm_get_fpu, kvm_get_sregs, kvm_set_fpu, kvm_set_sregs};
                let calls = [kvm_get_sregs, kvm_set_sregs, kvm_get_fpu, kvm_set_fpu];
                let calls = calls.map(|call| self.call(by, call));
                task.execute(move |state| accessors(state, calls))
            }
            Action::Kick(Kicked::Task(target)) => {
                let target = self.tasks[target].id();
                task.execute(move |state| kick_thread(state, target))
            }
            Action::Kick(Kicked::Vcpu(vcpu)) => {
                let fd = self.fd(vcpu);
                task.execute(move |state| kick(state, fd))
            }
            Action::Spin { signal, migrate } => {
                let Some(vcpu) = before.bound_to(step.task) else {
                    return Err(Errno::ENXIO);
                };
                let answer = self.spin(step.task, vcpu, signal, migrate);
                let (vm, memory) = &**self.vm(vm_of(vcpu));
                resize(vm.as_fd(), memory, before.pages[vm_of(vcpu)])?;
                answer
            }
            Action::Exit => {
                self.tasks[step.task] = Task::new(self.created);
                self.created += 1;
                Ok(())
            }
            Action::Fork => {
                let fd = self.fd(0);
                task.execute(move |_| forked(fd))
            }
            Action::Child { vcpu, exec } => {
                let fd = self.fd(vcpu);
                task.execute(move |_| child(fd, exec))
            }
            Action::Create(vcpu) => {
                let vm = self.vcpus[vcpu].vm.0.as_raw_fd();
                task.execute(move |state| create(state, vm))
            }
            Action::BindVm(vm) => {
                let vm = self.vm(vm).0.as_raw_fd();
                task.execute(move |state| {
                    syscall(state, __NR_kvm_bind_vm, [vm as usize, 0, 0]).map(drop)
                })
            }
            Action::UnbindVm => {
                task.execute(|state| syscall(state, __NR_kvm_unbind_vm, [0; 3]).map(drop))
            }
            Action::CreateBound => task.execute(create_bound),
            Action::Resize { vm, pages } => {
                let vm = Arc::clone(self.vm(vm));
                task.execute(move |_| resize(vm.0.as_fd(), &vm.1, pages))
            }
            Action::Enable(vcpu) => {
                let vm = Arc::clone(&self.vcpus[vcpu].vm);
                // The tests do not use this capability, so it has no effect.
                task.execute(move |_| enable(vm.0.as_fd(), KVM_CAP_EXCEPTION_PAYLOAD, 0))
                    .expect("the VM has the capability");
                Ok(())
            }
            Action::Move(cpu) => {
                let set = self.processor(cpu);
                task.execute(move |_| sched_setaffinity(Pid::from_raw(0), &set))
            }
            Action::Sleep => {
                task.execute(|_| sleep(Duration::from_millis(1)));
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

    pub fn task(&self, task: usize) -> &Task {
        &self.tasks[task]
    }

    /// Kicks a task, from the task that binds nothing.
    pub fn kick(&self, task: usize) -> Result<()> {
        let target = self.tasks[task].id();
        self.other.execute(move |state| kick_thread(state, target))
    }

    /// The calls that read and set the general registers.
    fn access_regs(&self, by: By) -> [Call; 2] {
        [FlatCall::kvm_get_regs, FlatCall::kvm_set_regs].map(|call| self.call(by, call))
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

    fn spin(&self, task: usize, vcpu: usize, by_signal: bool, migrate: bool) -> Result<()> {
        let target = &self.tasks[task];
        let calls = self.access_regs(By::Binding);
        let run = self.call(By::Binding, FlatCall::kvm_run);
        target.execute(move |state| change_regs(state, calls, |regs| regs.rip = SPIN))?;
        let running = target.start(move |state| run.make(state, 0));
        // The vCPU is not bound to this thread.
        let kvm = Ioctl::open().expect("KVM is available");
        let (vm, memory) = &*self.vcpus[vcpu].vm;
        for pages in [PAGES, 1, 0] {
            resize(vm.as_fd(), memory, pages)?;
            let refused = regs(&kvm, self.vcpus[vcpu].fd.as_fd());
            assert_eq!(refused, Err(Errno::EBUSY), "of vCPU {vcpu}, which spins");
            if migrate {
                for cpu in [1, 0] {
                    let moved = sched_setaffinity(target.id(), &self.processor(cpu));
                    moved.expect("a task can be moved");
                }
            }
        }
        if !by_signal {
            self.kick(task)?;
        }
        let end = loop {
            if by_signal {
                // A signal that comes before the run is lost.
                signal::kick(target.id());
            }
            if let Some(end) = running.try_end() {
                break end;
            }
        };
        target.execute(move |state| change_regs(state, calls, |regs| regs.rip = START))?;
        end
    }

    /// Describes a difference to the model, if any.
    pub fn difference(&self, model: &Model) -> Option<String> {
        let kvm = Ioctl::open().expect("KVM is available");
        for (number, (vcpu, expected)) in self.vcpus.iter().zip(&model.vcpus).enumerate() {
            let regs = match expected.task {
                None => regs(&kvm, vcpu.fd.as_fd()),
                Some(task) => {
                    let refused = regs(&kvm, vcpu.fd.as_fd());
                    assert_eq!(refused, Err(Errno::EBUSY), "vCPU {number}");
                    let call = self.call(By::Binding, FlatCall::kvm_get_regs);
                    self.tasks[task].execute(move |state| call.get(state))
                }
            };
            let found = regs.map(|regs| (regs.rip, regs.rbx as u16));
            if found != Ok((expected.rip, expected.bx)) {
                return Some(format!("vCPU {number} has {found:x?}, not {expected:x?}"));
            }
        }
        let pages: Vec<_> = (0..VMS).map(|vm| added(self.vm(vm).0.as_fd())).collect();
        if pages != model.pages {
            return Some(format!(
                "the VMs have {pages:?} added pages, not {:?}",
                model.pages
            ));
        }
        let vm = bound_vm();
        let expected = model.vm.ok_or(Errno::EBADF);
        (vm != expected).then(|| format!("the VM is {vm:?}, not {expected:?}"))
    }
}

impl Drop for TaskSet {
    /// The next tasks have the same address space.
    fn drop(&mut self) {
        // SAFETY: the call touches no memory. It fails if no VM is bound.
        unsafe { libc::syscall(__NR_kvm_unbind_vm) };
    }
}

fn regs(kvm: &Ioctl, vcpu: BorrowedFd<'_>) -> Result<kvm_regs> {
    filled(|regs| kvm.kvm_get_regs(vcpu, regs))
}

/// Sets the registers of a vCPU that the host has, too, to recognizable values.
fn settle(kvm: &Ioctl, vcpu: BorrowedFd<'_>, run: &mut RunMapping) -> Result<()> {
    if has_pkru() {
        let features = CpuId::from_entries(&[kvm_cpuid_entry2 {
            function: 7,
            // The leaf has several subleaves.
            flags: 1,
            ecx: PKU,
            ..Default::default()
        }]);
        kvm.kvm_set_cpuid(vcpu, &features.expect("one entry fits"))?;
    }
    // The first run resets values that were set before it.
    run.set_immediate_exit(true);
    assert!(kvm.kvm_run(vcpu, run).is_err());
    run.set_immediate_exit(false);
    let mut fpu: kvm_fpu = filled(|fpu| kvm.kvm_get_fpu(vcpu, fpu))?;
    fpu.xmm = [GUEST_VECTOR; 16];
    kvm.kvm_set_fpu(vcpu, &fpu)?;
    let mut sregs: kvm_sregs = filled(|sregs| kvm.kvm_get_sregs(vcpu, sregs))?;
    (sregs.fs.base, sregs.gs.base) = (0xf000, 0xe000);
    if has_pkru() {
        sregs.cr4 |= PKE;
    }
    kvm.kvm_set_sregs(vcpu, &sregs)?;
    let mut regs = regs(kvm, vcpu)?;
    regs.rflags |= IF;
    kvm.kvm_set_regs(vcpu, &regs)?;
    let debugregs = watch::guests();
    MergedVcpu::new(flat(), vcpu).kvm_set_state(&SetState::new().debugregs(&debugregs))?;
    Ok(())
}
