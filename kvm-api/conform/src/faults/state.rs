//! The state that a failing call must not change.

use std::fs;

use anyhow::{Context, Result};
use guests::TestVm;
use kvm_sys::{Msrs, kvm_fpu, kvm_memory_alias, kvm_msr_entry, kvm_regs, kvm_sregs};

/// The visible state of a machine and of the process.
#[derive(Debug, PartialEq)]
pub struct State {
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
    msr: u64,
    /// The guest physical pages whose memory can be mapped, and the aliases.
    aliases: Vec<kvm_memory_alias>,
    files: Vec<String>,
    machines: usize,
    module: String,
}

impl State {
    pub fn of(machine: &TestVm<'_>) -> Result<Self> {
        let mut fpu = kvm_fpu::default();
        machine.kvm.kvm_get_fpu(machine.vcpu(), &mut fpu)?;
        let entry = kvm_msr_entry {
            index: 0x174,
            ..Default::default()
        };
        let mut msrs = Msrs::from_entries(&[entry])?;
        machine.kvm.kvm_get_msrs(machine.vcpu(), &mut msrs)?;
        let aliases = (0..kvm_sys::KVM_ALIAS_SLOTS).map(|slot| {
            let mut alias = kvm_memory_alias {
                slot,
                ..Default::default()
            };
            machine.kvm.kvm_get_memory_alias(machine.vm(), &mut alias)?;
            Ok(alias)
        });
        Ok(Self {
            regs: machine.regs(),
            sregs: machine.sregs(),
            fpu,
            msr: msrs.as_slice()[0].data,
            aliases: aliases.collect::<Result<_>>()?,
            files: names("/proc/self/fd")?,
            machines: names("/sys/kernel/debug/kvm")?.len(),
            module: read("/sys/module/kvm_amd/refcnt")?,
        })
    }

    /// Describes what has changed.
    pub fn differences(&self, now: &Self) -> Vec<&'static str> {
        let all = [
            ("regs", self.regs == now.regs),
            ("sregs", self.sregs == now.sregs),
            ("fpu", self.fpu == now.fpu),
            ("msr", self.msr == now.msr),
            ("aliases", self.aliases == now.aliases),
            ("files", self.files == now.files),
            ("machines", self.machines == now.machines),
            ("the module's references", self.module == now.module),
        ];
        let other = all.into_iter().filter(|(_, same)| !same);
        other.map(|(name, _)| name).collect()
    }
}

fn names(dir: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.to_owned())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.to_owned())
}
