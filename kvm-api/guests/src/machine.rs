//! A virtual machine with one vcpu and memory from address 0 on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kvm_api::kvm_sys::{CpuId, kvm_cpuid_entry2, kvm_regs, kvm_segment, kvm_sregs};
use kvm_api::{Errno, Exit, GuestMemory, Kvm, Reason, Result, RunMapping};

/// Where programs are loaded and start.
pub const ENTRY: u64 = 0x1000;
/// The size of the memory. What is above answers no access but by an exit.
pub const MEMORY: usize = 0x10000;
/// The slot of the memory, where slots have numbers.
pub const SLOT: u32 = 0;

const PML4: u64 = 0x8000;
const PDPT: u64 = 0x9000;
const PD: u64 = 0xa000;
const PT: u64 = 0xb000;
/// The linear address of a page that is mapped elsewhere than at itself.
pub const ELSEWHERE: u64 = 0x20_0000;
/// The guest physical address of that page.
pub const ELSEWHERE_PHYS: u64 = 0x5000;

/// The machine. What fails in its methods panics.
pub struct Machine<'k> {
    /// What it is driven through.
    pub kvm: &'k dyn Kvm,
    /// The vcpu's run mapping.
    pub run: RunMapping,
    /// The vcpu.
    pub vcpu: OwnedFd,
    /// The virtual machine.
    pub vm: OwnedFd,
    /// The guest's memory.
    // After the machine, which uses it.
    pub memory: GuestMemory,
}

impl<'k> Machine<'k> {
    /// In real mode, at [`ENTRY`].
    pub fn new(kvm: &'k dyn Kvm) -> Self {
        Self::with_flags(kvm, 0)
    }

    /// The same, with flags for the memory.
    pub fn with_flags(kvm: &'k dyn Kvm, flags: u32) -> Self {
        Self::of_vm(kvm, kvm.kvm_create_vm().unwrap(), flags)
    }

    /// The same, of a virtual machine that has neither memory nor vcpus yet.
    pub fn of_vm(kvm: &'k dyn Kvm, vm: OwnedFd, flags: u32) -> Self {
        let memory = GuestMemory::anonymous(MEMORY).unwrap();
        let address = memory.as_ptr().expose_provenance() as u64;
        let size = MEMORY as u64;
        // SAFETY: the memory is the guest's alone until the machine is dropped.
        let given = unsafe {
            match kvm.kvm_set_user_memory_region(vm.as_fd(), SLOT, flags, 0, size, address) {
                Err(Errno::ENOSYS) => kvm.kvm_map_range(vm.as_fd(), 0, size, address, flags),
                given => given,
            }
        };
        given.unwrap();
        let (vcpu, run) = new_vcpu(kvm, vm.as_fd());
        let mut machine = Self {
            kvm,
            run,
            vcpu,
            vm,
            memory,
        };
        machine.make_ready();
        machine
    }

    /// Has another vcpu take the place of the one that there is.
    pub fn replace_vcpu(&mut self) {
        (self.vcpu, self.run) = new_vcpu(self.kvm, self.vm.as_fd());
        self.make_ready();
    }

    fn make_ready(&mut self) {
        self.change_sregs(|sregs| {
            sregs.cs.base = 0;
            sregs.cs.selector = 0;
        });
        self.start_at(ENTRY);
    }

    /// The virtual machine, to hand over.
    #[must_use]
    pub fn vm(&self) -> BorrowedFd<'_> {
        self.vm.as_fd()
    }

    /// The vcpu, to hand over.
    #[must_use]
    pub fn vcpu(&self) -> BorrowedFd<'_> {
        self.vcpu.as_fd()
    }

    /// Puts a program at [`ENTRY`].
    pub fn load(&mut self, program: &[u8]) {
        self.memory.write(ENTRY as usize, program).unwrap();
    }

    /// Clears the registers, but for a stack, and goes on at `rip`.
    pub fn start_at(&mut self, rip: u64) {
        let regs = kvm_regs {
            rip,
            rsp: 0x4000,
            rflags: 2,
            ..Default::default()
        };
        self.kvm.kvm_set_regs(self.vcpu(), &regs).unwrap();
    }

    /// The general registers.
    #[must_use]
    pub fn regs(&self) -> kvm_regs {
        let mut regs = kvm_regs::default();
        self.kvm.kvm_get_regs(self.vcpu(), &mut regs).unwrap();
        regs
    }

    /// The special registers.
    #[must_use]
    pub fn sregs(&self) -> kvm_sregs {
        let mut sregs = kvm_sregs::default();
        self.kvm.kvm_get_sregs(self.vcpu(), &mut sregs).unwrap();
        sregs
    }

    /// Changes some of the general registers.
    pub fn change_regs(&mut self, change: impl FnOnce(&mut kvm_regs)) {
        let mut regs = self.regs();
        change(&mut regs);
        self.kvm.kvm_set_regs(self.vcpu(), &regs).unwrap();
    }

    /// Changes some of the special registers.
    pub fn change_sregs(&mut self, change: impl FnOnce(&mut kvm_sregs)) {
        let mut sregs = self.sregs();
        change(&mut sregs);
        self.kvm.kvm_set_sregs(self.vcpu(), &sregs).unwrap();
    }

    /// Runs to the next exit.
    #[track_caller]
    pub fn run(&mut self) -> Exit<'_> {
        self.kvm.kvm_run(self.vcpu.as_fd(), &mut self.run).unwrap()
    }

    /// Runs to the next exit, or an error.
    pub fn try_run(&mut self) -> Result<Reason> {
        Ok(self.kvm.kvm_run(self.vcpu.as_fd(), &mut self.run)?.reason())
    }

    /// Runs to the next exit, which is the byte written to a port.
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

    /// Runs to the next exit, which is a halt.
    #[track_caller]
    pub fn run_to_hlt(&mut self) {
        assert_eq!(self.run().reason(), Reason::Hlt);
    }

    /// Puts the vcpu into 64-bit mode: the first 2 MiB are mapped at themselves,
    /// and a page at [`ELSEWHERE`] to [`ELSEWHERE_PHYS`].
    pub fn enter_long_mode(&mut self) {
        const CPUID_LM: u32 = 1 << 29;
        let leaf = |function, eax, edx| kvm_cpuid_entry2 {
            function,
            eax,
            edx,
            ..Default::default()
        };
        // KVM takes no EFER.LME from a vcpu whose CPUID knows no long mode.
        let cpuid = [
            leaf(0, 1, 0),
            leaf(1, 0, 0),
            leaf(0x8000_0000, 0x8000_0001, 0),
            leaf(0x8000_0001, 0, CPUID_LM),
        ];
        let cpuid = CpuId::from_entries(&cpuid).unwrap();
        self.kvm.kvm_set_cpuid(self.vcpu(), &cpuid).unwrap();

        const PRESENT_WRITABLE: u64 = 3;
        const LARGE: u64 = 1 << 7;
        let tables = [
            (PML4, PDPT | PRESENT_WRITABLE),
            (PDPT, PD | PRESENT_WRITABLE),
            (PD, LARGE | PRESENT_WRITABLE),
            (PD + 8, PT | PRESENT_WRITABLE),
            (PT, ELSEWHERE_PHYS | PRESENT_WRITABLE),
        ];
        for (address, entry) in tables {
            self.memory
                .write(address as usize, &entry.to_le_bytes())
                .unwrap();
        }
        self.change_sregs(|sregs| {
            const CR0_PE_ET_NE_PG: u64 = 1 | 1 << 4 | 1 << 5 | 1 << 31;
            const CR4_PAE: u64 = 1 << 5;
            const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
            sregs.cr3 = PML4;
            sregs.cr4 = CR4_PAE;
            sregs.cr0 = CR0_PE_ET_NE_PG;
            sregs.efer = EFER_LME_LMA;
            let flat = |segment: &mut kvm_segment, type_: u8| {
                segment.base = 0;
                segment.limit = 0xffff_ffff;
                segment.type_ = type_;
                segment.present = 1;
                segment.s = 1;
                segment.g = 1;
            };
            flat(&mut sregs.cs, 0b1011);
            sregs.cs.selector = 8;
            sregs.cs.l = 1;
            sregs.cs.db = 0;
            for data in [&mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
                flat(data, 0b0011);
                data.selector = 16;
                data.db = 1;
            }
        });
    }
}

fn new_vcpu(kvm: &dyn Kvm, vm: BorrowedFd<'_>) -> (OwnedFd, RunMapping) {
    let vcpu = kvm.kvm_create_vcpu(vm).unwrap();
    let size = kvm.kvm_get_vcpu_mmap_size(vm).unwrap();
    let run = RunMapping::new(vcpu.as_fd(), size).unwrap();
    (vcpu, run)
}
