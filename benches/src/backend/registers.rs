//! Work on a vcpu's registers.

use anyhow::{Result, ensure};
use kvm_api::ioctl::Ioctl;
use kvm_api::{Errno, GetState, SetState, State, Vcpu};
use kvm_bindings::{KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, kvm_fpu, kvm_regs, kvm_sregs};

use super::form::StaticForm;
use super::run::{reason, run_to};
use crate::fixture::{Fixture, check_rounds};
use crate::guest::{Exit, Mode};
use crate::workload::Workload;

/// An exit, for which the registers are read, changed and written back.
pub struct EmulationLoop<'b, B: StaticForm> {
    fixture: Fixture<'b, B>,
    exit: u32,
    mode: Mode,
}

impl<'b, B: StaticForm> EmulationLoop<'b, B> {
    pub fn new(form: &'b B, exit: Exit, mode: Mode) -> Result<Self> {
        Ok(Self {
            fixture: Fixture::with_program(form, exit, mode)?,
            exit: reason(exit),
            mode,
        })
    }
}

/// Whether each of `calls` has had its round and its change.
fn check_changes(mode: Mode, regs: &kvm_regs, calls: u64) -> Result<()> {
    check_rounds(mode, regs, calls)?;
    ensure!(regs.r8 == calls, "{} of {calls} changes stayed", regs.r8);
    Ok(())
}

impl<B: StaticForm> Workload for EmulationLoop<'_, B> {
    fn call(&mut self) {
        let f = &mut self.fixture;
        run_to(&f.vcpu, &mut f.run, self.exit);
        let mut regs = Default::default();
        f.vcpu.kvm_get_regs(&mut regs).unwrap();
        regs.r8 += 1;
        f.vcpu.kvm_set_regs(&regs).unwrap();
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        check_changes(self.mode, &self.fixture.regs()?, calls)
    }
}

/// The same by `KVM_CAP_SYNC_REGS`: the registers come with the exit, in the run
/// mapping, and go back with the next run.
pub struct SyncRegs<'b> {
    fixture: Fixture<'b, Ioctl>,
    exit: u32,
    mode: Mode,
}

impl<'b> SyncRegs<'b> {
    /// Prepares that exit.
    ///
    /// # Errors
    ///
    /// When the kernel refuses something that it begins with.
    pub fn new(kvm: &'b Ioctl, exit: Exit, mode: Mode) -> Result<Self> {
        let mut fixture = Fixture::with_program(kvm, exit, mode)?;
        fixture.run.set_valid_regs(KVM_SYNC_X86_REGS.into());
        Ok(Self {
            fixture,
            exit: reason(exit),
            mode,
        })
    }
}

impl Workload for SyncRegs<'_> {
    fn call(&mut self) {
        let f = &mut self.fixture;
        run_to(&f.vcpu, &mut f.run, self.exit);
        let mut regs = f.run.regs();
        regs.r8 += 1;
        f.run.set_regs(&regs);
        f.run.set_dirty_regs(KVM_SYNC_X86_REGS.into());
    }

    /// The last change has not gone back yet.
    fn check(&mut self, calls: u64) -> Result<()> {
        let mut regs = self.fixture.regs()?;
        regs.r8 += 1;
        check_changes(self.mode, &regs, calls)
    }
}

/// Checks that each of `calls` has changed the registers once.
pub fn check_r8<B: StaticForm>(fixture: &Fixture<'_, B>, calls: u64) -> Result<()> {
    let changes = fixture.regs()?.r8;
    ensure!(changes == calls, "{changes} of {calls} changes stayed");
    Ok(())
}

/// General, special and floating point registers, read and written back.
pub struct ReadWritten<'b, B: StaticForm> {
    fixture: Fixture<'b, B>,
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
}

impl<'b, B: StaticForm> ReadWritten<'b, B> {
    pub fn new(form: &'b B) -> Result<Self> {
        Ok(Self {
            fixture: Fixture::with_program(form, Exit::PioOut, Mode::Long)?,
            regs: kvm_regs::default(),
            sregs: kvm_sregs::default(),
            fpu: kvm_fpu::default(),
        })
    }
}

impl<B: StaticForm> Workload for ReadWritten<'_, B> {
    fn call(&mut self) {
        let vcpu = &self.fixture.vcpu;
        vcpu.kvm_get_regs(&mut self.regs).unwrap();
        vcpu.kvm_get_sregs(&mut self.sregs).unwrap();
        vcpu.kvm_get_fpu(&mut self.fpu).unwrap();
        self.regs.r8 += 1;
        vcpu.kvm_set_regs(&self.regs).unwrap();
        vcpu.kvm_set_sregs(&self.sregs).unwrap();
        vcpu.kvm_set_fpu(&self.fpu).unwrap();
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        check_r8(&self.fixture, calls)
    }
}

/// The same by two merged calls.
pub struct MergedReadWritten<'b, B: StaticForm> {
    fixture: Fixture<'b, B>,
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
}

impl<'b, B: StaticForm> MergedReadWritten<'b, B> {
    pub fn new(form: &'b B) -> Result<Self> {
        Ok(Self {
            fixture: Fixture::with_program(form, Exit::PioOut, Mode::Long)?,
            regs: kvm_regs::default(),
            sregs: kvm_sregs::default(),
            fpu: kvm_fpu::default(),
        })
    }
}

impl<B: StaticForm> Workload for MergedReadWritten<'_, B>
where
    for<'k> B::Vcpu<'k>: State,
{
    fn call(&mut self) {
        let vcpu = &self.fixture.vcpu;
        let get = GetState::new().regs(&mut self.regs);
        let mut get = get.sregs(&mut self.sregs).fpu(&mut self.fpu);
        vcpu.kvm_get_state(&mut get).unwrap();
        self.regs.r8 += 1;
        let set = SetState::new().regs(&self.regs);
        let set = set.sregs(&self.sregs).fpu(&self.fpu);
        vcpu.kvm_set_state(&set).unwrap();
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        check_r8(&self.fixture, calls)
    }
}

/// The same by `KVM_CAP_SYNC_REGS`: general and special registers are in the run
/// mapping, since the last run, and go back with one that ends before it begins. The
/// FPU's do not pass that way.
pub struct SyncedReadWritten<'b> {
    fixture: Fixture<'b, Ioctl>,
    fpu: kvm_fpu,
}

/// The registers that pass with a run.
const SYNCED: u64 = (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS) as u64;

impl<'b> SyncedReadWritten<'b> {
    /// Prepares it: has the registers in the run mapping.
    ///
    /// # Errors
    ///
    /// When the kernel refuses something that it begins with.
    pub fn new(kvm: &'b Ioctl) -> Result<Self> {
        let mut fixture = Fixture::with_program(kvm, Exit::PioOut, Mode::Long)?;
        fixture.run.set_valid_regs(SYNCED);
        fixture.run.set_immediate_exit(true);
        let mut synced = Self {
            fixture,
            fpu: kvm_fpu::default(),
        };
        synced.pass();
        Ok(synced)
    }

    /// A run that loads what is dirty, stores what is valid, and does nothing else.
    #[inline(always)]
    fn pass(&mut self) {
        let f = &mut self.fixture;
        let result = f.vcpu.kvm_run(&mut f.run);
        assert!(matches!(result, Err(Errno::EINTR)));
    }
}

impl Workload for SyncedReadWritten<'_> {
    fn call(&mut self) {
        let f = &mut self.fixture;
        let mut regs = f.run.regs();
        let sregs = f.run.sregs();
        f.vcpu.kvm_get_fpu(&mut self.fpu).unwrap();
        regs.r8 += 1;
        f.run.set_regs(&regs);
        f.run.set_sregs(&sregs);
        f.run.set_dirty_regs(SYNCED);
        f.vcpu.kvm_set_fpu(&self.fpu).unwrap();
        self.pass();
    }

    /// Asks the vcpu, not the mapping; and of the special registers, which the calls
    /// leave as they are, whether a change would have stayed too.
    fn check(&mut self, calls: u64) -> Result<()> {
        check_r8(&self.fixture, calls)?;
        let run = &mut self.fixture.run;
        let mut sregs = run.sregs();
        sregs.cr2 += 1;
        run.set_sregs(&sregs);
        run.set_dirty_regs(SYNCED);
        self.pass();
        let (is, stored) = (self.fixture.sregs()?, self.fixture.run.sregs());
        ensure!(
            is == sregs && stored == sregs,
            "a change of the special registers did not stay"
        );
        Ok(())
    }
}
