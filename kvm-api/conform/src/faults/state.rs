//! The state that a failing call must not change.

use anyhow::Result;
use guests::TestVm;
use kvm_sys::kvm_memory_alias;

use crate::audit;
use crate::module::loading::{VENDOR, references};
use crate::vcpu_state::VcpuState;

/// The visible state of a machine and of the process.
#[derive(Debug, PartialEq)]
pub struct State {
    vcpu: VcpuState,
    aliases: Vec<kvm_memory_alias>,
    files: Vec<String>,
    machines: usize,
    references: i32,
}

impl State {
    pub fn of(machine: &TestVm<'_>) -> Result<Self> {
        let aliases = (0..kvm_sys::KVM_ALIAS_SLOTS).map(|slot| {
            let mut alias = kvm_memory_alias {
                slot,
                ..Default::default()
            };
            machine.kvm.kvm_get_memory_alias(machine.vm(), &mut alias)?;
            Ok(alias)
        });
        Ok(Self {
            vcpu: VcpuState::of(machine.vcpu())?,
            aliases: aliases.collect::<Result<_>>()?,
            files: audit::open_files()?,
            machines: audit::machines()?.len(),
            references: references(VENDOR)?,
        })
    }

    /// The names of the parts that have changed.
    pub fn differences(&self, now: &Self) -> Vec<&'static str> {
        let all = [
            ("aliases", self.aliases == now.aliases),
            ("files", self.files == now.files),
            ("machines", self.machines == now.machines),
            ("the module's references", self.references == now.references),
        ];
        let other = all.into_iter().filter(|(_, same)| !same);
        let mut differences = self.vcpu.differences(&now.vcpu);
        differences.extend(other.map(|(name, _)| name));
        differences
    }
}
