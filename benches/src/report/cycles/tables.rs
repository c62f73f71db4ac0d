//! The tables of the model: the intervals of each form, the costs from which on a form saves
//! next to nothing, and the costs that were used.

use std::collections::BTreeSet;

use profile::Event;

use super::{Cycles, DECISIVE, LEAST, Modelled, cycles};
use crate::cycles::Interval;
use crate::grid::{Cell, Grid, Section};
use crate::report::words::EXIT;
use crate::table;

/// The title of what follows if the plain instructions of both calls are equally slow.
const EQUALLY_SLOW: &str = "if equally slow";

impl Cycles<'_> {
    /// The cycles of each form, and its ratio to the ioctl, by processor.
    pub(super) fn ratios(&self, name: &str) -> Option<Section> {
        let mut grid = Grid::new(["form", "processor", "cycles", "/ioctl", EQUALLY_SLOW]);
        for run in &self.record.hosts {
            if let Some(ioctl) = Modelled::new(run, name, "ioctl", &self.costs) {
                let numbers = [Some(cycles(ioctl.model.cycles())), None, None];
                grid.push(["ioctl", ioctl.processor], numbers);
            }
        }
        for it in table::forms().flat_map(|form| self.of(name, form)) {
            let model = &it.model;
            let [any, equally] = [model.ratio(), model.equally_slow().ratio()].map(ratio);
            let numbers = [cycles(model.cycles()), any, equally];
            grid.push([it.form, it.processor], numbers.map(Some));
        }
        Section::new(
            format!("cycles-{name}"),
            format!("Modelled cycles of {name}"),
            "From the lowest to the highest number that the costs allow. An interval of ratios \
             that contains 1 leaves open whether the form saves anything. In the last column, the \
             plain instructions of both calls are equally slow; in the one before, those that \
             only one of the calls executes can be slower or faster than the rest.",
            grid,
        )
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
            let costs = DECISIVE.into_iter().flat_map(|(event, _)| {
                let event = Event::from(String::from(event));
                models.map(|model| Some(format!("{:.0}", model.threshold(&event, LEAST)?)))
            });
            grid.push([it.form, it.processor], costs);
        }
        let mut cells = grid.rows.iter().flatten();
        if !cells.any(|it| it.number && !it.text.is_empty()) {
            return None;
        }
        Section::new(
            "cycles-thresholds",
            "The cost from which on a form saves less than 1 % of an exit",
            "In cycles, whatever the other costs in their ranges are. 0 means that the form saves \
             less in any case; a cell is empty if no such cost exists, or if the exit does not \
             pay it.",
            grid,
        )
    }

    /// The costs that the modelled rows have used.
    pub(super) fn used(&self) -> Option<Section> {
        let modelled = self.modelled.iter();
        let processors: BTreeSet<_> = modelled.clone().map(|it| it.processor).collect();
        let events: BTreeSet<_> = modelled.flat_map(|it| it.model.events()).collect();
        let head = ["event"].into_iter().chain(processors.iter().copied());
        let mut grid = Grid::new(head.chain(["source"]));
        for event in events {
            let costs = processors.iter().map(|it| self.costs.of(event, it));
            let sources = costs.clone().flatten().flat_map(|cost| &cost.sources);
            let sources: BTreeSet<_> = sources.map(String::as_str).collect();
            let source = match sources.len() {
                0 => "assumed".to_owned(),
                _ => sources.into_iter().collect::<Vec<_>>().join(", "),
            };
            let ranges = costs.map(|cost| Some(cycles(cost?.range())));
            let name = [Cell::words(event.to_string())].into_iter();
            let cells = name.chain(ranges.map(Cell::number));
            grid.rows.push(cells.chain([Cell::words(source)]).collect());
        }
        Section::new(
            "cycles-costs",
            "The costs that the model has used",
            format!(
                "In cycles. benches/costs.toml has the addresses of the sources, and what was \
                 measured. Plain instructions take from one to {} times the estimate of llvm-mca. \
                 {}",
                self.costs.slowdown.high, self.costs.slowdown.why
            ),
            grid,
        )
    }
}

fn ratio(Interval { low, high }: Interval) -> String {
    format!("{low:.3} to {high:.3}")
}
