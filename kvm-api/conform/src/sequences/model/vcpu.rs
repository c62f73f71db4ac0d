//! The model of the steps that affect one vCPU only.

use kvm_api::Errno::*;
use kvm_api::kvm_sys::kvm_regs;

use super::guest::{Cpu, MSRS, PROGRAM_AT};
use super::memory::PAGE;
use super::{DONE, MANY_FUNCTION, Model, StepResult, Value, numbers, regs_at};
use crate::sequences::steps::{Pointer, Registers, Step};

impl Model {
    /// The steps that affect one vCPU only.
    pub(super) fn of_vcpu(&mut self, step: &Step) -> StepResult {
        match *step {
            Step::GetRegs { vcpu } => Ok(Value::Numbers(numbers(&self.vcpus[vcpu].regs))),
            Step::SetRegs {
                vcpu,
                rax,
                rbx,
                rcx,
                page,
            } => {
                let cpu = &mut self.vcpus[vcpu];
                let rip = page * PAGE + PROGRAM_AT;
                cpu.set_regs(kvm_regs {
                    rax,
                    rbx,
                    rcx,
                    ..regs_at(rip, &cpu.regs)
                });
                DONE
            }
            Step::GetSregs { vcpu } => Ok(Value::Numbers(self.vcpus[vcpu].sregs())),
            Step::SetSregs { bad: true, .. } => Err(EINVAL),
            Step::SetSregs { vcpu, ds, cr2, .. } => {
                let cpu = &mut self.vcpus[vcpu];
                (cpu.cs, cpu.ds, cpu.cr2) = (0, ds, cr2);
                DONE
            }
            // Without paging, each address is its own.
            Step::Translate { address, .. } => Ok(Value::Numbers(vec![address, 1, 1, 0])),
            Step::Interrupt { vcpu, irq } => {
                self.vcpus[vcpu].interrupt = Some(irq.try_into().map_err(|_| EINVAL)?);
                DONE
            }
            Step::DebugGuest { vcpu, single_step } => {
                self.vcpus[vcpu].debug(single_step);
                DONE
            }
            Step::GetMsrs { vcpu, ref indices } => {
                let known = indices
                    .iter()
                    .map_while(|&index| self.vcpus[vcpu].known_msr(index).copied());
                let values = known.collect();
                Ok(Value::Numbers(values))
            }
            Step::SetMsrs { vcpu, ref entries } => {
                let mut set = 0;
                for &(index, value) in entries {
                    let Some(msr) = self.vcpus[vcpu].known_msr(index) else {
                        break;
                    };
                    *msr = value.into();
                    set += 1;
                }
                Ok(Value::Number(set))
            }
            Step::ManyMsrs { count, .. } if count >= 256 => Err(E2BIG),
            Step::ManyMsrs { count, .. } => Ok(Value::Number(count as u64)),
            Step::SetCpuid {
                vcpu,
                ref functions,
            } => self.vcpus[vcpu].set_cpuid(functions.clone()),
            Step::ManyCpuid { vcpu, count } => {
                self.vcpus[vcpu].set_cpuid(vec![MANY_FUNCTION; count])
            }
            Step::SetSignalMask { vcpu, mask } => {
                self.vcpus[vcpu].mask = mask;
                DONE
            }
            Step::GetFpu { vcpu } => Ok(match self.vcpus[vcpu].fpu {
                Some((fcw, xmm)) => Value::Numbers(vec![fcw.into(), xmm.into()]),
                None => Value::Unknown,
            }),
            Step::SetFpu { vcpu, fcw, xmm } => {
                self.vcpus[vcpu].fpu = Some((fcw, xmm));
                DONE
            }
            Step::WrongPointer {
                vcpu,
                call,
                pointer,
            } => {
                let answer = pointed(call, pointer);
                if call == Registers::SetRegs && answer.is_ok() {
                    let cpu = &mut self.vcpus[vcpu];
                    cpu.set_regs(cpu.regs);
                }
                answer
            }
            _ => unreachable!("{step:?} is of no vcpu"),
        }
    }
}

impl Cpu {
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
    let sets = matches!(
        call,
        Registers::SetRegs | Registers::SetSregs | Registers::SetFpu
    );
    match pointer {
        Pointer::Straddling | Pointer::Odd => DONE,
        Pointer::ReadOnly if sets => DONE,
        _ => Err(EFAULT),
    }
}
