//! The steps on a vCPU.

use std::iter;

use kvm_api::kvm_sys::*;
use kvm_api::merged::MergedVcpu;
use kvm_api::{Direction, Form, Reason, SigSet};
use nix::sys::signal::raise;

use super::{BackendKind, SIGNAL, SequenceVm, calls, clear_code_segment, pointers, regs};
use crate::migrated::Migrated;
use crate::requests::{cpuid, filled, msrs};
use crate::sequences::model::guest::{GuestExit, MSRS};
use crate::sequences::model::{MANY_FUNCTION, StepResult, Value, done, program_at, regs_at};
use crate::sequences::steps::{Run, VcpuStep};

impl SequenceVm {
    pub(super) fn on_vcpu(&self, flat: bool, number: usize, step: &VcpuStep) -> StepResult {
        let vcpu = self.vcpu(flat, number)?;
        match *step {
            VcpuStep::Start { page, .. } => {
                clear_code_segment(&*vcpu)?;
                let regs = regs_at(program_at(page), &regs(&*vcpu)?);
                done(vcpu.kvm_set_regs(&regs))
            }
            VcpuStep::Run(run) => self.run(flat, number, run),
            VcpuStep::GetRegs => Ok(Value::Regs(regs(&*vcpu)?)),
            VcpuStep::SetRegs {
                rax,
                rbx,
                rcx,
                page,
            } => done(vcpu.kvm_set_regs(&kvm_regs {
                rax,
                rbx,
                rcx,
                ..regs_at(program_at(page), &regs(&*vcpu)?)
            })),
            VcpuStep::GetSregs => {
                let sregs = filled(|sregs| vcpu.kvm_get_sregs(sregs))?;
                Ok(Value::Numbers(known_sregs(&sregs)))
            }
            VcpuStep::SetSregs { ds, cr2, bad } => {
                let mut sregs: kvm_sregs = filled(|sregs| vcpu.kvm_get_sregs(sregs))?;
                (sregs.cs.selector, sregs.cs.base) = (0, 0);
                (sregs.ds.selector, sregs.ds.base) = (ds, u64::from(ds) * 16);
                sregs.cr2 = cr2;
                sregs.cr4 |= u64::from(bad) << 31;
                done(vcpu.kvm_set_sregs(&sregs))
            }
            VcpuStep::Translate(address) => {
                let (mut physical, mut valid, mut writeable, mut usermode) = (0, 9, 9, 9);
                let (p, v, w, u) = (&mut physical, &mut valid, &mut writeable, &mut usermode);
                vcpu.kvm_translate(address, p, v, w, u)?;
                let [v, w, u] = [valid, writeable, usermode].map(u64::from);
                Ok(Value::Numbers(vec![physical, v, w, u]))
            }
            VcpuStep::Interrupt(irq) => done(vcpu.kvm_interrupt(irq)),
            VcpuStep::DebugGuest { single_step } => {
                let mut debug = kvm_guest_debug::default();
                if single_step {
                    debug.control = debug::KVM_GUESTDBG_ENABLE | debug::KVM_GUESTDBG_SINGLESTEP;
                }
                done(vcpu.kvm_debug_guest(&debug))
            }
            VcpuStep::GetMsrs(ref indices) => {
                let mut msrs = msrs(indices.iter().map(|&index| (index, 0)));
                let count = vcpu.kvm_get_msrs(&mut msrs)?;
                let values = msrs.as_slice().iter().take(count).map(|entry| entry.data);
                Ok(Value::Numbers(values.collect()))
            }
            VcpuStep::SetMsrs(ref entries) => {
                let values = entries.iter().map(|&(index, value)| (index, value.into()));
                let count = vcpu.kvm_set_msrs(&msrs(values))?;
                Ok(Value::Number(count as u64))
            }
            VcpuStep::ManyMsrs(count) => {
                let mut msrs = msrs(iter::repeat_n((MSRS, 0), count));
                let count = vcpu.kvm_get_msrs(&mut msrs)?;
                Ok(Value::Number(count as u64))
            }
            VcpuStep::SetCpuid(ref functions) => {
                done(vcpu.kvm_set_cpuid(&cpuid(functions.iter().copied())))
            }
            VcpuStep::ManyCpuid(count) => {
                done(vcpu.kvm_set_cpuid(&cpuid(iter::repeat_n(MANY_FUNCTION, count))))
            }
            VcpuStep::SetSignalMask(mask) => {
                let mask = mask.map(|blocked| match blocked {
                    true => SigSet::from(SIGNAL),
                    false => SigSet::empty(),
                });
                done(vcpu.kvm_set_signal_mask(mask.as_ref()))
            }
            VcpuStep::GetFpu => {
                let fpu: kvm_fpu = filled(|fpu| vcpu.kvm_get_fpu(fpu))?;
                Ok(Value::Numbers(vec![fpu.fcw.into(), fpu.xmm[0][0].into()]))
            }
            VcpuStep::SetFpu { fcw, xmm } => {
                let mut fpu: kvm_fpu = filled(|fpu| vcpu.kvm_get_fpu(fpu))?;
                fpu.fcw = fcw;
                fpu.xmm[0][0] = xmm;
                done(vcpu.kvm_set_fpu(&fpu))
            }
            VcpuStep::WrongPointer(registers, pointer) => {
                let by = match self.backend() {
                    BackendKind::Mixed if !flat => Form::Ioctl,
                    BackendKind::Mixed => Form::Syscall,
                    BackendKind::Form(form) => form,
                };
                // Binds the vCPU, if this is the form `bound`.
                regs(&*vcpu)?;
                done(pointers::point(registers, pointer, self.fd(number), by))
            }
            VcpuStep::Migrate { nested } => {
                let vcpu = MergedVcpu::new(calls(), self.fd(number));
                let mut migrated = Migrated::room();
                migrated.get(&vcpu)?;
                done(migrated.set(&vcpu, nested))
            }
        }
    }

    fn run(&self, flat: bool, vcpu: usize, parameters: Run) -> StepResult {
        let mut run = self.vcpus[vcpu].run.borrow_mut();
        run.exit().write_data(&[parameters.data]);
        run.set_immediate_exit(parameters.immediate_exit);
        if parameters.signal {
            raise(SIGNAL)?;
        }
        let result = self.vcpu(flat, vcpu)?.kvm_run(&mut run).map(|exit| {
            let reason = exit.reason();
            let reads = match reason {
                Reason::Io { direction, .. } => direction == Direction::In,
                Reason::Mmio { is_write, .. } => !is_write,
                _ => false,
            };
            let mut data = vec![0; 8];
            let length = if reads { 0 } else { exit.read_data(&mut data) };
            data.truncate(length);
            GuestExit { reason, data }
        });
        if parameters.signal {
            assert_eq!(SigSet::from(SIGNAL).wait(), Ok(SIGNAL));
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
