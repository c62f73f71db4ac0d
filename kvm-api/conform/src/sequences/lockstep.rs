//! The model and the machines, step by step.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use super::machine::Subject;
use super::machine::way::{WAYS, Way};
use super::model::{Model, agree};
use super::steps::{Taken, any_step};

/// The most steps that a sequence has.
pub const STEPS: usize = 40;

/// How many steps were taken.
pub static TAKEN: AtomicU64 = AtomicU64::new(0);

pub struct Reference;

impl ReferenceStateMachine for Reference {
    type State = Model;
    type Transition = Taken;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model::new()).boxed()
    }

    fn transitions(model: &Model) -> BoxedStrategy<Taken> {
        any_step(model.hints())
    }

    fn preconditions(model: &Model, taken: &Taken) -> bool {
        model.knows(&taken.step)
    }

    fn apply(mut model: Model, taken: &Taken) -> Model {
        model.take(&taken.step);
        model
    }
}

/// The model, and a machine by each way.
pub struct Lockstep;

impl StateMachineTest for Lockstep {
    type SystemUnderTest = [Subject; WAYS];
    type Reference = Reference;

    fn init_test(_: &Model) -> [Subject; WAYS] {
        Way::ALL.map(Subject::new)
    }

    fn apply(mut subjects: [Subject; WAYS], model: &Model, taken: Taken) -> [Subject; WAYS] {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        let answers = subjects.each_mut().map(|it| it.take(&taken, model));
        for (subject, answer) in subjects.iter().zip(&answers) {
            if let Some(own) = subject.way().own(&taken.step, &model.answer) {
                assert_eq!(answer, &own, "{subject:?} has its own answer");
                continue;
            }
            let expected = &model.answer;
            assert!(
                agree(expected, answer),
                "{subject:?} gives {answer:x?}, not {expected:x?}"
            );
            assert_eq!(
                answer, &answers[0],
                "{subject:?} gives something else than {:?}",
                subjects[0]
            );
        }
        subjects
    }

    fn check_invariants(subjects: &[Subject; WAYS], model: &Model) {
        let state = subjects[0].state();
        for subject in subjects {
            if let Some(difference) = subject.difference(model) {
                panic!("{subject:?}: {difference}");
            }
            let its = subject.state();
            assert!(
                its == state,
                "{subject:?} has {its:x?}, and {:?} has {state:x?}",
                subjects[0]
            );
        }
    }
}
