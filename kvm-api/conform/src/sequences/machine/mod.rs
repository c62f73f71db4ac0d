//! A machine that takes the steps by one backend, or by two in turns.

pub mod backend;
mod pointers;
mod vcpu;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Mutex;

use kvm_api::bound::BoundVcpu;
use kvm_api::files::FileVcpu;
use kvm_api::kvm_sys::*;
use kvm_api::merged::MergedVcpu;
use kvm_api::syscall::Syscall;
use kvm_api::{ByFd, Errno, Form, GuestMemory, Kvm, RunMapping, Vcpu, Vm};
use nix::sys::signal::Signal;

use self::backend::{BackendKind, Backends};
use super::facts::Facts;
use super::model::memory::{Owner, PAGE, POOL, Place};
use super::model::{FIRST_REGION, Model, StepResult, Value, done, entry, program_at};
use super::steps::{Room, Step, Taken, VcpuStep, Wrong};
use crate::open_files::without_files;
use crate::requests::filled;
use crate::trait_calls::{self, Make};

/// The signal that may be pending.
pub const SIGNAL: Signal = Signal::SIGUSR1;

/// How often each call succeeded and failed. The numbers are the same for all
/// machines, because the machines agree.
pub static MADE: Mutex<BTreeMap<&str, [u64; 2]>> = Mutex::new(BTreeMap::new());

/// A vCPU of the machine.
struct OpenVcpu {
    fd: Rc<OwnedFd>,
    run: RefCell<RunMapping>,
    /// The vCPU in the way of the forms `merged` and `files`.
    own: Option<Rc<dyn Vcpu>>,
}

pub struct SequenceVm {
    backends: Backends,
    /// The vCPU that is bound to this thread, and its number.
    bound: RefCell<Option<(usize, Rc<dyn Vcpu>)>>,
    vcpus: Vec<OpenVcpu>,
    /// The memory that the kernel has allocated, by the model's numbers.
    kernel: BTreeMap<u32, GuestMemory>,
    vm: Vm,
    // Dropped after the VM, which uses it.
    pool: GuestMemory,
}

impl fmt::Debug for SequenceVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.backend())
    }
}

impl SequenceVm {
    pub fn new(backend: BackendKind) -> Self {
        let backends = Backends::open(backend);
        let flat = backends.pick(true);
        let vm = flat.kvm_create_vm().and_then(|fd| flat.vm(fd));
        let pool = GuestMemory::anonymous((POOL * PAGE) as usize).expect("there is memory");
        let mut machine = Self {
            backends,
            bound: RefCell::new(None),
            vcpus: Vec::new(),
            kernel: BTreeMap::new(),
            vm: vm.expect("a VM can be made"),
            pool,
        };
        let first = Step::SetUserMemoryRegion {
            region: FIRST_REGION,
            offset: 0,
        };
        for step in [first, Step::CreateVcpu { full: false }] {
            let answer = machine.step(&step, true, &Model::new());
            assert_eq!(answer, Ok(Value::Nothing), "{step:?}");
        }
        machine
    }

    pub fn backend(&self) -> BackendKind {
        self.backends.backend
    }

    fn kvm(&self, flat: bool) -> &dyn Kvm {
        &**self.backends.pick(flat)
    }

    /// The calls without an ioctl always go to the library: its substitute
    /// relies on a record of all of them.
    fn library(&self) -> &dyn Kvm {
        self.kvm(true)
    }

    fn fd(&self, vcpu: usize) -> BorrowedFd<'_> {
        self.vcpus[vcpu].fd.as_fd()
    }

    /// A vCPU in the way of the form, for a step that asks for the system call, or for
    /// the ioctl. The form `bound` binds it, in place of the vCPU that is bound.
    fn vcpu(&self, flat: bool, vcpu: usize) -> Result<Rc<dyn Vcpu + '_>, Errno> {
        let made = &self.vcpus[vcpu];
        if let Some(own) = &made.own {
            return Ok(own.clone());
        }
        if self.backend() != BackendKind::Form(Form::Bound) {
            return Ok(Rc::new(ByFd::new(self.kvm(flat), made.fd.as_fd())));
        }
        let mut bound = self.bound.borrow_mut();
        if let Some((number, own)) = &*bound
            && *number == vcpu
        {
            return Ok(own.clone());
        }
        *bound = None;
        let own: Rc<dyn Vcpu> = Rc::new(BoundVcpu::bind(calls(), made.fd.clone())?);
        *bound = Some((vcpu, own.clone()));
        Ok(own)
    }

    /// Takes a step, which `model` has already taken.
    pub fn take(&mut self, taken: &Taken, model: &Model) -> StepResult {
        let answer = self.step(&taken.step, taken.flat, model);
        if let Some(name) = taken.step.call() {
            self.count(name, answer.is_err());
        }
        answer
    }

    fn step(&mut self, step: &Step, flat: bool, model: &Model) -> StepResult {
        let kvm = self.kvm(flat);
        let vm = self.vm.as_fd();
        match *step {
            Step::CreateVm { full } => done(with_files(full, || kvm.kvm_create_vm().map(drop))),
            Step::CreateVcpu { full } => {
                let fd = Rc::new(with_files(full, || kvm.kvm_create_vcpu(vm))?);
                let run = RunMapping::new(fd.as_fd(), Facts::get().mmap_size)?;
                let own: Option<Rc<dyn Vcpu>> = match self.backend() {
                    BackendKind::Form(Form::Merged) => {
                        Some(Rc::new(MergedVcpu::new(calls(), fd.clone())))
                    }
                    BackendKind::Form(Form::Files) => {
                        Some(Rc::new(FileVcpu::open(calls(), fd.clone())?))
                    }
                    _ => None,
                };
                let run = RefCell::new(run);
                self.vcpus.push(OpenVcpu { fd, run, own });
                let vcpu = self.vcpu(flat, self.vcpus.len() - 1)?;
                done(clear_code_segment(&*vcpu))
            }
            Step::MsrIndexList(room) => {
                let all = Facts::get().msrs.len();
                let room = match room {
                    Room::One => 1,
                    Room::OneLess => all - 1,
                    Room::Enough => all,
                };
                let mut list = MsrList::new(room).expect("there is room");
                kvm.kvm_get_msr_index_list(vm, &mut list)?;
                Ok(Value::numbers(list.as_slice()))
            }
            Step::VcpuMmapSize => {
                let size = kvm.kvm_get_vcpu_mmap_size(vm)?;
                Ok(Value::Number(size as u64))
            }
            Step::CheckExtension(extension) => {
                let answer = kvm.kvm_check_extension(vm, extension)?;
                Ok(Value::Number(answer as u64))
            }
            Step::SetMemoryRegion(region) => {
                let (slot, flags) = (region.slot, region.flags);
                let (address, size) = (region.address, region.size);
                let library = self.library();
                library.kvm_set_memory_region(vm, slot, flags, address, size)?;
                done(self.map_kernel_memory(address, size, model))
            }
            Step::SetUserMemoryRegion { region, offset } => {
                let memory = self.pool.as_ptr().expose_provenance() as u64 + offset;
                let (slot, flags) = (region.slot, region.flags);
                let (address, size) = (region.address, region.size);
                // SAFETY: the memory is the guest's alone for as long as there
                // is a machine.
                done(unsafe {
                    kvm.kvm_set_user_memory_region(vm, slot, flags, address, size, memory)
                })
            }
            Step::SetMemoryAlias { alias, target } => {
                let alias = alias.alias(target);
                done(self.library().kvm_set_memory_alias(vm, &alias))
            }
            Step::GetMemoryAlias(slot) => {
                let mut alias = kvm_memory_alias {
                    slot,
                    ..Default::default()
                };
                self.library().kvm_get_memory_alias(vm, &mut alias)?;
                Ok(Value::Alias(alias))
            }
            Step::MapMemory { address, size } => {
                let memory = self.library().kvm_map_memory(vm, address, size as usize);
                done(memory.map(drop))
            }
            Step::GetDirtyLog(slot) => {
                let mut bitmap = [0];
                // SAFETY: no slot of these tests has more than 64 pages.
                unsafe { kvm.kvm_get_dirty_log(vm, slot, &mut bitmap) }?;
                Ok(Value::Dirty(bitmap[0], bitmap[0]))
            }
            Step::Vector { vector, page } => {
                self.put(model.memory.vector(vector), &entry(page));
                Ok(Value::Nothing)
            }
            Step::WrongFd { call, fd } => self.wrong_fd(flat, call, fd),
            Step::OnVcpu(vcpu, ref step) => {
                if let VcpuStep::Start { page, program } = *step {
                    let place = model.memory.place(program_at(page)).expect("it is known");
                    self.put(place, &program.bytes());
                }
                self.on_vcpu(flat, vcpu, step)
            }
        }
    }

    fn wrong_fd(&self, flat: bool, call: usize, fd: Wrong) -> StepResult {
        let (call, make) = trait_calls::nth(call);
        let others = Facts::get().others();
        let pipe;
        let fd = match fd {
            // SAFETY: the calls fail, because no file has this number.
            Wrong::Closed => unsafe { BorrowedFd::borrow_raw(RawFd::MAX) },
            Wrong::Pipe => {
                pipe = std::io::pipe().expect("a pipe can be made").0;
                pipe.as_fd()
            }
            Wrong::Kind if call.fd == Fd::Vcpu => self.vm.as_fd(),
            Wrong::Kind => self.fd(0),
            Wrong::Foreign if call.fd == Fd::Vcpu => others.vcpu.as_fd(),
            Wrong::Foreign => others.vm.as_fd(),
        };
        let result = match make {
            Make::Vm(make) => make(self.kvm(flat), fd),
            Make::Vcpu(make) => {
                // The form `bound` tries to bind it.
                *self.bound.borrow_mut() = None;
                let vcpu = self.backends.pick(flat).vcpu(fd);
                vcpu.and_then(|vcpu| make(&*vcpu))
            }
        };
        self.count(call.row().name, result.is_err());
        done(result)
    }

    fn count(&self, name: &'static str, refused: bool) {
        if self.backend() == BackendKind::Mixed {
            let mut made = MADE.lock().expect("no thread panics with the lock");
            made.entry(name).or_default()[usize::from(refused)] += 1;
        }
    }

    /// Maps memory that the kernel has allocated for a slot, and forgets memory
    /// that was deleted with its slot.
    fn map_kernel_memory(&mut self, address: u64, size: u64, model: &Model) -> Result<(), Errno> {
        self.kernel
            .retain(|which, _| model.memory.kernel.contains_key(which));
        let place = model.memory.place(address).filter(|_| size != 0);
        if let Some(Place {
            owner: Owner::Kernel(which),
            ..
        }) = place
            && !self.kernel.contains_key(&which)
        {
            let vm = self.vm.as_fd();
            let memory = self.library().kvm_map_memory(vm, address, size as usize)?;
            self.kernel.insert(which, memory);
        }
        Ok(())
    }

    fn put(&mut self, place: Place, data: &[u8]) {
        let memory = match place.owner {
            Owner::Pool => &mut self.pool,
            Owner::Kernel(which) => self.kernel.get_mut(&which).expect("it is mapped"),
        };
        memory
            .write(place.offset as usize, data)
            .expect("it is within the memory");
    }

    /// Describes a difference to the model, if any.
    pub fn difference(&self, model: &Model) -> Option<String> {
        for (vcpu, expected) in model.vcpus.iter().enumerate() {
            let regs = self.vcpu(false, vcpu).and_then(|vcpu| regs(&*vcpu));
            if regs != Ok(expected.regs) {
                let expected = expected.regs;
                return Some(format!("vCPU {vcpu} has {regs:x?}, not {expected:x?}"));
            }
        }
        let same = |memory: &GuestMemory, expected: &[u8]| {
            let mut bytes = vec![0; memory.len()];
            memory.read(0, &mut bytes).expect("all of it can be read");
            let differs = bytes.iter().zip(expected).position(|(a, b)| a != b);
            differs.map(|at| format!("{at:#x} is {:#x}, not {:#x}", bytes[at], expected[at]))
        };
        if let Some(what) = same(&self.pool, &model.memory.pool) {
            return Some(format!("the caller's memory at {what}"));
        }
        for (which, memory) in &self.kernel {
            if let Some(expected) = model.memory.kernel.get(which)
                && let Some(what) = same(memory, expected)
            {
                return Some(format!("the kernel's memory {which} at {what}"));
            }
        }
        None
    }

    /// The other state of the vCPUs, for comparison between machines.
    pub fn state(&self) -> Vec<(kvm_sregs, kvm_fpu)> {
        let of = |vcpu: usize| {
            let vcpu = self.vcpu(true, vcpu).expect("it can be used");
            let sregs = filled(|sregs| vcpu.kvm_get_sregs(sregs));
            let fpu = filled(|fpu| vcpu.kvm_get_fpu(fpu));
            (
                sregs.expect("a vCPU has them"),
                fpu.expect("a vCPU has them"),
            )
        };
        (0..self.vcpus.len()).map(of).collect()
    }
}

/// The system calls, which the kernel has.
fn calls() -> Syscall {
    Syscall::open().expect("the kernel has the calls")
}

fn regs(vcpu: &dyn Vcpu) -> Result<kvm_regs, Errno> {
    filled(|regs| vcpu.kvm_get_regs(regs))
}

/// Lets the code segment begin at 0.
fn clear_code_segment(vcpu: &dyn Vcpu) -> Result<(), Errno> {
    let mut sregs: kvm_sregs = filled(|sregs| vcpu.kvm_get_sregs(sregs))?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.kvm_set_sregs(&sregs)
}

/// Makes a call, while no file may be opened if `full`.
fn with_files<T>(full: bool, call: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    if full { without_files(call)? } else { call() }
}
