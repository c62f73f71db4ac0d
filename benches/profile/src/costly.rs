//! The names of costly instructions.

use iced_x86::{Instruction, Mnemonic, Register};

use crate::constants::Constants;

/// The instructions that cost much more than others, or whose number says something about
/// the way into the kernel, the switch of state or a mitigation.
const COSTLY: [&[Mnemonic]; 7] = {
    use Mnemonic::*;
    [
        // The way into the kernel and back.
        &[
            Syscall, Sysretq, Iretq, Swapgs, Clac, Stac, Cli, Sti, Pushfq, Popfq,
        ],
        // Serializing, and fences.
        &[
            Cpuid, Serialize, Lfence, Mfence, Sfence, Pause, Rdtsc, Rdtscp, Rdpmc, Verw,
        ],
        // The translation of addresses.
        &[Invlpg, Invpcid, Invept, Invvpid, Invlpga],
        // Descriptor tables and segments.
        &[
            Lgdt, Lidt, Lldt, Ltr, Str, Sldt, Sgdt, Sidt, Rdfsbase, Wrfsbase, Rdgsbase, Wrgsbase,
        ],
        // The state of the FPU.
        &[
            Fxsave, Fxsave64, Fxrstor, Fxrstor64, Fninit, Fnclex, Xsave, Xsave64, Xsavec, Xsavec64,
            Xsaveopt, Xsaveopt64, Xsaves, Xsaves64, Xrstor, Xrstor64, Xrstors, Xrstors64, Xgetbv,
            Xsetbv, Rdpkru, Wrpkru,
        ],
        // Virtual machines.
        &[
            Clgi, Stgi, Vmload, Vmsave, Vmrun, Vmread, Vmwrite, Vmptrld, Vmclear, Vmlaunch,
            Vmresume,
        ],
        // Ports.
        &[In, Out],
    ]
};

/// The names of model-specific registers in the kernel's msr-index.h, without `MSR_`.
const MSRS: &[(u32, &str)] = &[
    (0x10, "IA32_TSC"),
    (0x48, "IA32_SPEC_CTRL"),
    (0x49, "IA32_PRED_CMD"),
    (0x10b, "IA32_FLUSH_CMD"),
    (0x174, "IA32_SYSENTER_CS"),
    (0x1d9, "IA32_DEBUGCTLMSR"),
    (0x6e0, "IA32_TSC_DEADLINE"),
    (0x830, "X2APIC_ICR"),
    (0x838, "X2APIC_TMICT"),
    (0xda0, "IA32_XSS"),
    (0xc000_0080, "EFER"),
    (0xc000_0081, "STAR"),
    (0xc000_0082, "LSTAR"),
    (0xc000_0083, "CSTAR"),
    (0xc000_0084, "SYSCALL_MASK"),
    (0xc000_0100, "FS_BASE"),
    (0xc000_0101, "GS_BASE"),
    (0xc000_0102, "KERNEL_GS_BASE"),
    (0xc000_0103, "TSC_AUX"),
    (0xc000_0104, "AMD64_TSC_RATIO"),
    (0xc001_0117, "VM_HSAVE_PA"),
    (0xc001_011f, "AMD64_VIRT_SPEC_CTRL"),
];

/// Whether an instruction repeats itself. Each repetition is in a stream.
pub fn repeats(it: &Instruction) -> bool {
    it.is_string_instruction() && (it.has_rep_prefix() || it.has_repne_prefix())
}

/// The name of an instruction, if it is a costly one that accesses no MSR.
pub fn name(it: &Instruction) -> Option<String> {
    if COSTLY.iter().any(|group| group.contains(&it.mnemonic())) {
        return Some(mnemonic(it));
    }
    if repeats(it) {
        return Some(format!("rep {}", mnemonic(it)));
    }
    if it.mnemonic() != Mnemonic::Mov {
        return None;
    }
    let written = kind(it.op0_register()).map(|kind| format!("write of a {kind} register"));
    written.or_else(|| Some(format!("read of a {} register", kind(it.op1_register())?)))
}

/// The kind of a register that is costly to access.
fn kind(register: Register) -> Option<&'static str> {
    if register.is_cr() {
        Some("control")
    } else if register.is_dr() {
        Some("debug")
    } else if register.is_segment_register() {
        Some("segment")
    } else {
        None
    }
}

fn mnemonic(it: &Instruction) -> String {
    format!("{:?}", it.mnemonic()).to_lowercase()
}

/// Whether an instruction accesses an MSR.
pub fn accesses_msr(it: &Instruction) -> bool {
    matches!(it.mnemonic(), Mnemonic::Rdmsr | Mnemonic::Wrmsr)
}

/// The name of an instruction that accesses an MSR.
pub fn of_msr(it: &Instruction, constants: &Constants) -> String {
    let name = mnemonic(it);
    match constants.low(Register::ECX) {
        Some(index) => match MSRS.iter().find(|(number, _)| *number == index) {
            Some((_, msr)) => format!("{name} {msr}"),
            None => format!("{name} {index:#x}"),
        },
        // The index comes from memory.
        None => format!("{name} of a variable MSR"),
    }
}
