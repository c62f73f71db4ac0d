//! The model and the machines, step by step.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest_state_machine::StateMachineTest;

use super::machine::SequenceVm;
use super::machine::backend::{BACKENDS, BackendKind};
use super::model::{Model, agree};
use super::steps::Taken;

/// The maximum number of steps of a sequence.
pub const STEPS: usize = 40;

pub static TAKEN: AtomicU64 = AtomicU64::new(0);

/// The model, and a machine for each backend.
pub struct Lockstep;

impl StateMachineTest for Lockstep {
    type SystemUnderTest = [SequenceVm; BACKENDS];
    type Reference = Model;

    fn init_test(_: &Model) -> [SequenceVm; BACKENDS] {
        BackendKind::all().map(SequenceVm::new)
    }

    fn apply(
        mut vms: [SequenceVm; BACKENDS],
        model: &Model,
        taken: Taken,
    ) -> [SequenceVm; BACKENDS] {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        let answers = vms.each_mut().map(|it| it.take(&taken, model));
        for (vm, answer) in vms.iter().zip(&answers) {
            if let Some(own) = vm.backend().own(&taken.step, &model.answer) {
                assert_eq!(answer, &own, "{vm:?} documents another result");
                continue;
            }
            let expected = &model.answer;
            assert!(
                agree(expected, answer),
                "{vm:?} gives {answer:x?}, not {expected:x?}"
            );
            assert_eq!(answer, &answers[0], "{vm:?} differs from {:?}", vms[0]);
        }
        vms
    }

    fn check_invariants(vms: &[SequenceVm; BACKENDS], model: &Model) {
        let state = vms[0].state();
        for vm in vms {
            if let Some(difference) = vm.difference(model) {
                panic!("{vm:?}: {difference}");
            }
            let its = vm.state();
            assert!(
                its == state,
                "{vm:?} has {its:x?}, and {:?} has {state:x?}",
                vms[0]
            );
        }
    }
}
