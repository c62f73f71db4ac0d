//! Parts of the state that only migration needs, of a vCPU without a local APIC.

use kvm_api::kvm_sys::*;
use kvm_api::{GetState, Result, SetState, State, XsaveArea};

pub struct Migrated {
    pub sregs2: kvm_sregs2,
    xsave: XsaveArea,
    mp_state: kvm_mp_state,
    nested_state: KvmNestedStateBuffer,
    cpuid: CpuId,
    tsc_khz: u32,
    tsc_offset: u64,
}

impl Migrated {
    pub fn room() -> Self {
        Self {
            sregs2: kvm_sregs2::default(),
            xsave: XsaveArea::new(4096),
            mp_state: kvm_mp_state::default(),
            nested_state: KvmNestedStateBuffer::empty(),
            cpuid: CpuId::new(KVM_MAX_CPUID_ENTRIES).expect("the entries fit"),
            tsc_khz: 0,
            tsc_offset: 0,
        }
    }

    pub fn get(&mut self, vcpu: &impl State) -> Result<()> {
        // A call replaces the room by what it has needed.
        *self = Self::room();
        let mut state = GetState::new()
            .sregs2(&mut self.sregs2)
            .xsave(&mut self.xsave)
            .mp_state(&mut self.mp_state)
            .nested_state(&mut self.nested_state)
            .cpuid(&mut self.cpuid)
            .tsc_khz(&mut self.tsc_khz)
            .tsc_offset(&mut self.tsc_offset);
        vcpu.kvm_get_state(&mut state).map(drop)
    }

    /// Sets the parts, and the nested state, which a vCPU that has run refuses, or not.
    pub fn set(&self, vcpu: &impl State, nested: bool) -> Result<()> {
        let state = SetState::new()
            .sregs2(&self.sregs2)
            .xsave(&self.xsave)
            .mp_state(&self.mp_state)
            .cpuid(&self.cpuid)
            .tsc_khz(&self.tsc_khz)
            .tsc_offset(&self.tsc_offset);
        let state = match nested {
            true => state.nested_state(&self.nested_state),
            false => state,
        };
        vcpu.kvm_set_state(&state).map(drop)
    }
}
