//! The published costs of events, in cycles. costs.toml has the data.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use profile::Event;
use serde::Deserialize;

use super::Interval;
use crate::place::cpuinfo;

/// The data.
const FILE: &str = include_str!("../../costs.toml");

/// The costs of events on some microarchitectures.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// What multiplies the estimate for plain instructions at the high end.
    pub slowdown: Slowdown,
    /// The microarchitectures.
    #[serde(rename = "processor")]
    pub processors: Vec<Processor>,
    /// The publications.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
    /// The costs.
    #[serde(rename = "cost")]
    pub costs: Vec<Cost>,
}

/// How much slower plain instructions can be than their estimate, for the caches that are
/// cold and the branches that are mispredicted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slowdown {
    /// The factor.
    pub high: f64,
    /// The reason for it.
    pub why: String,
}

/// A microarchitecture.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Processor {
    /// The name.
    pub name: String,
    /// The host in hosts.toml with its mitigations, if any.
    pub host: Option<String>,
    /// The name of LLVM's model of it, or of its nearest relative.
    pub llvm: String,
    /// The vendor, as the processor reports it.
    pub vendor: String,
    /// Its numbers: a family, and the first and last model of each range in it.
    pub models: Vec<[u32; 3]>,
}

/// A publication.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The name by which costs refer to it.
    pub id: String,
    /// The author, the title and the year.
    pub title: String,
    /// The address.
    pub address: String,
}

/// The cost of an event.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// The names of the events. `wrmsr` stands for all writes of MSRs without a cost of their
    /// own.
    pub events: Vec<String>,
    /// The processors, or none if the cost is for those without one of their own.
    #[serde(default)]
    pub processors: Vec<String>,
    /// The lowest published cost.
    pub low: f64,
    /// The highest published cost.
    pub high: f64,
    /// The sources. Without one, the cost is an assumption.
    #[serde(default)]
    pub sources: Vec<String>,
    /// What was measured, or why the cost is assumed.
    pub note: String,
}

impl Cost {
    /// From the lowest to the highest cost.
    #[must_use]
    pub fn range(&self) -> Interval {
        Interval::new(self.low, self.high)
    }
}

impl Costs {
    /// The costs of costs.toml.
    ///
    /// # Errors
    ///
    /// If the file is malformed, or contradicts itself.
    pub fn read() -> Result<Self> {
        Self::parse(FILE).context("costs.toml")
    }

    fn parse(text: &str) -> Result<Self> {
        let costs: Self = toml::from_str(text)?;
        costs.check()?;
        Ok(costs)
    }

    fn check(&self) -> Result<()> {
        ensure!(self.slowdown.high >= 1.0, "the slowdown is below 1");
        let names = |names: &mut dyn Iterator<Item = &str>| -> Result<BTreeSet<String>> {
            let mut set = BTreeSet::new();
            for name in names {
                ensure!(set.insert(name.to_owned()), "{name:?} is there twice");
            }
            Ok(set)
        };
        let processors = names(&mut self.processors.iter().map(|it| &*it.name))?;
        let sources = names(&mut self.sources.iter().map(|it| &*it.id))?;
        let mut used = BTreeSet::new();
        let mut found = BTreeSet::new();
        for cost in &self.costs {
            let what = cost.events.join(", ");
            ensure!(!cost.events.is_empty(), "a cost names no event");
            ensure!(
                0.0 <= cost.low && cost.low <= cost.high && cost.high.is_finite(),
                "the cost of {what} is not a range from low to high"
            );
            for processor in &cost.processors {
                ensure!(processors.contains(processor), "{processor:?} is unknown");
            }
            for source in &cost.sources {
                ensure!(sources.contains(source), "{source:?} is unknown");
                used.insert(source.clone());
            }
            // A cost of all others counts as that of a processor without a name.
            let of = match &cost.processors[..] {
                [] => &[String::new()],
                named => named,
            };
            for event in &cost.events {
                ensure!(
                    Event::from(event.clone()).cuts(),
                    "{event:?} has no cost of its own"
                );
                for processor in of {
                    ensure!(
                        found.insert((event, processor.clone())),
                        "{event:?} has two costs on {processor:?}"
                    );
                }
            }
        }
        for source in &sources {
            ensure!(used.contains(source), "no cost is from {source:?}");
        }
        Ok(())
    }

    /// The cost of an event on a processor.
    #[must_use]
    pub fn of(&self, event: &Event, processor: &str) -> Option<&Cost> {
        let name = event.to_string();
        let kind = name.split(' ').next().unwrap_or_default();
        [&*name, kind].into_iter().find_map(|name| {
            let has = |list: &[String], name: &str| list.iter().any(|it| it == name);
            let mut named = self.costs.iter().filter(|cost| has(&cost.events, name));
            let own = named.clone().find(|cost| has(&cost.processors, processor));
            own.or_else(|| named.find(|cost| cost.processors.is_empty()))
        })
    }

    /// Returns a processor by its name.
    #[must_use]
    pub fn processor(&self, name: &str) -> Option<&Processor> {
        self.processors.iter().find(|it| it.name == name)
    }

    /// The processor of a host.
    #[must_use]
    pub fn of_host(&self, host: &str) -> Option<&Processor> {
        let mut processors = self.processors.iter();
        processors.find(|it| it.host.as_deref() == Some(host))
    }

    /// The processor of this machine, if it is one of them.
    #[must_use]
    pub fn here(&self) -> Option<&Processor> {
        self.by_number(&fs::read_to_string("/proc/cpuinfo").ok()?)
    }

    /// The processor whose numbers are in /proc/cpuinfo.
    fn by_number(&self, info: &str) -> Option<&Processor> {
        let vendor = cpuinfo(info, "vendor_id")?;
        let family: u32 = cpuinfo(info, "cpu family")?.parse().ok()?;
        let model: u32 = cpuinfo(info, "model")?.parse().ok()?;
        self.processors.iter().find(|it| {
            let mut models = it.models.iter();
            let is_one =
                |&[of, first, last]: &[u32; 3]| of == family && (first..=last).contains(&model);
            it.vendor == vendor && models.any(is_one)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts;
    use crate::record::Record;

    #[test]
    fn the_file_is_well_formed() {
        let costs = Costs::read().unwrap();
        let hosts = hosts::all().unwrap();
        for processor in &costs.processors {
            if let Some(host) = &processor.host {
                assert!(hosts.iter().any(|it| it.name == *host), "{host}");
            }
        }
    }

    /// Each event that a call has must have a cost.
    #[test]
    fn each_event_has_a_cost() {
        let costs = Costs::read().unwrap();
        let kept = include_str!("../../../docs/results.json");
        let record: Record = serde_json::from_str(kept).unwrap();
        let runs = record.runs.iter().chain(&record.hosts);
        let figures = runs
            .flat_map(|run| &run.rows)
            .flat_map(|row| row.figures.values());
        let profiles = figures.filter_map(|it| it.profile.as_ref());
        let events: BTreeSet<_> = profiles.flat_map(|it| it.events.keys()).collect();
        assert!(!events.is_empty());
        for event in events.into_iter().filter(|event| event.cuts()) {
            for processor in &costs.processors {
                assert!(
                    costs.of(event, &processor.name).is_some(),
                    "{event} on {}",
                    processor.name
                );
            }
        }
    }

    #[test]
    fn a_processor_is_known_by_its_numbers() {
        let costs = Costs::read().unwrap();
        let info = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n";
        let name = |info: &str| Some(costs.by_number(info)?.name.clone());
        assert_eq!(name(info).as_deref(), Some("AMD Zen 3"));
        assert_eq!(name(&info.replace("25", "6")), None);
        assert_eq!(name(""), None);
    }

    #[test]
    fn a_cost_of_a_processor_is_preferred() {
        let costs = "
            slowdown = { high = 2, why = '' }
            processor = [{ name = 'A', llvm = 'a', vendor = 'V', models = [] }]
            source = [{ id = 's', title = '', address = '' }]
            cost = [
                { events = ['wrmsr'], low = 1, high = 2, note = '' },
                { events = ['wrmsr'], processors = ['A'], low = 3, high = 4, sources = ['s'], note = '' },
                { events = ['wrmsr EFER'], low = 5, high = 6, note = '' },
            ]";
        let parsed = Costs::parse(costs).unwrap();
        let low = |event: &str, processor| {
            let event = Event::from(String::from(event));
            Some(parsed.of(&event, processor)?.low)
        };
        assert_eq!(low("wrmsr STAR", "B"), Some(1.0));
        assert_eq!(low("wrmsr STAR", "A"), Some(3.0));
        assert_eq!(low("wrmsr EFER", "A"), Some(5.0));
        assert_eq!(low("rdmsr EFER", "A"), None);

        for (from, to) in [
            ("low = 1", "low = 9"),
            ("['A']", "['B']"),
            ("['s']", "['t']"),
            ("EFER", "EFER', 'returns"),
            ("note = '' },", "note = '', more = 1 },"),
            ("processors = ['A'], ", ""),
            ("high = 2,", "high = 0,"),
        ] {
            let wrong = costs.replacen(from, to, 1);
            assert_ne!(wrong, costs);
            assert!(Costs::parse(&wrong).is_err(), "{to}");
        }
    }
}
