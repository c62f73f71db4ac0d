//! The numbers of the MSRs that tests and properties use.

/// IA32_TIME_STAMP_COUNTER.
pub const TSC: u32 = 0x10;
/// IA32_APIC_BASE.
pub const APIC_BASE: u32 = 0x1b;
/// IA32_SYSENTER_CS, which has no effect on a vCPU that does not run.
pub const SYSENTER_CS: u32 = 0x174;
/// IA32_TSC_DEADLINE.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// The task priority register of an APIC in x2APIC mode.
pub const X2APIC_TPR: u32 = 0x808;
/// The end of an interrupt, in x2APIC mode.
pub const X2APIC_EOI: u32 = 0x80b;
/// The spurious-interrupt vector register, in x2APIC mode.
pub const X2APIC_SPIV: u32 = 0x80f;
/// The interrupt command register, in x2APIC mode.
pub const X2APIC_ICR: u32 = 0x830;
/// The timer's entry of the local vector table, in x2APIC mode.
pub const X2APIC_LVTT: u32 = 0x832;
/// An interrupt to the vCPU itself, in x2APIC mode.
pub const X2APIC_SELF_IPI: u32 = 0x83f;
/// HV_X64_MSR_RESET.
pub const HV_RESET: u32 = 0x4000_0003;
/// HV_X64_MSR_TPR.
pub const HV_TPR: u32 = 0x4000_0072;
/// MSR_KVM_ASYNC_PF_EN.
pub const ASYNC_PF_EN: u32 = 0x4b56_4d02;
/// MSR_KVM_PV_EOI_EN.
pub const PV_EOI_EN: u32 = 0x4b56_4d04;
/// MSR_KVM_POLL_CONTROL.
pub const POLL_CONTROL: u32 = 0x4b56_4d05;
/// EFER.
pub const EFER: u32 = 0xc000_0080;
/// The base of segment FS.
pub const FS_BASE: u32 = 0xc000_0100;
/// The base of segment GS.
pub const GS_BASE: u32 = 0xc000_0101;
