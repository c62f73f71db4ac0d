//! A virtual machine with one vCPU, and memory from address 0 on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use kvm_api::kvm_sys::{kvm_regs, kvm_sregs};
use kvm_api::{
    Backend, ByFd, Errno, Exit, GuestMemory, Kvm, Reason, RunMapping, SlotMemory, Vcpu, Vm,
    VmMemory,
};

use crate::long_mode::{self, PageTables};

/// The address at which programs are loaded and start.
pub const ENTRY: u64 = 0x1000;
/// The size of the memory. A guest's access above it is an exit.
pub const MEMORY: usize = 0x10000;
/// The slot of the memory, on backends that number the slots.
pub const SLOT: u32 = 0;
/// The linear address of a page that is mapped to [`ELSEWHERE_PHYS`].
pub const ELSEWHERE: u64 = long_mode::MAPPED;
/// The guest physical address of that page.
pub const ELSEWHERE_PHYS: u64 = 0x5000;

const TABLES: u64 = 0x8000;

/// A virtual machine with one vCPU.
pub struct TestVm<'k> {
    /// The interface that has made it.
    pub kvm: &'k dyn Kvm,
    /// The form that names its vCPU and its memory, if they are not named by
    /// descriptors and slots.
    backend: Option<&'k Backend>,
    /// The vCPU's run mapping.
    pub run: RunMapping,
    /// The vCPU, which all methods use.
    pub vcpu: Box<dyn Vcpu + 'k>,
    /// The virtual machine.
    pub vm: Vm,
    /// Its descriptor, if `vm` is not one.
    descriptor: Option<OwnedFd>,
    /// The guest's memory.
    // Dropped after the virtual machine, which uses it.
    pub memory: GuestMemory,
}

/// Constructors of tests, which panic if a call fails.
impl<'k> TestVm<'k> {
    /// Makes a virtual machine in real mode, at [`ENTRY`].
    pub fn new(kvm: &'k dyn Kvm) -> Self {
        Self::with_flags(kvm, 0)
    }

    /// Makes a virtual machine with flags for its memory.
    pub fn with_flags(kvm: &'k dyn Kvm, flags: u32) -> Self {
        Self::of_vm(kvm, kvm.kvm_create_vm().unwrap(), flags)
    }

    /// Gives memory and a vCPU to a virtual machine that has neither.
    pub fn of_vm(kvm: &'k dyn Kvm, vm: OwnedFd, flags: u32) -> Self {
        Self::make(kvm, None, Vm::Fd(vm), flags)
    }

    /// Makes a virtual machine of a form, with flags for its memory.
    pub fn of_form(backend: &'k Backend, flags: u32) -> Self {
        let fd = backend.kvm_create_vm().unwrap();
        let again = fd.try_clone().unwrap();
        let vm = backend.vm(fd).unwrap();
        let is_descriptor = matches!(vm, Vm::Fd(_));
        let machine = Self::make(&**backend, Some(backend), vm, flags);
        Self {
            descriptor: (!is_descriptor).then_some(again),
            ..machine
        }
    }

    fn make(kvm: &'k dyn Kvm, backend: Option<&'k Backend>, vm: Vm, flags: u32) -> Self {
        let memory = GuestMemory::anonymous(MEMORY).unwrap();
        let address = memory.as_ptr().expose_provenance() as u64;
        let of_vm: Box<dyn VmMemory> = match backend {
            None => Box::new(SlotMemory::new(kvm, vm.as_fd())),
            Some(backend) => backend.memory(vm.as_fd()),
        };
        // SAFETY: nothing else uses the memory until the machine is dropped.
        unsafe { of_vm.map(SLOT, flags, 0, MEMORY as u64, address) }.unwrap();
        drop(of_vm);
        let machine = Self::with_memory(kvm, backend, vm, memory).unwrap();
        make_ready(&*machine.vcpu);
        machine
    }

    /// Replaces the vCPU by a new one. A vCPU that is bound has to be unbound first.
    pub fn replace_vcpu(&mut self) {
        (self.vcpu, self.run) = form_vcpu(self.kvm, self.backend, &self.vm).unwrap();
        make_ready(&*self.vcpu);
    }

    /// Adds a vCPU, in real mode at [`ENTRY`].
    #[must_use]
    pub fn add_vcpu(&self) -> (OwnedFd, RunMapping) {
        let (vcpu, run) = new_vcpu(self.kvm, self.vm()).unwrap();
        make_ready(&ByFd::new(self.kvm, vcpu.as_fd()));
        (vcpu, run)
    }
}

impl<'k> TestVm<'k> {
    /// Makes a vCPU in a virtual machine that has `memory`.
    pub(crate) fn with_memory(
        kvm: &'k dyn Kvm,
        backend: Option<&'k Backend>,
        vm: Vm,
        memory: GuestMemory,
    ) -> Result<Self> {
        let (vcpu, run) = form_vcpu(kvm, backend, &vm)?;
        Ok(Self {
            kvm,
            backend,
            run,
            vcpu,
            vm,
            descriptor: None,
            memory,
        })
    }

    /// The virtual machine, for the calls of the form.
    #[must_use]
    pub fn vm(&self) -> BorrowedFd<'_> {
        self.vm.as_fd()
    }

    /// The descriptor of the virtual machine, for any interface.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        match &self.descriptor {
            Some(fd) => fd.as_fd(),
            None => self.vm(),
        }
    }

    /// The descriptor of the vCPU.
    #[must_use]
    pub fn vcpu(&self) -> BorrowedFd<'_> {
        self.vcpu.as_fd()
    }
}

/// Operations of tests, which panic if a call fails.
impl TestVm<'_> {
    /// A new descriptor of the virtual machine.
    #[must_use]
    pub fn vm_fd(&self) -> OwnedFd {
        self.descriptor().try_clone_to_owned().unwrap()
    }

    /// A new descriptor of the vCPU.
    #[must_use]
    pub fn vcpu_fd(&self) -> OwnedFd {
        self.vcpu().try_clone_to_owned().unwrap()
    }

    /// Loads a program at [`ENTRY`].
    pub fn load(&mut self, program: &[u8]) {
        self.memory.write(ENTRY as usize, program).unwrap();
    }

    /// Clears the general registers, except the stack pointer, and continues at
    /// `rip`.
    pub fn start_at(&mut self, rip: u64) {
        self.vcpu.kvm_set_regs(&regs_at(rip)).unwrap();
    }

    /// The general registers.
    #[must_use]
    pub fn regs(&self) -> kvm_regs {
        let mut regs = kvm_regs::default();
        self.vcpu.kvm_get_regs(&mut regs).unwrap();
        regs
    }

    /// The special registers.
    #[must_use]
    pub fn sregs(&self) -> kvm_sregs {
        let mut sregs = kvm_sregs::default();
        self.vcpu.kvm_get_sregs(&mut sregs).unwrap();
        sregs
    }

    /// Changes some of the general registers.
    pub fn change_regs(&mut self, change: impl FnOnce(&mut kvm_regs)) {
        let mut regs = self.regs();
        change(&mut regs);
        self.vcpu.kvm_set_regs(&regs).unwrap();
    }

    /// Changes some of the special registers.
    pub fn change_sregs(&mut self, change: impl FnOnce(&mut kvm_sregs)) {
        let mut sregs = self.sregs();
        change(&mut sregs);
        self.vcpu.kvm_set_sregs(&sregs).unwrap();
    }

    /// Runs to the next exit.
    #[track_caller]
    pub fn run(&mut self) -> Exit<'_> {
        self.vcpu.kvm_run(&mut self.run).unwrap()
    }

    /// Runs to the next exit.
    ///
    /// # Errors
    ///
    /// Those of `kvm_run`.
    pub fn try_run(&mut self) -> Result<Reason, Errno> {
        Ok(self.vcpu.kvm_run(&mut self.run)?.reason())
    }

    /// Runs to the next exit, which must be a write of a byte to a port, and
    /// returns the byte.
    #[track_caller]
    pub fn run_to_out(&mut self, expected: u16) -> u8 {
        let exit = self.run();
        let reason = exit.reason();
        let mut data = [0];
        assert!(
            matches!(
                reason,
                Reason::Io { direction: kvm_api::Direction::Out, port, size: 1, count: 1 }
                    if port == expected
            ),
            "{reason:?}"
        );
        assert_eq!(exit.read_data(&mut data), 1);
        data[0]
    }

    /// Runs to the next exit, which must be a halt.
    #[track_caller]
    pub fn run_to_hlt(&mut self) {
        assert_eq!(self.run().reason(), Reason::Hlt);
    }

    /// Puts the vCPU into 64-bit mode. The first 2 MiB are mapped to themselves,
    /// and the page at [`ELSEWHERE`] to [`ELSEWHERE_PHYS`].
    pub fn enter_long_mode(&mut self) {
        let leaves = [long_mode::leaf(0, 1, 0), long_mode::leaf(1, 0, 0)];
        let cpuid = long_mode::cpuid(&leaves);
        self.vcpu.kvm_set_cpuid(&cpuid).unwrap();
        let tables = PageTables { at: TABLES };
        for (address, entry) in tables
            .identity()
            .into_iter()
            .chain(tables.page(ELSEWHERE_PHYS))
        {
            self.memory.write(address as usize, &entry).unwrap();
        }
        self.change_sregs(|sregs| {
            const ET: u64 = 1 << 4;
            long_mode::enter(sregs, tables, ET);
        });
    }
}

/// General registers that are clear, except a stack.
fn regs_at(rip: u64) -> kvm_regs {
    kvm_regs {
        rip,
        rsp: 0x4000,
        rflags: 2,
        ..Default::default()
    }
}

fn make_ready(vcpu: &dyn Vcpu) {
    let mut sregs = kvm_sregs::default();
    vcpu.kvm_get_sregs(&mut sregs).unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.kvm_set_sregs(&sregs).unwrap();
    vcpu.kvm_set_regs(&regs_at(ENTRY)).unwrap();
}

/// Makes a vCPU, named as the form does if there is one.
fn form_vcpu<'k>(
    kvm: &'k dyn Kvm,
    backend: Option<&'k Backend>,
    vm: &Vm,
) -> Result<(Box<dyn Vcpu + 'k>, RunMapping)> {
    let (vcpu, run) = new_vcpu(kvm, vm.as_fd())?;
    let vcpu = match backend {
        None => Box::new(ByFd::new(kvm, vcpu)),
        Some(backend) => backend.vcpu(vcpu).context("the vCPU of the form")?,
    };
    Ok((vcpu, run))
}

fn new_vcpu(kvm: &dyn Kvm, vm: BorrowedFd<'_>) -> Result<(OwnedFd, RunMapping)> {
    let vcpu = kvm.kvm_create_vcpu(vm).context("kvm_create_vcpu")?;
    let size = kvm.kvm_get_vcpu_mmap_size(vm);
    let size = size.context("kvm_get_vcpu_mmap_size")?;
    let run = RunMapping::new(vcpu.as_fd(), size).context("mmap of the vCPU")?;
    Ok((vcpu, run))
}
