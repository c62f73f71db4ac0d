//! Work on a vcpu's registers.

use anyhow::{Result, ensure};
use kvm_ioctls::VcpuExit;

use super::Peer;
use crate::guest::Mode;
use crate::workload::Workload;

/// An exit, for which the registers are read, changed and written back.
pub struct EmulationLoop<'b> {
    pub peer: Peer<'b>,
    pub mode: Mode,
}

impl Workload for EmulationLoop<'_> {
    fn call(&mut self) {
        let vcpu = &mut self.peer.vcpu;
        let exit = vcpu.run().unwrap();
        assert!(matches!(exit, VcpuExit::IoIn(..) | VcpuExit::MmioRead(..)));
        let mut regs = vcpu.get_regs().unwrap();
        regs.r8 += 1;
        vcpu.set_regs(&regs).unwrap();
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        self.peer.check_rounds(self.mode, calls)?;
        self.peer.check_changes(calls)
    }
}

/// General, special and floating point registers, read and written back.
pub struct Registers<'b>(pub Peer<'b>);

impl Workload for Registers<'_> {
    fn call(&mut self) {
        let vcpu = &self.0.vcpu;
        let mut regs = vcpu.get_regs().unwrap();
        let sregs = vcpu.get_sregs().unwrap();
        let fpu = vcpu.get_fpu().unwrap();
        regs.r8 += 1;
        vcpu.set_regs(&regs).unwrap();
        vcpu.set_sregs(&sregs).unwrap();
        vcpu.set_fpu(&fpu).unwrap();
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        self.0.check_changes(calls)
    }
}

impl Peer<'_> {
    fn check_changes(&self, calls: u64) -> Result<()> {
        let r8 = self.vcpu.get_regs()?.r8;
        ensure!(r8 == calls, "{r8} of {calls} changes stayed");
        Ok(())
    }
}
