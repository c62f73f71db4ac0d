//! The model of the steps on a vCPU.

use kvm_api::Errno::*;
use kvm_api::kvm_sys::kvm_regs;

use super::guest::{Cpu, MSRS};
use super::{DONE, MANY_FUNCTION, Model, StepResult, Value, program_at, regs_at};
use crate::sequences::steps::{Pointer, Registers, Run, VcpuStep};

impl Model {
    /// Whether the model knows the effect of a step on the vCPU.
    pub(super) fn knows_on_vcpu(&self, cpu: &Cpu, step: &VcpuStep) -> bool {
        let idle = cpu.pending.is_none();
        match *step {
            VcpuStep::Start { page, .. } => idle && self.memory.place(program_at(page)).is_some(),
            VcpuStep::Run(run) => {
                let (mut cpu, mut memory) = (cpu.clone(), self.memory.clone());
                cpu.run(&mut memory, run.data, cpu.stops(run)).is_some()
            }
            VcpuStep::SetRegs { .. }
            | VcpuStep::SetSregs { .. }
            | VcpuStep::DebugGuest { .. }
            | VcpuStep::WrongPointer(..) => idle,
            _ => true,
        }
    }

    /// Takes a step on a vCPU.
    pub(super) fn on_vcpu(&mut self, vcpu: usize, step: &VcpuStep) -> StepResult {
        let cpu = &mut self.vcpus[vcpu];
        match *step {
            VcpuStep::Start { page, program } => {
                let rip = program_at(page);
                let place = self.memory.place(rip).expect("it is known");
                self.memory.put(place, &program.bytes());
                cpu.cs = 0;
                cpu.set_regs(regs_at(rip, &cpu.regs));
            }
            VcpuStep::Run(run) => {
                let exit = cpu.run(&mut self.memory, run.data, cpu.stops(run));
                return exit.expect("it is known").map(Value::Exit).ok_or(EINTR);
            }
            VcpuStep::GetRegs => return Ok(Value::Regs(cpu.regs)),
            VcpuStep::SetRegs {
                rax,
                rbx,
                rcx,
                page,
            } => cpu.set_regs(kvm_regs {
                rax,
                rbx,
                rcx,
                ..regs_at(program_at(page), &cpu.regs)
            }),
            VcpuStep::GetSregs => return Ok(Value::Numbers(cpu.sregs())),
            VcpuStep::SetSregs { bad: true, .. } => return Err(EINVAL),
            VcpuStep::SetSregs { ds, cr2, .. } => (cpu.cs, cpu.ds, cpu.cr2) = (0, ds, cr2),
            // Without paging, linear addresses are physical addresses.
            VcpuStep::Translate(address) => return Ok(Value::Numbers(vec![address, 1, 1, 0])),
            VcpuStep::Interrupt(irq) => {
                cpu.interrupt = Some(irq.try_into().map_err(|_| EINVAL)?);
            }
            VcpuStep::DebugGuest { single_step } => cpu.debug(single_step),
            VcpuStep::GetMsrs(ref indices) => {
                let known = indices
                    .iter()
                    .map_while(|&index| cpu.known_msr(index).copied());
                return Ok(Value::Numbers(known.collect()));
            }
            VcpuStep::SetMsrs(ref entries) => {
                let mut set = 0;
                for &(index, value) in entries {
                    let Some(msr) = cpu.known_msr(index) else {
                        break;
                    };
                    *msr = value.into();
                    set += 1;
                }
                return Ok(Value::Number(set));
            }
            VcpuStep::ManyMsrs(256..) => return Err(E2BIG),
            VcpuStep::ManyMsrs(count) => return Ok(Value::Number(count as u64)),
            VcpuStep::SetCpuid(ref functions) => return cpu.set_cpuid(functions.clone()),
            VcpuStep::ManyCpuid(count) => return cpu.set_cpuid(vec![MANY_FUNCTION; count]),
            VcpuStep::SetSignalMask(mask) => cpu.mask = mask,
            VcpuStep::GetFpu => {
                return Ok(match cpu.fpu {
                    Some((fcw, xmm)) => Value::Numbers(vec![fcw.into(), xmm.into()]),
                    None => Value::Unknown,
                });
            }
            VcpuStep::SetFpu { fcw, xmm } => cpu.fpu = Some((fcw, xmm)),
            VcpuStep::WrongPointer(call, pointer) => {
                let answer = pointed(call, pointer);
                if call == Registers::SetRegs && answer.is_ok() {
                    cpu.set_regs(cpu.regs);
                }
                return answer;
            }
            VcpuStep::Migrate { nested: true } if cpu.entered => return Err(EBUSY),
            VcpuStep::Migrate { .. } => {}
        }
        DONE
    }
}

impl Cpu {
    /// Whether a run ends before it enters the guest.
    fn stops(&self, run: Run) -> bool {
        run.immediate_exit || run.signal && self.mask == Some(false)
    }

    fn known_msr(&mut self, index: u32) -> Option<&mut u64> {
        self.msrs.get_mut(index.checked_sub(MSRS)? as usize)
    }

    fn set_cpuid(&mut self, functions: Vec<u32>) -> StepResult {
        if self.entered && self.cpuid != functions {
            return Err(EINVAL);
        }
        self.cpuid = functions;
        DONE
    }

    /// The special registers that are known.
    pub fn sregs(&self) -> Vec<u64> {
        let of = |selector: u16| [u64::from(selector), u64::from(selector) * 16];
        let pending = self.interrupt.map_or(u64::MAX, u64::from);
        [of(self.cs), of(self.ds), [self.cr2, pending]].concat()
    }
}

/// The result of a call with such a pointer to registers. It sets the current
/// values.
fn pointed(call: Registers, pointer: Pointer) -> StepResult {
    match pointer {
        Pointer::Straddling | Pointer::Odd => DONE,
        Pointer::ReadOnly if call.sets() => DONE,
        _ => Err(EFAULT),
    }
}
