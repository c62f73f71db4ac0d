//! Cycles, as the model has them: intervals for the hosts that were recorded, the costs from
//! which on a form saves next to nothing, and the model beside times of a processor.

use std::collections::BTreeSet;

use profile::Event;

use super::answer::{EXIT, work};
use crate::cases;
use crate::chart;
use crate::cycles::costs::Cost;
use crate::cycles::{Costs, Interval, Model};
use crate::grid::{Cell, Grid};
use crate::record::{CaseRow, Native, Record, Run};
use crate::seccomp::Seccomp;
use crate::table::{self, Section};

/// The events whose cost decides how much a form saves, and what they are.
const DECISIVE: [(&str, &str); 2] = [("wrmsr IA32_PRED_CMD", "IBPB"), ("vmrun", "vmrun")];
/// The title of what follows if the plain instructions of both calls are equally slow.
const EQUALLY_SLOW: &str = "if equally slow";
/// A form that saves less of the cycles saves next to nothing.
const LEAST: f64 = 0.01;

/// A form of a row on one host.
pub struct Modelled<'a> {
    /// The row.
    pub row: &'a CaseRow,
    /// The form.
    pub form: &'static str,
    /// The processor of the host.
    pub processor: &'a str,
    /// The model.
    pub model: Model,
}

/// The models of a record's hosts.
pub struct Cycles<'a> {
    record: &'a Record,
    costs: Costs,
    /// In the order of the rows, of the forms and of the hosts.
    pub modelled: Vec<Modelled<'a>>,
}

impl<'a> Cycles<'a> {
    /// Makes the models. `None` if the record has no estimates for a host.
    ///
    /// # Panics
    ///
    /// If costs.toml is malformed. A test reads it.
    pub fn new(record: &'a Record) -> Option<Self> {
        let costs = Costs::read().expect("costs.toml is well-formed");
        let mut modelled = Vec::new();
        for name in chart::FIRST {
            for form in table::forms() {
                for run in &record.hosts {
                    let Some((row, processor)) = run.row(name).zip(run.processor.as_deref()) else {
                        continue;
                    };
                    if let Some(model) = Model::new(row, form, &costs, processor) {
                        modelled.push(Modelled {
                            row,
                            form,
                            processor,
                            model,
                        });
                    }
                }
            }
        }
        (!modelled.is_empty()).then_some(Self {
            record,
            costs,
            modelled,
        })
    }

    /// The models of a row for a form.
    fn of(&self, row: &str, form: &str) -> impl Iterator<Item = &Modelled<'a>> {
        let here = self.modelled.iter();
        here.filter(move |it| it.row.name == row && it.form == form)
    }

    /// The ratios across all hosts.
    fn across(&self, row: &str, form: &str) -> Option<Ratios> {
        let ratios = self.of(row, form).map(|it| Ratios {
            any: it.model.ratio(),
            equally: it.model.equally_slow().ratio(),
        });
        ratios.reduce(|a, b| Ratios {
            any: a.any.hull(b.any),
            equally: a.equally.hull(b.equally),
        })
    }

    /// All tables.
    pub fn sections(&self) -> Vec<Section> {
        let rows = chart::FIRST.iter();
        let mut sections: Vec<_> = rows.filter_map(|row| self.ratios(row)).collect();
        sections.extend(self.thresholds());
        sections.extend(self.reality());
        sections.push(self.used());
        sections
    }

    /// The cycles of each form, and its ratio to the ioctl, by processor.
    fn ratios(&self, name: &str) -> Option<Section> {
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
    fn thresholds(&self) -> Option<Section> {
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

    /// The model beside the times of the machine that ran the emulators.
    fn reality(&self) -> Option<Section> {
        let native = self.record.native.as_ref()?;
        let here = &native.run.measured_on;
        // The run whose kernel has chosen the mitigations that are most like those here.
        let agreement = |run: &&Run| {
            let theirs = &run.measured_on.mitigations;
            let ours = here.mitigations.iter();
            ours.filter(|(name, state)| theirs.get(*name) == Some(state))
                .count()
        };
        let runs = self.record.runs.iter();
        let runs = runs.filter(|run| run.seccomp == Seccomp::None && run.processor.is_some());
        let run = runs.max_by_key(agreement)?;
        let is_same_vendor = run.measured_on.vendor_module == here.vendor_module;
        let compared = self.compared(run, native);
        let (rows, others): (Vec<_>, Vec<_>) = compared
            .into_iter()
            .partition(|it| is_same_vendor || !it.loads_vcpu);
        let inside = rows.iter().filter(|it| it.deviation() == 0.0);
        let slowdowns = inside.clone().map(|it| it.measured / it.model.low);
        let slowest = slowdowns.clone().fold(1.0, f64::max);
        let fastest = slowdowns.fold(slowest, f64::min);
        let mut text = format!(
            "Calls by ioctl that need no guest and no other thread, on {}, Linux {}, at {:.2} GHz. {} of {} measured \
             values lie in the interval of the model for {}, at {fastest:.1} to {slowest:.1} times \
             its low end. A deviation is from the nearer end. The streams are those of the \
             patched kernel with mitigations {}, and the times are of this other kernel.",
            here.cpu,
            here.kernel,
            native.gigahertz,
            inside.count(),
            rows.len(),
            run.processor.as_deref()?,
            run.measured_on.build.as_ref()?.mitigations,
        );
        if !others.is_empty() {
            let module = here.vendor_module.as_deref().unwrap_or("another one");
            text += &format!(
                " {} more calls load a vCPU. That is the work of KVM's module for the vendor, \
                 which is {module} here, so their times say nothing about the recorded streams.",
                others.len()
            );
        }
        let mut grid = Grid::new(["call by ioctl", "model, cycles", "measured", "deviation"]);
        for it in &rows {
            let deviation = match it.deviation() {
                0.0 => "inside".to_owned(),
                percent => format!("{percent:+.0} %"),
            };
            let numbers = [cycles(it.model), format!("{:.0}", it.measured), deviation];
            grid.push(it.name, numbers.map(Some));
        }
        (!rows.is_empty()).then(|| Section {
            id: "cycles-reality".into(),
            title: "The model and a processor".into(),
            text,
            grid,
        })
    }

    /// The calls by ioctl that need no guest, and were both modelled and measured.
    fn compared(&self, run: &'a Run, native: &Native) -> Vec<Compared<'a>> {
        let guest = Event::from(String::from("vmrun"));
        let rows = run.rows.iter().filter_map(|row| {
            let model = Model::new(row, "ioctl", &self.costs, run.processor.as_deref()?)?;
            let profile = row.figures.get("ioctl")?.profile.as_ref()?;
            let time = native.run.row(&row.name)?.figures.get("ioctl")?.value()?;
            let is_alone = !model.has(&guest)
                && !row.name.starts_with("kvm_run")
                && !cases::needs_another_thread(&row.name);
            is_alone.then(|| Compared {
                name: &row.name,
                loads_vcpu: profile.loads_vcpu,
                model: model.cycles(),
                measured: time * native.gigahertz,
            })
        });
        rows.collect()
    }

    /// The costs that the modelled rows have used.
    fn used(&self) -> Section {
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

    /// What the model answers: for each row which forms save cycles, and then the costs that
    /// decide how much they save.
    pub fn answer(&self) -> Vec<String> {
        let rows = chart::FIRST.iter().filter_map(|row| self.savings(row));
        let costs = DECISIVE
            .iter()
            .filter_map(|(event, title)| self.limits(event, title));
        rows.chain(costs).collect()
    }

    /// Which forms save cycles in a row, on all hosts.
    fn savings(&self, row: &str) -> Option<String> {
        let mut parts = Vec::new();
        for verdict in VERDICTS {
            let forms = table::forms().filter_map(|form| Some((form, self.across(row, form)?)));
            let forms = forms.filter(|(_, ratios)| Verdict::of(*ratios) == verdict);
            let forms: Vec<_> = forms.map(|(form, _)| form).collect();
            match &forms[..] {
                [] => {}
                [form] => parts.push(format!("{form} {}", verdict.words(true))),
                [rest @ .., last] => parts.push(format!(
                    "{} and {last} {}",
                    rest.join(", "),
                    verdict.words(false)
                )),
            }
        }
        (!parts.is_empty()).then(|| format!("For {}, {}.", work(row), parts.join("; ")))
    }

    /// From which cost of an event on the forms save next to nothing of an exit.
    fn limits(&self, event: &str, title: &str) -> Option<String> {
        let event = Event::from(String::from(event));
        let limit = |form| {
            let limits = self
                .of(EXIT, form)
                .map(|it| it.model.threshold(&event, LEAST));
            let limits: Vec<_> = limits.collect::<Option<_>>()?;
            let most = limits.into_iter().reduce(f64::max)?;
            Some(format!("{form} from {most:.0} cycles on"))
        };
        let forms: Vec<_> = table::forms().filter_map(limit).collect();
        let costs = self.modelled.iter();
        let costs = costs.filter_map(|it| self.costs.of(&event, it.processor));
        let range = costs.map(Cost::range).reduce(Interval::hull)?;
        (!forms.is_empty()).then(|| {
            format!(
                "By the cost of {title} alone, whatever the other costs are, a form saves less \
                 than 1 % of an exit: {}. The tables have {} cycles.",
                forms.join(", "),
                cycles(range)
            )
        })
    }

    /// The change of an exit, at the end of the README's sentence on a form.
    pub fn note(&self, form: &str) -> Option<String> {
        let Ratios { any, equally } = self.across(EXIT, form)?;
        Some(format!(
            "in cycles, modelled for AMD's hosts, {} for the exit, or {} if the code that differs \
             is slower or faster than the rest",
            change(equally),
            change(any)
        ))
    }
}

/// The ratios of a form to the ioctl.
#[derive(Clone, Copy)]
struct Ratios {
    /// For any costs.
    any: Interval,
    /// If all plain instructions are equally slow.
    equally: Interval,
}

/// Whether a form saves cycles.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Always,
    IfEquallySlow,
    Open,
    Never,
}

const VERDICTS: [Verdict; 4] = [
    Verdict::Always,
    Verdict::IfEquallySlow,
    Verdict::Open,
    Verdict::Never,
];

impl Verdict {
    fn of(Ratios { any, equally }: Ratios) -> Self {
        if any.high < 1.0 {
            Self::Always
        } else if any.low >= 1.0 {
            Self::Never
        } else if equally.high < 1.0 {
            Self::IfEquallySlow
        } else {
            Self::Open
        }
    }

    /// The verdict on one form, or on more.
    fn words(self, one: bool) -> String {
        let (save, depend) = if one {
            ("saves", "depends")
        } else {
            ("save", "depend")
        };
        match self {
            Self::Always => format!("{save} cycles for every cost in the tables"),
            Self::IfEquallySlow => {
                format!("{save} cycles unless the code that differs is slower than the rest")
            }
            Self::Open => format!("{depend} on the costs"),
            Self::Never => format!("never {save} cycles"),
        }
    }
}

/// A call that was modelled and measured.
struct Compared<'a> {
    name: &'a str,
    loads_vcpu: bool,
    model: Interval,
    measured: f64,
}

impl Compared<'_> {
    /// How far the measured value lies outside, in per cent of the nearer end.
    fn deviation(&self) -> f64 {
        let nearer = self.measured.clamp(self.model.low, self.model.high);
        100.0 * (self.measured / nearer - 1.0)
    }
}

/// The change that a ratio is, in per cent.
fn change(Interval { low, high }: Interval) -> String {
    let [most, least] = [low, high].map(|it| 100.0 * (1.0 - it));
    if least >= 0.0 {
        format!("{least:.0} to {most:.0} % fewer")
    } else if most <= 0.0 {
        format!("{:.0} to {:.0} % more", -most, -least)
    } else {
        format!("from {most:.0} % fewer to {:.0} % more", -least)
    }
}

fn cycles(Interval { low, high }: Interval) -> String {
    if low == high {
        format!("{low:.0}")
    } else {
        format!("{low:.0} to {high:.0}")
    }
}

fn ratio(Interval { low, high }: Interval) -> String {
    format!("{low:.3} to {high:.3}")
}
