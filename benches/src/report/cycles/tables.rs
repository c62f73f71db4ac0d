//! The tables of the model: the intervals of each form, the costs from which on a form saves
//! next to nothing, and the costs that were used.

use std::collections::BTreeSet;

use profile::Event;

use super::{Cycles, DECISIVE, LEAST, cycles};
use crate::cycles::{Interval, Model};
use crate::grid::{Cell, Grid};
use crate::report::answer::EXIT;
use crate::table::{self, Section};

/// The title of what follows if the plain instructions of both calls are equally slow.
const EQUALLY_SLOW: &str = "if equally slow";

impl Cycles<'_> {
    /// The cycles of each form, and its ratio to the ioctl, by processor.
    pub(super) fn ratios(&self, name: &str) -> Option<Section> {
        let mut grid = Grid::new(["form", "processor", "cycles", "/ioctl", EQUALLY_SLOW]);
        let mut add = |form: &str, processor: &str, numbers: [Option<String>; 3]| {
            let names = [form, processor].map(Cell::words).into_iter();
            let numbers = numbers.map(Cell::number);
            grid.rows.push(names.chain(numbers).collect());
        };
        for run in &self.record.hosts {
            let Some((row, processor)) = run.row(name).zip(run.processor.as_deref()) else {
                continue;
            };
            if let Some(ioctl) = Model::new(row, "ioctl", &self.costs, processor) {
                add(
                    "ioctl",
                    processor,
                    [Some(cycles(ioctl.cycles())), None, None],
                );
            }
        }
        for it in table::forms().flat_map(|form| self.of(name, form)) {
            let model = &it.model;
            let ratios = [model.ratio(), model.equally_slow().ratio()].map(ratio);
            let [any, equally] = ratios;
            let numbers = [cycles(model.cycles()), any, equally];
            add(it.form, it.processor, numbers.map(Some));
        }
        (!grid.rows.is_empty()).then(|| Section {
            id: format!("cycles-{name}"),
            title: format!("Modelled cycles of {name}"),
            text: "From the lowest to the highest number that the costs allow. An interval of \
                   ratios that contains 1 leaves open whether the form saves anything. In the \
                   last column, the plain instructions of both calls are equally slow; in the \
                   one before, those that only one of the calls executes can be slower or faster \
                   than the rest."
                .into(),
            grid,
        })
    }

    /// The costs from which on a form saves less than [`LEAST`] of an exit.
    pub(super) fn thresholds(&self) -> Option<Section> {
        let mut grid = Grid::new(["form", "processor"]);
        for (_, title) in DECISIVE {
            grid.head
                .extend([title.into(), format!("{title}, {EQUALLY_SLOW}")]);
        }
        for it in table::forms().flat_map(|form| self.of(EXIT, form)) {
            let models = [&it.model, &it.model.equally_slow()];
            let costs = DECISIVE.iter().flat_map(|(event, _)| {
                let event = Event::from(String::from(*event));
                models.map(|model| {
                    let cost = model.threshold(&event, LEAST)?;
                    Some(format!("{cost:.0}"))
                })
            });
            let costs = costs.map(Cell::number);
            let names = [it.form, it.processor].map(Cell::words);
            grid.rows.push(names.into_iter().chain(costs).collect());
        }
        let has_one = grid
            .rows
            .iter()
            .flatten()
            .any(|it| it.number && !it.text.is_empty());
        has_one.then(|| Section {
            id: "cycles-thresholds".into(),
            title: "The cost from which on a form saves less than 1 % of an exit".into(),
            text: "In cycles, whatever the other costs in their ranges are. 0 means that the form \
               saves less in any case; a cell is empty if no such cost exists, or if the exit \
               does not pay it."
                .into(),
            grid,
        })
    }

    /// The costs that the modelled rows have used.
    pub(super) fn used(&self) -> Section {
        let processors: BTreeSet<_> = self.modelled.iter().map(|it| it.processor).collect();
        let events: BTreeSet<_> = self
            .modelled
            .iter()
            .flat_map(|it| it.model.events())
            .collect();
        let head = ["event"].into_iter().chain(processors.iter().copied());
        let mut grid = Grid::new(head.chain(["source"]));
        for event in events {
            let costs = processors.iter().map(|it| self.costs.of(event, it));
            let costs: Vec<_> = costs.collect();
            let sources = costs.iter().flatten().flat_map(|cost| &cost.sources);
            let sources: BTreeSet<_> = sources.map(String::as_str).collect();
            let source = match sources.len() {
                0 => "assumed".to_owned(),
                _ => sources.into_iter().collect::<Vec<_>>().join(", "),
            };
            let ranges = costs
                .iter()
                .map(|cost| Some(cycles(cost.as_ref()?.range())));
            let name = [Cell::words(event.to_string())].into_iter();
            let cells = name.chain(ranges.map(Cell::number));
            grid.rows.push(cells.chain([Cell::words(source)]).collect());
        }
        Section {
            id: "cycles-costs".into(),
            title: "The costs that the model has used".into(),
            text: format!(
                "In cycles. benches/costs.toml has the addresses of the sources, and what was \
                 measured. Plain instructions take from one to {} times the estimate of llvm-mca. \
                 {}",
                self.costs.slowdown.high, self.costs.slowdown.why
            ),
            grid,
        }
    }
}

fn ratio(Interval { low, high }: Interval) -> String {
    format!("{low:.3} to {high:.3}")
}
