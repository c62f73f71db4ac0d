//! Guest programs for real mode.

use anyhow::{Context, Result};
use kvm_bindings::kvm_regs;
use vm_memory::{Bytes, GuestAddress};

use crate::vm::Vm;

/// The address of a program.
const CODE: u64 = 0x1000;

/// The port whose value, four bytes, ends a program or a round of it.
pub const DONE: u16 = 0x12;

/// Defines programs, each with its instructions in AT&T syntax.
macro_rules! programs {
    ($($(#[$doc:meta])* $name:ident = $($code:literal)*;)*) => {
        $(
            std::arch::global_asm!(
                ".pushsection .rodata",
                concat!(".globl small_vmm_", stringify!($name)),
                concat!("small_vmm_", stringify!($name), ":"),
                ".code16",
                $($code,)*
                ".code64",
                concat!("small_vmm_", stringify!($name), "_end:"),
                concat!(".globl small_vmm_", stringify!($name), "_end"),
                ".popsection",
                options(att_syntax)
            );
            $(#[$doc])*
            pub fn $name() -> &'static [u8] {
                unsafe extern "C" {
                    #[link_name = concat!("small_vmm_", stringify!($name))]
                    static CODE: u8;
                    #[link_name = concat!("small_vmm_", stringify!($name), "_end")]
                    static END: u8;
                }
                // SAFETY: the assembler has put the instructions between the two symbols.
                unsafe {
                    let (code, end) = (&raw const CODE, &raw const END);
                    std::slice::from_raw_parts(code, end.offset_from_unsigned(code))
                }
            }
        )*
    };
}
pub(crate) use programs;

/// Puts a program into memory, and lets the vCPU begin with it. All segments begin at 0
/// except DS, which begins at `data`.
pub fn load(vm: &Vm, code: &[u8], data: u64, regs: kvm_regs) -> Result<()> {
    vm.memory.write_slice(code, GuestAddress(CODE))?;
    let mut sregs = vm.vcpu.get_sregs().context("KVM_GET_SREGS")?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    sregs.ds.base = data;
    sregs.ds.selector = u16::try_from(data >> 4).context("not for real mode")?;
    vm.vcpu.set_sregs(&sregs).context("KVM_SET_SREGS")?;
    let regs = kvm_regs {
        rip: CODE,
        rflags: 2,
        ..regs
    };
    vm.vcpu.set_regs(&regs).context("KVM_SET_REGS")
}
