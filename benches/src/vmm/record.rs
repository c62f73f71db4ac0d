//! The results of a measurement, in memory and as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::way::Way;
use crate::counter::Unit;
use crate::place::Place;
use crate::record;

/// The version of the schema, which grows with each incompatible change.
pub const SCHEMA: u32 = 1;

/// The request that runs a vCPU. Each ends with an exit to the VMM.
const RUN: &str = "KVM_RUN";

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version, [`SCHEMA`].
    pub schema: u32,
    /// The time of its end, in seconds since 1970.
    pub time: u64,
    /// The results of each work.
    pub works: Vec<WorkRecord>,
}

/// The results of one work, in one boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkRecord {
    /// The name of the work.
    pub name: String,
    /// The VMM, by its version.
    pub vmm: String,
    /// The machine and the kernel.
    pub measured_on: Place,
    /// The unit of the figures.
    pub unit: Unit,
    /// The interface of a request.
    pub interface: Interface,
    /// The results by way.
    pub figures: BTreeMap<Way, Figure>,
    /// The ways in which the work failed, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<Way, String>,
}

/// The cost of an ioctl whose number KVM does not know: the interface of a request, without
/// the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// On a VM.
    pub vm: u64,
    /// On a vCPU, which KVM locks and loads.
    pub vcpu: u64,
}

/// The results of one work in one way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The processor time of the VMM in each run, its guest included.
    pub runs: Vec<u64>,
    /// The requests of KVM, in a run of their own, the most frequent first.
    pub requests: Vec<Request>,
    /// The loops of the guest, if the work has some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loops: Vec<Loop>,
}

/// How often a request was made as what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The name of the ioctl.
    pub ioctl: String,
    /// The call that was made instead, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// How often.
    pub count: u64,
}

/// A loop of the guest, by the guest's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loop {
    /// The name.
    pub name: String,
    /// The number of its rounds.
    pub rounds: u64,
    /// The ticks of all rounds.
    pub ticks: u64,
}

impl Loop {
    /// Reads a line of the small VMM.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let name = words.next()?.to_owned();
        let mut number = || words.next()?.parse().ok();
        let (rounds, ticks) = (number()?, number()?);
        let read = Self {
            name,
            rounds,
            ticks,
        };
        (rounds > 0 && words.next().is_none()).then_some(read)
    }

    /// The ticks of a round.
    #[must_use]
    pub fn each(&self) -> f64 {
        self.ticks as f64 / self.rounds as f64
    }
}

impl Figure {
    /// The figure of the work: the median of the runs.
    #[must_use]
    pub fn value(&self) -> u64 {
        let mut runs = self.runs.clone();
        runs.sort_unstable();
        runs.get(runs.len() / 2).copied().unwrap_or_default()
    }

    /// The difference between the largest and the smallest run, as a share of the median.
    #[must_use]
    pub fn spread(&self) -> f64 {
        let (least, most) = (self.runs.iter().min(), self.runs.iter().max());
        let (least, most) = (least.copied(), most.copied());
        let difference = most.unwrap_or_default() - least.unwrap_or_default();
        difference as f64 / self.value() as f64
    }

    /// The number of exits to the VMM.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.sum(|request| request.ioctl == RUN)
    }

    /// The number of requests.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.sum(|_| true)
    }

    /// The share of the requests that became calls.
    #[must_use]
    pub fn handed_over(&self) -> f64 {
        self.sum(|request| request.call.is_some()) as f64 / self.all() as f64
    }

    fn sum(&self, of: impl Fn(&Request) -> bool) -> u64 {
        let requests = self.requests.iter().filter(|request| of(request));
        requests.map(|request| request.count).sum()
    }
}

impl WorkRecord {
    /// The cost in a way, as a share of the cost by ioctl.
    #[must_use]
    pub fn share(&self, way: Way) -> Option<f64> {
        let value = |way| Some(self.figures.get(&way)?.value() as f64);
        Some(value(way)? / value(Way::Ioctl)?)
    }

    /// The share of the work by ioctl that is interface: what each request costs before and
    /// after KVM's work on it. Most requests that are not runs are those of a VM.
    #[must_use]
    pub fn interface(&self) -> Option<f64> {
        let ioctl = self.figures.get(&Way::Ioctl)?;
        let Interface { vm, vcpu } = self.interface;
        let interface = ioctl.exits() * vcpu + (ioctl.all() - ioctl.exits()) * vm;
        Some(interface as f64 / ioctl.value() as f64)
    }

    /// The cost of one round of a loop, in a way.
    #[must_use]
    pub fn of_loop(&self, name: &str, way: Way) -> Option<f64> {
        let loops = self.figures.get(&way)?.loops.iter();
        loops.into_iter().find(|it| it.name == name).map(Loop::each)
    }
}

impl Record {
    /// The number of figures that are missing because the work failed.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.works.iter().map(|work| work.failures.len()).sum()
    }

    /// Reads a record in JSON.
    ///
    /// # Errors
    ///
    /// If the file is not a record of this schema.
    pub fn read(path: &Path) -> Result<Self> {
        record::read(path, SCHEMA, "the JSON of cargo vmm")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(ioctl: &str, call: Option<&str>, count: u64) -> Request {
        Request {
            ioctl: ioctl.into(),
            call: call.map(String::from),
            count,
        }
    }

    #[test]
    fn a_figure_is_the_median_of_its_runs() {
        let runs = vec![110, 100, 140];
        let figure = Figure {
            runs,
            ..Figure::default()
        };
        assert_eq!(figure.value(), 110);
        assert_eq!(figure.spread(), 40.0 / 110.0);
    }

    #[test]
    fn requests_are_summed() {
        let figure = Figure {
            requests: vec![
                request("KVM_RUN", Some("kvm_run"), 6),
                request("KVM_RUN", None, 1),
                request("KVM_IRQ_LINE", None, 1),
            ],
            ..Figure::default()
        };
        assert_eq!((figure.exits(), figure.all()), (7, 8));
        assert_eq!(figure.handed_over(), 0.75);
    }

    #[test]
    fn loops_are_lines() {
        let read = Loop::parse("in_from_vmm 20 60").unwrap();
        assert_eq!((&*read.name, read.each()), ("in_from_vmm", 3.0));
        for line in ["", "a", "a 1", "a 0 1", "a b 1", "a 1 2 3"] {
            assert_eq!(Loop::parse(line), None, "{line:?}");
        }
    }
}
