//! Loops that leave the guest, after those of `vmexit` in kvm-unit-tests.

use anyhow::{Result, bail};
use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuExit;

use crate::guest::{self, DONE, programs};
use crate::vm::Vm;

/// A port that nothing in the kernel answers.
const PORT: u64 = 0x11;
/// A segment without memory.
const NO_MEMORY: u64 = 0xd_0000;
const MEMORY: usize = 0x4000;

/// Begins a loop of %edi rounds, and ends it with its ticks.
macro_rules! loops {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        programs! {
            $($(#[$doc])* $name =
                "rdtsc; mov %eax,%esi; 2:"
                $code
                "dec %edi; jnz 2b; rdtsc; sub %esi,%eax; out %eax,$0x12; hlt";)*
        }
        /// Each loop, with its name.
        const LOOPS: &[(&str, fn() -> &'static [u8])] = &[$((stringify!($name), $name)),*];
    };
}

loops! {
    /// KVM answers: the same by each interface.
    cpuid = "xor %eax,%eax; cpuid";
    /// The interrupt controller answers, in the kernel: the same by each interface.
    in_from_kernel = "in $0x21,%al";
    /// The VMM answers.
    in_from_vmm = "in (%dx),%al";
    /// The VMM is told.
    out_to_vmm = "out %al,(%dx)";
    /// The VMM answers.
    mmio_read = "mov (%bx),%al";
    /// The VMM is told.
    mmio_write = "mov %al,(%bx)";
}

/// Runs each loop, and prints its ticks.
pub fn measure(rounds: u32) -> Result<()> {
    let mut vm = Vm::new(MEMORY, 0)?;
    for (name, code) in LOOPS {
        let regs = kvm_regs {
            rdi: rounds.into(),
            rdx: PORT,
            ..Default::default()
        };
        guest::load(&vm, code(), NO_MEMORY, regs)?;
        let ticks = run(&mut vm)?;
        println!("{name} {rounds} {ticks}");
    }
    Ok(())
}

fn run(vm: &mut Vm) -> Result<u32> {
    loop {
        match vm.vcpu.run()? {
            VcpuExit::IoOut(DONE, data) => return Ok(u32::from_le_bytes(data.try_into()?)),
            VcpuExit::IoIn(_, data) | VcpuExit::MmioRead(_, data) => data.fill(0x5a),
            VcpuExit::IoOut(..) | VcpuExit::MmioWrite(..) => {}
            exit => bail!("the guest ended with {exit:?}"),
        }
    }
}
