//! A virtual machine with one vCPU.

use anyhow::{Context, Result};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// The memory of a guest.
pub type Memory = GuestMemoryMmap<()>;

/// The addresses of three pages that KVM takes from the guest on some of Intel's processors.
const TSS: usize = 0xfffb_d000;

/// A virtual machine. The interrupt controllers and the timer are in the kernel.
pub struct Vm {
    pub vcpu: VcpuFd,
    pub vm: VmFd,
    // KVM uses it until the descriptors are closed, in the order of the fields.
    pub memory: Memory,
}

impl Vm {
    /// Makes a machine with memory from address 0 on. `flags` are those of its slot.
    pub fn new(size: usize, flags: u32) -> Result<Self> {
        let kvm = Kvm::new().context("/dev/kvm")?;
        let vm = kvm.create_vm().context("cannot make a VM")?;
        vm.set_tss_address(TSS).context("KVM_SET_TSS_ADDR")?;
        vm.create_irq_chip().context("KVM_CREATE_IRQCHIP")?;
        vm.create_pit2(kvm_pit_config::default())
            .context("KVM_CREATE_PIT2")?;
        let memory = Memory::from_ranges(&[(GuestAddress(0), size)]).context("no memory")?;
        let vcpu = vm.create_vcpu(0).context("cannot make a vCPU")?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        let cpuid = cpuid.context("KVM_GET_SUPPORTED_CPUID")?;
        vcpu.set_cpuid2(&cpuid).context("KVM_SET_CPUID2")?;
        let this = Self { vcpu, vm, memory };
        this.map(0, GuestAddress(0), GuestAddress(0), size, flags)?;
        Ok(this)
    }

    /// Gives a slot the memory from `from` on, at `at`. A size of 0 empties the slot.
    pub fn map(
        &self,
        slot: u32,
        at: GuestAddress,
        from: GuestAddress,
        size: usize,
        flags: u32,
    ) -> Result<()> {
        let from = self.memory.get_host_address(from).context("no memory")?;
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: at.0,
            memory_size: size as u64,
            userspace_addr: from.expose_provenance() as u64,
        };
        // SAFETY: the mapping lives longer than the VM.
        unsafe { self.vm.set_user_memory_region(region) }
            .with_context(|| format!("cannot map memory at {:#x}", at.0))
    }
}
