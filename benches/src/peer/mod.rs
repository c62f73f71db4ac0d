//! The cases through `kvm-ioctls`, the crate that VMMs use today, for each call
//! that it has: what the ioctl backend is held against.

mod memory;
mod work;

use std::os::fd::{AsFd, IntoRawFd};

use anyhow::{Context, Result};
use kvm_api::Errno;
use kvm_api::ioctl::Ioctl;
use kvm_api::kvm_sys::{FlatCall, KVM_CAP_NR_MEMSLOTS};
use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_MEM_LOG_DIRTY_PAGES, kvm_guest_debug, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use self::work::{EmulationLoop, Registers};
use crate::backend::{BySlot, PLACE, SLOT, Window, msrs, on_memory, supported_cpuid};
use crate::cases::Case;
use crate::fixture::{Fixture, check_rounds};
use crate::guest::{self, Exit, Mode};
use crate::workload::{Plain, Workload};

/// The crate's handle, and the backend that sets the cases up.
pub struct KvmIoctls {
    kvm: Kvm,
    setup: Ioctl,
}

impl KvmIoctls {
    /// Opens `/dev/kvm` for both.
    ///
    /// # Errors
    ///
    /// When that cannot be.
    pub fn open() -> Result<Self> {
        Ok(Self {
            kvm: Kvm::new().context("/dev/kvm")?,
            setup: Ioctl::open().context("/dev/kvm")?,
        })
    }

    /// Prepares `case`; `None` where the crate has no such call.
    ///
    /// # Errors
    ///
    /// When the kernel refuses something that the case begins with.
    pub fn prepare(&self, case: Case) -> Result<Option<Box<dyn Workload + '_>>> {
        let program = |exit, mode| self.wrap(Fixture::with_program(&self.setup, exit, mode)?);
        Ok(Some(match case {
            Case::NullSyscall => return Ok(None),
            Case::Call(call) => return self.call(call),
            Case::Run(exit, mode) => Box::new(Run {
                peer: program(exit, mode)?,
                exit,
                mode,
            }),
            Case::ImmediateExit => {
                let mut peer = program(Exit::PioOut, Mode::Real)?;
                peer.vcpu.set_kvm_immediate_exit(1);
                Box::new(ImmediateExit(peer))
            }
            Case::EmulationLoop(exit, mode) => Box::new(EmulationLoop {
                peer: program(exit, mode)?,
                mode,
            }),
            Case::Registers => Box::new(Registers(program(Exit::PioOut, Mode::Long)?)),
            Case::Memory(work) => {
                let window = Window::new(&self.setup)?;
                let vm = self.vm(&window.fixture)?;
                on_memory(window, BySlot(vm), work)
            }
            Case::Snapshot | Case::Step | Case::Kick | Case::Interrupt => return Ok(None),
        }))
    }

    /// Hands a fixture's descriptors to the crate.
    fn wrap<'b>(&self, fixture: Fixture<'b, Ioctl>) -> Result<Peer<'b>> {
        let vm = self.vm(&fixture)?;
        let vcpu = fixture.vcpu.as_fd().try_clone_to_owned()?.into_raw_fd();
        // SAFETY: the descriptor is that of a vcpu, and nobody else's.
        let vcpu = unsafe { vm.create_vcpu_from_rawfd(vcpu) }.context("the vcpu")?;
        Ok(Peer { vm, vcpu, fixture })
    }

    fn vm(&self, fixture: &Fixture<'_, Ioctl>) -> Result<VmFd> {
        let vm = fixture.vm.try_clone()?.into_raw_fd();
        // SAFETY: the descriptor is a VM's, and nobody else's.
        unsafe { self.kvm.create_vmfd_from_rawfd(vm) }.context("the VM")
    }

    fn call(&self, call: FlatCall) -> Result<Option<Box<dyn Workload + '_>>> {
        let kvm = &self.kvm;
        let peer = self.wrap(Fixture::new(&self.setup)?)?;
        Ok(Some(match call {
            FlatCall::kvm_create_vm => Box::new(CreateVm { kvm, vm: None }),
            FlatCall::kvm_get_msr_index_list => Box::new(Plain(move || {
                kvm.get_msr_index_list().unwrap();
            })),
            FlatCall::kvm_get_vcpu_mmap_size => Box::new(Plain(move || {
                kvm.get_vcpu_mmap_size().unwrap();
            })),
            FlatCall::kvm_create_vcpu => Box::new(CreateVcpu {
                kvm,
                vm: None,
                vcpu: None,
            }),
            FlatCall::kvm_get_dirty_log => {
                peer.set_region(guest::MEMORY, KVM_MEM_LOG_DIRTY_PAGES);
                Box::new(Plain(move || {
                    let size = guest::MEMORY as usize;
                    peer.vm.get_dirty_log(SLOT, size).unwrap();
                }))
            }
            FlatCall::kvm_get_regs => Box::new(Plain(move || {
                peer.vcpu.get_regs().unwrap();
            })),
            FlatCall::kvm_set_regs => {
                let regs = peer.vcpu.get_regs()?;
                Box::new(Plain(move || peer.vcpu.set_regs(&regs).unwrap()))
            }
            FlatCall::kvm_get_sregs => Box::new(Plain(move || {
                peer.vcpu.get_sregs().unwrap();
            })),
            FlatCall::kvm_set_sregs => {
                let sregs = peer.vcpu.get_sregs()?;
                Box::new(Plain(move || peer.vcpu.set_sregs(&sregs).unwrap()))
            }
            FlatCall::kvm_translate => Box::new(Plain(move || {
                let translation = peer.vcpu.translate_gva(guest::CODE).unwrap();
                assert!(translation.physical_address == guest::CODE && translation.valid == 1);
            })),
            FlatCall::kvm_debug_guest => {
                let debug = kvm_guest_debug {
                    control: KVM_GUESTDBG_ENABLE,
                    ..Default::default()
                };
                Box::new(Plain(move || peer.vcpu.set_guest_debug(&debug).unwrap()))
            }
            FlatCall::kvm_get_msrs => {
                let mut msrs = msrs()?;
                Box::new(Plain(move || {
                    assert!(peer.vcpu.get_msrs(&mut msrs).unwrap() == 1);
                }))
            }
            FlatCall::kvm_set_msrs => {
                let msrs = msrs()?;
                Box::new(Plain(move || {
                    assert!(peer.vcpu.set_msrs(&msrs).unwrap() == 1);
                }))
            }
            FlatCall::kvm_set_cpuid => {
                let cpuid = supported_cpuid()?;
                Box::new(Plain(move || peer.vcpu.set_cpuid2(&cpuid).unwrap()))
            }
            FlatCall::kvm_get_fpu => Box::new(Plain(move || {
                peer.vcpu.get_fpu().unwrap();
            })),
            FlatCall::kvm_set_fpu => {
                let fpu = peer.vcpu.get_fpu()?;
                Box::new(Plain(move || peer.vcpu.set_fpu(&fpu).unwrap()))
            }
            FlatCall::kvm_check_extension => Box::new(Plain(move || {
                let slots = peer.vm.check_extension_raw(KVM_CAP_NR_MEMSLOTS.into());
                assert!(slots > 0);
            })),
            FlatCall::kvm_set_user_memory_region => Box::new(SetRegion(peer)),
            FlatCall::kvm_set_memory_region
            | FlatCall::kvm_get_memory_alias
            | FlatCall::kvm_run
            | FlatCall::kvm_interrupt
            | FlatCall::kvm_set_signal_mask
            | FlatCall::kvm_set_memory_alias => return Ok(None),
        }))
    }
}

struct Peer<'b> {
    vm: VmFd,
    vcpu: VcpuFd,
    fixture: Fixture<'b, Ioctl>,
}

impl Peer<'_> {
    fn set_region(&self, memory_size: u64, flags: u32) {
        let region = kvm_userspace_memory_region {
            slot: SLOT,
            flags,
            guest_phys_addr: PLACE,
            memory_size,
            userspace_addr: self.fixture.memory.as_ptr() as u64,
        };
        // SAFETY: the fixture's memory is mapped as long as its VM is there.
        unsafe { self.vm.set_user_memory_region(region) }.unwrap();
    }

    fn check_rounds(&self, mode: Mode, runs: u64) -> Result<()> {
        check_rounds(mode, &self.vcpu.get_regs()?, runs)
    }
}

struct SetRegion<'b>(Peer<'b>);

impl Workload for SetRegion<'_> {
    fn apart(&self) -> bool {
        true
    }

    fn call(&mut self) {
        self.0.set_region(guest::MEMORY, 0);
    }

    fn after(&mut self) {
        self.0.set_region(0, 0);
    }
}

struct CreateVm<'b> {
    kvm: &'b Kvm,
    vm: Option<VmFd>,
}

impl Workload for CreateVm<'_> {
    fn apart(&self) -> bool {
        true
    }

    fn call(&mut self) {
        self.vm = Some(self.kvm.create_vm().unwrap());
    }

    fn after(&mut self) {
        self.vm = None;
    }
}

struct CreateVcpu<'b> {
    kvm: &'b Kvm,
    vm: Option<VmFd>,
    vcpu: Option<VcpuFd>,
}

impl Workload for CreateVcpu<'_> {
    fn apart(&self) -> bool {
        true
    }

    fn before(&mut self) {
        self.vm = Some(self.kvm.create_vm().unwrap());
    }

    fn call(&mut self) {
        let vm = self.vm.as_ref().expect("made before");
        self.vcpu = Some(vm.create_vcpu(0).unwrap());
    }

    fn after(&mut self) {
        self.vcpu = None;
        self.vm = None;
    }
}

struct Run<'b> {
    peer: Peer<'b>,
    exit: Exit,
    mode: Mode,
}

impl Workload for Run<'_> {
    fn call(&mut self) {
        let exit = match self.peer.vcpu.run().unwrap() {
            VcpuExit::IoOut(..) => Exit::PioOut,
            VcpuExit::IoIn(..) => Exit::PioIn,
            VcpuExit::MmioWrite(..) => Exit::MmioWrite,
            VcpuExit::MmioRead(..) => Exit::MmioRead,
            VcpuExit::Hlt => Exit::Hlt,
            other => panic!("{other:?}"),
        };
        assert!(exit == self.exit);
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        self.peer.check_rounds(self.mode, calls)
    }
}

struct ImmediateExit<'b>(Peer<'b>);

impl Workload for ImmediateExit<'_> {
    fn call(&mut self) {
        let result = self.0.vcpu.run();
        assert!(matches!(result, Err(e) if e.errno() == Errno::EINTR as i32));
    }

    fn check(&mut self, _calls: u64) -> Result<()> {
        self.0.check_rounds(Mode::Real, 0)
    }
}
