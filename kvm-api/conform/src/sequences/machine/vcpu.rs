//! The steps that affect one vCPU only.

use kvm_api::kvm_sys::*;
use kvm_api::{Direction, Form, Reason, SigSet};
use nix::sys::signal::raise;

use super::pointers;
use super::{BackendKind, SIGNAL, SequenceVm, done, regs};
use crate::sequences::model::guest::{GuestExit, MSRS, PROGRAM_AT};
use crate::sequences::model::memory::PAGE;
use crate::sequences::model::{MANY_FUNCTION, StepResult, Value, numbers, regs_at};
use crate::sequences::steps::Step;

impl SequenceVm {
    /// The steps that affect one vCPU only.
    pub(super) fn of_vcpu(&self, step: &Step, flat: bool) -> StepResult {
        match *step {
            Step::GetRegs { vcpu } => Ok(Value::Numbers(numbers(&regs(&*self.vcpu(flat, vcpu)?)?))),
            Step::SetRegs {
                vcpu,
                rax,
                rbx,
                rcx,
                page,
            } => {
                let rip = page * PAGE + PROGRAM_AT;
                let regs = kvm_regs {
                    rax,
                    rbx,
                    rcx,
                    ..regs_at(rip, &regs(&*self.vcpu(flat, vcpu)?)?)
                };
                done(self.vcpu(flat, vcpu)?.kvm_set_regs(&regs))
            }
            Step::GetSregs { vcpu } => {
                let mut sregs = kvm_sregs::default();
                self.vcpu(flat, vcpu)?.kvm_get_sregs(&mut sregs)?;
                Ok(Value::Numbers(known_sregs(&sregs)))
            }
            Step::SetSregs { vcpu, ds, cr2, bad } => {
                let mut sregs = kvm_sregs::default();
                self.vcpu(flat, vcpu)?.kvm_get_sregs(&mut sregs)?;
                (sregs.cs.selector, sregs.cs.base) = (0, 0);
                (sregs.ds.selector, sregs.ds.base) = (ds, u64::from(ds) * 16);
                sregs.cr2 = cr2;
                sregs.cr4 |= u64::from(bad) << 31;
                done(self.vcpu(flat, vcpu)?.kvm_set_sregs(&sregs))
            }
            Step::Translate { vcpu, address } => {
                let (mut physical, mut valid, mut writeable, mut usermode) = (0, 9, 9, 9);
                self.vcpu(flat, vcpu)?.kvm_translate(
                    address,
                    &mut physical,
                    &mut valid,
                    &mut writeable,
                    &mut usermode,
                )?;
                let bytes = [valid, writeable, usermode].map(u64::from);
                Ok(Value::Numbers([&[physical][..], &bytes].concat()))
            }
            Step::Interrupt { vcpu, irq } => done(self.vcpu(flat, vcpu)?.kvm_interrupt(irq)),
            Step::DebugGuest { vcpu, single_step } => {
                let control = if single_step {
                    debug::KVM_GUESTDBG_ENABLE | debug::KVM_GUESTDBG_SINGLESTEP
                } else {
                    0
                };
                let debug = kvm_guest_debug {
                    control,
                    ..Default::default()
                };
                done(self.vcpu(flat, vcpu)?.kvm_debug_guest(&debug))
            }
            Step::GetMsrs { vcpu, ref indices } => {
                let entries = indices.iter().map(|&index| (index, 0));
                let mut msrs = msrs(entries);
                let count = self.vcpu(flat, vcpu)?.kvm_get_msrs(&mut msrs)?;
                let values = msrs.as_slice().iter().take(count).map(|entry| entry.data);
                Ok(Value::Numbers(values.collect()))
            }
            Step::SetMsrs { vcpu, ref entries } => {
                let msrs = msrs(entries.iter().copied());
                let count = self.vcpu(flat, vcpu)?.kvm_set_msrs(&msrs)?;
                Ok(Value::Number(count as u64))
            }
            Step::ManyMsrs { vcpu, count } => {
                let mut msrs = msrs(std::iter::repeat_n((MSRS, 0), count));
                let count = self.vcpu(flat, vcpu)?.kvm_get_msrs(&mut msrs)?;
                Ok(Value::Number(count as u64))
            }
            Step::SetCpuid {
                vcpu,
                ref functions,
            } => done(self.vcpu(flat, vcpu)?.kvm_set_cpuid(&cpuid(functions))),
            Step::ManyCpuid { vcpu, count } => {
                let functions = vec![MANY_FUNCTION; count];
                done(self.vcpu(flat, vcpu)?.kvm_set_cpuid(&cpuid(&functions)))
            }
            Step::SetSignalMask { vcpu, mask } => {
                let mask = mask.map(|blocked| {
                    let mut set = SigSet::empty();
                    if blocked {
                        set.add(SIGNAL);
                    }
                    set
                });
                done(self.vcpu(flat, vcpu)?.kvm_set_signal_mask(mask.as_ref()))
            }
            Step::GetFpu { vcpu } => {
                let mut fpu = kvm_fpu::default();
                self.vcpu(flat, vcpu)?.kvm_get_fpu(&mut fpu)?;
                Ok(Value::Numbers(vec![fpu.fcw.into(), fpu.xmm[0][0].into()]))
            }
            Step::SetFpu { vcpu, fcw, xmm } => {
                let mut fpu = kvm_fpu::default();
                self.vcpu(flat, vcpu)?.kvm_get_fpu(&mut fpu)?;
                fpu.fcw = fcw;
                fpu.xmm[0][0] = xmm;
                done(self.vcpu(flat, vcpu)?.kvm_set_fpu(&fpu))
            }
            Step::WrongPointer {
                vcpu,
                call,
                pointer,
            } => {
                let by = match self.backend() {
                    BackendKind::Mixed if !flat => Form::Ioctl,
                    BackendKind::Mixed => Form::Syscall,
                    BackendKind::Form(form) => form,
                };
                // Binds the vCPU, if this is the form `bound`.
                regs(&*self.vcpu(flat, vcpu)?)?;
                done(pointers::point(call, pointer, self.fd(vcpu), by))
            }
            _ => unreachable!("{step:?} is of no vcpu"),
        }
    }

    pub(super) fn run(
        &mut self,
        flat: bool,
        vcpu: usize,
        data: u8,
        signal: bool,
        immediate_exit: bool,
    ) -> StepResult {
        let mut run = self.vcpus[vcpu].run.borrow_mut();
        run.exit().write_data(&[data]);
        run.set_immediate_exit(immediate_exit);
        if signal {
            raise(SIGNAL)?;
        }
        let result = self.vcpu(flat, vcpu)?.kvm_run(&mut run).map(|exit| {
            let reason = exit.reason();
            let mut data = vec![0; 8];
            let reads = matches!(
                reason,
                Reason::Io {
                    direction: Direction::In,
                    ..
                } | Reason::Mmio {
                    is_write: false,
                    ..
                }
            );
            let length = if reads { 0 } else { exit.read_data(&mut data) };
            data.truncate(length);
            GuestExit { reason, data }
        });
        if signal {
            let mut sent = SigSet::empty();
            sent.add(SIGNAL);
            assert_eq!(sent.wait(), Ok(SIGNAL));
        }
        result.map(Value::Exit)
    }
}

/// The special registers that the model knows.
fn known_sregs(sregs: &kvm_sregs) -> Vec<u64> {
    let of = |segment: &kvm_segment| [segment.selector.into(), segment.base];
    let words = sregs.interrupt_bitmap.iter().zip((0_u64..).step_by(64));
    let mut pending = words
        .filter(|(word, _)| **word != 0)
        .map(|(word, at)| at + u64::from(word.trailing_zeros()));
    let pending = pending.next().unwrap_or(u64::MAX);
    [of(&sregs.cs), of(&sregs.ds), [sregs.cr2, pending]].concat()
}

fn msrs(entries: impl Iterator<Item = (u32, u32)>) -> Msrs {
    let entries: Vec<_> = entries
        .map(|(index, data)| kvm_msr_entry {
            index,
            data: data.into(),
            ..Default::default()
        })
        .collect();
    Msrs::from_entries(&entries).expect("they are not too many")
}

fn cpuid(functions: &[u32]) -> CpuId {
    let entries: Vec<_> = functions
        .iter()
        .map(|&function| kvm_cpuid_entry2 {
            function,
            ..Default::default()
        })
        .collect();
    CpuId::from_entries(&entries).expect("they are not too many")
}
