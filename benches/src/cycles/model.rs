//! Intervals of cycles, and of their ratio to the ioctl.
//!
//! The cycles of a call are a sum: a number of times that something happens, times its cost,
//! for each event and for the plain instructions. Each cost is a range. In the ratio of two
//! calls, the same unknown cost is the same number in both, so what they have in common
//! widens the interval only as far as it matters.

use std::collections::{BTreeMap, BTreeSet};

use profile::{Event, Events};

use super::costs::Costs;
use crate::record::CaseRow;

/// A range of cycles, or of a ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// From `low` to `high`.
    #[must_use]
    pub const fn new(low: f64, high: f64) -> Self {
        Self { low, high }
    }

    /// The smallest interval that contains both.
    #[must_use]
    pub fn hull(self, other: Self) -> Self {
        Self::new(self.low.min(other.low), self.high.max(other.high))
    }
}

/// Something that costs cycles.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Term {
    /// The plain instructions, all equally slow.
    Plain,
    /// The plain instructions that both calls execute.
    Common,
    /// Those that only the ioctl executes.
    OfIoctl,
    /// Those that only the other call executes.
    OfForm,
    /// An event.
    Event(Event),
}

/// The cost of a term, and how much of it the form and the ioctl have.
#[derive(Clone, Copy, Debug)]
struct Share {
    cost: Interval,
    form: f64,
    ioctl: f64,
}

/// The cycles of a call by a form and by the ioctl.
#[derive(Clone)]
pub struct Model {
    shares: BTreeMap<Term, Share>,
    /// The events that have no cost.
    missing: BTreeSet<Event>,
}

impl Model {
    /// The model of a row for a form, with the costs of a processor. `None` if the row was
    /// not recorded with estimates of plain instructions.
    #[must_use]
    pub fn new(row: &CaseRow, form: &str, costs: &Costs, processor: &str) -> Option<Self> {
        let (profile, ioctl) = (row.profile(form)?, row.profile("ioctl")?);
        let (plain, _) = (profile.plain?, ioctl.plain?);
        let slow = Interval::new(1.0, costs.slowdown.high);
        let common = plain.common as f64;
        let share = |cost, form, ioctl| Share { cost, form, ioctl };
        let mut shares = BTreeMap::from([
            (Term::Common, share(slow, common, common)),
            (Term::OfForm, share(slow, plain.added as f64, 0.0)),
            (Term::OfIoctl, share(slow, 0.0, plain.removed as f64)),
        ]);
        let count = |events: &Events, event| events.get(event).map_or(0.0, |it| *it as f64);
        let mut missing = BTreeSet::new();
        let events = profile.events.keys().chain(ioctl.events.keys());
        for event in events.filter(|event| event.cuts()) {
            let Some(cost) = costs.of(event, processor) else {
                missing.insert(event.clone());
                continue;
            };
            let (form, ioctl) = (count(&profile.events, event), count(&ioctl.events, event));
            shares.insert(Term::Event(event.clone()), share(cost.range(), form, ioctl));
        }
        Some(Self { shares, missing })
    }

    /// The events that the cycles leave out, because costs.toml has no cost of them.
    pub fn missing(&self) -> impl Iterator<Item = &Event> {
        self.missing.iter()
    }

    /// The same model, but with all plain instructions equally slow, whichever call executes
    /// them.
    #[must_use]
    pub fn equally_slow(&self) -> Self {
        let mut model = self.clone();
        let plain = [Term::Common, Term::OfForm, Term::OfIoctl];
        let plain = plain.iter().filter_map(|term| model.shares.remove(term));
        let sum = plain.reduce(|sum, it| Share {
            form: sum.form + it.form,
            ioctl: sum.ioctl + it.ioctl,
            ..sum
        });
        model.shares.extend(sum.map(|sum| (Term::Plain, sum)));
        model
    }

    /// The events of either call.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.shares.keys().filter_map(|term| match term {
            Term::Event(event) => Some(event),
            Term::Plain | Term::Common | Term::OfIoctl | Term::OfForm => None,
        })
    }

    /// The cycles of the form.
    #[must_use]
    pub fn cycles(&self) -> Interval {
        let shares = self.shares.values();
        let low = shares.clone().map(|it| it.form * it.cost.low).sum();
        Interval::new(low, shares.map(|it| it.form * it.cost.high).sum())
    }

    /// The cycles of the form divided by those of the ioctl.
    #[must_use]
    pub fn ratio(&self) -> Interval {
        Interval::new(self.extreme(false), self.extreme(true))
    }

    /// The largest or the smallest ratio. Each step begins with a ratio that is possible. Each
    /// cost that raises the form's cycles above this multiple of the ioctl's is put at the one
    /// end of its range, and each other cost at the other end. The ratio with these costs is
    /// the next one (Dinkelbach's method). No step leads away from the extreme, and there are
    /// finitely many choices of ends.
    fn extreme(&self, largest: bool) -> f64 {
        let ratio = |choose: &dyn Fn(&Share) -> f64| {
            let each = self.shares.values();
            let (form, ioctl) = each.fold((0.0, 0.0), |(form, ioctl), it| {
                let cost = choose(it);
                (form + cost * it.form, ioctl + cost * it.ioctl)
            });
            form / ioctl
        };
        let mut now = ratio(&|it| it.cost.low);
        loop {
            let next = ratio(&|it| {
                let raises = it.form > now * it.ioctl;
                if raises == largest {
                    it.cost.high
                } else {
                    it.cost.low
                }
            });
            let closer = if largest { next > now } else { next < now };
            if !closer {
                return now;
            }
            now = next;
        }
    }

    /// The cost of an event from which on the form saves less than `share` of the ioctl's
    /// cycles, whatever the other costs in their ranges are. `None` if the calls do not have
    /// the event, or have it in different numbers.
    #[must_use]
    pub fn threshold(&self, event: &Event, share: f64) -> Option<f64> {
        let term = Term::Event(event.clone());
        let it = self.shares.get(&term)?;
        if it.form != it.ioctl || it.form == 0.0 {
            return None;
        }
        let saves_less = |cost: f64| {
            let mut model = self.clone();
            let cost = Interval::new(cost, cost);
            model.shares.insert(term.clone(), Share { cost, ..*it });
            model.ratio().low > 1.0 - share
        };
        let (mut low, mut high) = (0.0, LARGEST);
        if saves_less(low) {
            return Some(low);
        }
        if !saves_less(high) {
            return None;
        }
        while high - low > 0.5 {
            let middle = (low + high) / 2.0;
            if saves_less(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        Some(high)
    }
}

/// No event takes more cycles.
const LARGEST: f64 = 1e9;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn model(shares: &[(f64, f64, f64, f64)]) -> Model {
        let share = |(nth, (low, width, form, ioctl)): (usize, &(f64, f64, f64, f64))| {
            let cost = Interval::new(*low, low + width);
            let event = Event::Instruction(nth.to_string());
            (
                Term::Event(event),
                Share {
                    cost,
                    form: *form,
                    ioctl: *ioctl,
                },
            )
        };
        Model {
            shares: shares.iter().enumerate().map(share).collect(),
            missing: BTreeSet::new(),
        }
    }

    /// The ratio if the n-th cost is at the end that the n-th bit chooses.
    fn corner(model: &Model, choice: u32) -> f64 {
        let ends = model.shares.values().enumerate().map(|(nth, it)| {
            let cost = if choice >> nth & 1 == 1 {
                it.cost.high
            } else {
                it.cost.low
            };
            (cost * it.form, cost * it.ioctl)
        });
        let (form, ioctl) = ends.fold((0.0, 0.0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
        form / ioctl
    }

    /// A few terms, of which one is always in both calls.
    fn terms() -> impl Strategy<Value = Vec<(f64, f64, f64, f64)>> {
        let number = || (0_u8..5).prop_map(f64::from);
        let term = (0.0..1000.0, 0.0..1000.0, number(), number());
        prop::collection::vec(term, 0..6).prop_map(|mut terms| {
            terms.push((10.0, 5.0, 1.0, 1.0));
            terms
        })
    }

    proptest! {
        /// The extremes of a ratio of sums are at corners of the ranges.
        #[test]
        fn no_choice_of_costs_lies_outside(terms in terms()) {
            let model = model(&terms);
            let ratios = (0..1 << terms.len()).map(|choice| corner(&model, choice));
            let ratios: Vec<_> = ratios.collect();
            let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let high = ratios.iter().copied().fold(0.0, f64::max);
            let found = model.ratio();
            prop_assert!((found.low - low).abs() < 1e-9 * low.max(1.0), "{found:?} {low}");
            prop_assert!((found.high - high).abs() < 1e-9 * high.max(1.0), "{found:?} {high}");
        }

        /// Below the threshold, the form can save the share. From the threshold on, not.
        #[test]
        fn the_threshold_divides(terms in terms()) {
            let model = model(&terms);
            let event = Event::Instruction((terms.len() - 1).to_string());
            let at = |cost: f64| {
                let mut terms = terms.clone();
                *terms.last_mut().unwrap() = (cost, 0.0, 1.0, 1.0);
                super::tests::model(&terms).ratio().low
            };
            match model.threshold(&event, 0.01) {
                Some(threshold) => {
                    prop_assert!(at(threshold) > 0.99);
                    prop_assert!(threshold < 1.0 || at(threshold - 1.0) <= 0.99);
                }
                None => prop_assert!(at(LARGEST) <= 0.99),
            }
        }
    }

    #[test]
    fn equal_slowness_leaves_less_open() {
        let cost = Interval::new(1.0, 4.0);
        let share = |form, ioctl| Share { cost, form, ioctl };
        let shares = [
            (Term::Common, share(100.0, 100.0)),
            (Term::OfForm, share(20.0, 0.0)),
            (Term::OfIoctl, share(0.0, 30.0)),
        ];
        let model = Model {
            shares: shares.into(),
            missing: BTreeSet::new(),
        };
        assert_eq!(model.ratio(), Interval::new(120.0 / 220.0, 180.0 / 130.0));
        let tied = model.equally_slow();
        assert_eq!(tied.ratio(), Interval::new(120.0 / 130.0, 120.0 / 130.0));
        assert_eq!(tied.cycles(), model.cycles());
    }

    #[test]
    fn what_both_have_cancels() {
        let same = model(&[(1.0, 1000.0, 3.0, 3.0), (5.0, 7.0, 1.0, 1.0)]);
        assert_eq!(same.ratio(), Interval::new(1.0, 1.0));
        assert_eq!(same.cycles(), Interval::new(8.0, 3015.0));
        // One has an event more.
        let more = model(&[(100.0, 0.0, 1.0, 1.0), (10.0, 10.0, 1.0, 0.0)]);
        assert_eq!(more.ratio(), Interval::new(1.1, 1.2));
        let event = |nth: &str| Event::Instruction(nth.into());
        assert_eq!(more.threshold(&event("1"), 0.01), None);
        assert_eq!(more.threshold(&event("0"), 0.01), Some(0.0));
    }
}
