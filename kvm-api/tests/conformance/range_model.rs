//! Random sequences of the calls on ranges in lockstep with a model, a map from each page
//! of the window to the page of the host.

use kvm_api::Errno;
use kvm_api::kvm_sys::slot::{KVM_MEM_LOG_DIRTY_PAGES as LOG, KVM_MEM_READONLY as READONLY};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::Needs::AnyVcpu;
use crate::range_guest::{Guest, PAGES, Wrote};
use crate::{Stage, Test};
use kvm_api::Form;

pub const TESTS: &[(Form, Test)] = &[(
    Form::Ranges,
    ("kvm_map_range::random_sequences", AnyVcpu, random),
)];

/// The number of sequences, and the maximum number of steps of one.
const SEQUENCES: u32 = 60;
const STEPS: usize = 40;

/// The page of the host that a page of the window shows.
#[derive(Clone, Copy, Debug)]
struct Shown {
    host: u64,
    flags: u32,
    dirty: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Map(u64, u64, u64, u32),
    Unmap(u64, u64),
    Protect(u64, u64, u32),
    Write(u64),
    Peek(u64, u64),
    Dirty(u64, u64),
}

/// A range of pages: the first, and the number of pages.
fn range() -> impl Strategy<Value = (u64, u64)> {
    (0..PAGES).prop_flat_map(|page| (Just(page), 1..=PAGES - page))
}

fn step() -> impl Strategy<Value = Step> {
    let flags = || {
        prop_oneof![
            3 => Just(LOG),
            2 => Just(0),
            1 => Just(READONLY),
            1 => Just(LOG | READONLY),
        ]
    };
    // Half of the ranges map each page to the page of the host with the same number, so
    // that KVM can join many of them.
    let map = (range(), any::<bool>(), 0..PAGES, flags());
    prop_oneof![
        4 => map.prop_map(|((page, pages), straight, host, flags)| {
            let host = if straight { page } else { host.min(PAGES - pages) };
            Step::Map(page, pages, host, flags)
        }),
        2 => range().prop_map(|(page, pages)| Step::Unmap(page, pages)),
        3 => (range(), flags())
            .prop_map(|((page, pages), flags)| Step::Protect(page, pages, flags)),
        6 => (0..PAGES).prop_map(Step::Write),
        1 => range().prop_map(|(page, pages)| Step::Peek(page, pages)),
        3 => range().prop_map(|(page, pages)| Step::Dirty(page, pages)),
    ]
}

struct Model([Option<Shown>; PAGES as usize]);

impl Model {
    fn range(&mut self, page: u64, pages: u64) -> &mut [Option<Shown>] {
        &mut self.0[page as usize..(page + pages) as usize]
    }

    fn map(&mut self, page: u64, pages: u64, host: u64, flags: u32) {
        for (shown, host) in self.range(page, pages).iter_mut().zip(host..) {
            // The log belongs to the guest's addresses. It stays while the range is
            // logged.
            let dirty = flags & LOG != 0 && shown.is_some_and(|shown| shown.dirty);
            *shown = Some(Shown { host, flags, dirty });
        }
    }

    fn protect(&mut self, page: u64, pages: u64, flags: u32) -> Result<(), Errno> {
        let range = self.range(page, pages);
        if range.iter().any(Option::is_none) {
            return Err(Errno::ENOMEM);
        }
        for shown in range.iter_mut().flatten() {
            shown.flags = flags;
            shown.dirty &= flags & LOG != 0;
        }
        Ok(())
    }

    fn write(&mut self, page: u64) -> Wrote {
        match &mut self.0[page as usize] {
            Some(shown) if shown.flags & READONLY == 0 => {
                shown.dirty = shown.flags & LOG != 0;
                Wrote::To(shown.host)
            }
            _ => Wrote::Nowhere,
        }
    }

    fn peek(&mut self, page: u64, pages: u64) -> Result<Vec<bool>, Errno> {
        let range = self.range(page, pages);
        if range.iter().any(Option::is_none) {
            return Err(Errno::ENOMEM);
        }
        if range.iter().flatten().any(|shown| shown.flags & LOG == 0) {
            return Err(Errno::ENOENT);
        }
        Ok(range.iter().flatten().map(|shown| shown.dirty).collect())
    }

    fn dirty(&mut self, page: u64, pages: u64) -> Result<Vec<bool>, Errno> {
        let dirty = self.peek(page, pages)?;
        for shown in self.range(page, pages).iter_mut().flatten() {
            shown.dirty = false;
        }
        Ok(dirty)
    }
}

fn random(stage: &Stage) {
    let config = Config {
        cases: SEQUENCES,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let steps = prop::collection::vec(step(), 1..=STEPS);
    let result = runner.run(&steps, |steps| follow(stage, &steps));
    result.unwrap_or_else(|error| panic!("{error}"));
}

fn follow(stage: &Stage, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut guest = Guest::new(stage);
    let mut model = Model([None; PAGES as usize]);
    for step in steps {
        match *step {
            Step::Map(page, pages, host, flags) => {
                prop_assert_eq!(guest.map(page, pages, host, flags), Ok(()));
                model.map(page, pages, host, flags);
            }
            Step::Unmap(page, pages) => {
                prop_assert_eq!(guest.unmap(page, pages), Ok(()));
                model.range(page, pages).fill(None);
            }
            Step::Protect(page, pages, flags) => {
                let expected = model.protect(page, pages, flags);
                prop_assert_eq!(guest.protect(page, pages, flags), expected);
            }
            Step::Peek(page, pages) => {
                prop_assert_eq!(guest.peek(page, pages), model.peek(page, pages));
            }
            Step::Write(page) => prop_assert_eq!(guest.write(page), model.write(page)),
            Step::Dirty(page, pages) => {
                prop_assert_eq!(guest.dirty(page, pages), model.dirty(page, pages));
            }
        }
    }
    // At the end, check the mapping and the log of each page.
    for page in 0..PAGES {
        prop_assert_eq!(guest.dirty(page, 1), model.dirty(page, 1));
        prop_assert_eq!(guest.write(page), model.write(page));
    }
    Ok(())
}
