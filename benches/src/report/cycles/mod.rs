//! Cycles, as the model has them for the hosts that were recorded.

mod reality;
mod tables;

use std::collections::BTreeSet;

use anyhow::Result;
use profile::Event;

use super::words::{EXIT, listed, work};
use crate::chart;
use crate::cycles::costs::Cost;
use crate::cycles::{Costs, Interval, Model};
use crate::grid::Section;
use crate::record::{CaseRow, Record, Run};
use crate::table;

/// The events whose cost decides how much a form saves, and what they are.
const DECISIVE: [(&str, &str); 2] = [("wrmsr IA32_PRED_CMD", "IBPB"), ("vmrun", "vmrun")];
/// A form that saves less of the cycles saves next to nothing.
const LEAST: f64 = 0.01;

/// A form of a row on one host.
pub struct Modelled<'a> {
    pub row: &'a CaseRow,
    pub form: &'static str,
    pub processor: &'a str,
    pub model: Model,
}

impl<'a> Modelled<'a> {
    /// The model of a row. `None` if the run has no estimates for it.
    fn new(run: &'a Run, row: &str, form: &'static str, costs: &Costs) -> Option<Self> {
        let (row, processor) = (run.row(row)?, run.processor.as_deref()?);
        let model = Model::new(row, form, costs, processor)?;
        Some(Self {
            row,
            form,
            processor,
            model,
        })
    }
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
    /// # Errors
    ///
    /// If costs.toml is malformed.
    pub fn new(record: &'a Record) -> Result<Option<Self>> {
        let costs = Costs::read()?;
        let mut modelled = Vec::new();
        for name in chart::FIRST {
            for form in table::forms() {
                let on = |run| Modelled::new(run, name, form, &costs);
                modelled.extend(record.hosts.iter().filter_map(on));
            }
        }
        Ok((!modelled.is_empty()).then_some(Self {
            record,
            costs,
            modelled,
        }))
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
        let rows = chart::FIRST.map(|row| self.ratios(row));
        let others = [self.thresholds(), self.reality(), self.used()];
        rows.into_iter().chain(others).flatten().collect()
    }

    /// What the model answers: for each row which forms save cycles, and then the costs that
    /// decide how much they save.
    pub fn answer(&self) -> Vec<String> {
        let rows = chart::FIRST.iter().filter_map(|row| self.savings(row));
        let costs = DECISIVE.iter();
        let costs = costs.filter_map(|(event, title)| self.limits(event, title));
        rows.chain(costs).chain(self.missing()).collect()
    }

    /// The events that the cycles leave out.
    fn missing(&self) -> Option<String> {
        let events = self.modelled.iter().flat_map(|it| it.model.missing());
        let events: BTreeSet<_> = events.map(ToString::to_string).collect();
        let events = events.into_iter().collect::<Vec<_>>().join(", ");
        (!events.is_empty()).then(|| format!("The tables have no cost of these events: {events}."))
    }

    /// Which forms save cycles in a row, on all hosts.
    fn savings(&self, row: &str) -> Option<String> {
        let mut parts = Vec::new();
        for verdict in VERDICTS {
            let forms = table::forms().filter_map(|form| Some((form, self.across(row, form)?)));
            let forms = forms.filter(|(_, ratios)| Verdict::of(*ratios) == verdict);
            let forms: Vec<_> = forms.map(|(form, _)| form).collect();
            if !forms.is_empty() {
                parts.push(format!(
                    "{} {}",
                    listed(&forms),
                    verdict.words(forms.len() == 1)
                ));
            }
        }
        (!parts.is_empty()).then(|| format!("For {}, {}.", work(row), parts.join("; ")))
    }

    /// From which cost of an event on the forms save next to nothing of an exit.
    fn limits(&self, event: &str, title: &str) -> Option<String> {
        let event = Event::from(String::from(event));
        let limit = |form| {
            let limits = self.of(EXIT, form);
            let limits = limits.map(|it| it.model.threshold(&event, LEAST));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_without_a_cost_is_named() {
        let mut record: Record =
            serde_json::from_str(include_str!("../../../../docs/results.json")).unwrap();
        assert!(Cycles::new(&record).unwrap().unwrap().missing().is_none());
        let figures = record.hosts.iter_mut().flat_map(|run| &mut run.rows);
        for figure in figures.flat_map(|row| row.figures.values_mut()) {
            if let Some(profile) = &mut figure.profile {
                let event = Event::Instruction("wbinvd".into());
                profile.events.insert(event, 1);
            }
        }
        let answer = Cycles::new(&record).unwrap().unwrap().answer();
        let last = answer.last().unwrap();
        assert_eq!(last, "The tables have no cost of these events: wbinvd.");
    }
}
