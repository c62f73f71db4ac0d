//! Profiles of hosts: how the kernel of a machine is made to take the paths that it takes
//! on a host. hosts.toml has the data.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::grid::{Grid, Section};
use crate::place::Place;
use crate::record::{Record, Run};
use crate::table::{self, ratio};
use crate::{cases, chart};

/// The profile of one host.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The name of the host.
    pub name: String,
    /// The emulator, by the name of the option `--accel`.
    pub accel: String,
    /// The model of the processor, if it is not the emulator's usual one.
    pub cpu: Option<String>,
    /// The parameters of the kernel.
    pub cmdline: Vec<String>,
    /// What is forced, in words.
    pub forces: String,
    /// A part of the text that the kernel must report for a vulnerability.
    pub shows: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hosts {
    host: Vec<Host>,
}

/// The profiles of hosts.toml.
///
/// # Errors
///
/// If the file is malformed.
pub fn all() -> Result<Vec<Host>> {
    let hosts: Hosts = toml::from_str(include_str!("../hosts.toml")).context("hosts.toml")?;
    Ok(hosts.host)
}

/// The cases to measure on each host.
#[must_use]
pub fn cases() -> Vec<String> {
    let names = cases::all().map(|case| case.name);
    let names = names.filter(|name| chart::FIRST.contains(name));
    names.map(Into::into).collect()
}

impl Host {
    /// Fails unless the kernel has chosen the mitigations of the host.
    ///
    /// # Errors
    ///
    /// If it has not.
    pub fn check(&self, place: &Place) -> Result<()> {
        for (vulnerability, expected) in &self.shows {
            let state = place.mitigations.get(vulnerability);
            let state = state.map_or("nothing", |it| it);
            ensure!(
                state.contains(&**expected),
                "the kernel does not take the paths of {}: {vulnerability} is {state:?}, not {expected:?}",
                self.name
            );
        }
        Ok(())
    }
}

/// A section for each case: the figure of ioctl on each host, and the shares of the forms.
/// The first section says what was forced.
#[must_use]
pub fn sections(record: &Record) -> Vec<Section> {
    let rows = chart::FIRST.iter().filter_map(|name| shares(record, name));
    forced(&record.hosts).into_iter().chain(rows).collect()
}

/// A case on each host.
fn shares(record: &Record, name: &str) -> Option<Section> {
    let hosts = record.hosts.iter();
    let rows: Vec<_> = hosts
        .filter_map(|run| Some((run, run.row(name)?)))
        .collect();
    let has = |form: &&str| rows.iter().any(|(_, row)| row.figures.contains_key(*form));
    let forms: Vec<_> = table::forms().filter(has).collect();
    if forms.is_empty() {
        return None;
    }
    let mut grid = Grid::new([&["host", "ioctl"], &forms[..]].concat());
    for (run, row) in rows {
        let ioctl = [table::value(row, "ioctl")].into_iter();
        let shares = forms.iter().map(|form| ratio(row, form, "ioctl"));
        grid.push([host(run)], ioctl.chain(shares));
    }
    Section::new(
        format!("hosts-{name}"),
        format!("{name} with the mitigations of hosts"),
        table::summary_text(record.unit),
        grid,
    )
}

fn host(run: &Run) -> &str {
    let build = run.measured_on.build.as_ref();
    build.and_then(|it| it.host.as_deref()).unwrap_or_default()
}

fn forced(hosts: &[Run]) -> Option<Section> {
    let known = all().unwrap_or_default();
    let mut grid = Grid::new(["host", "emulator", "what is forced"]);
    for run in hosts {
        let name = host(run);
        if let Some(host) = known.iter().find(|it| it.name == name) {
            grid.push([&host.name, &host.accel, &host.forces], []);
        }
    }
    Section::new(
        "hosts",
        "Mitigations as hosts have them",
        "The emulated processors have few vulnerabilities, and few of the features that \
         mitigations need. Here, the kernel is forced to take the paths that it takes on \
         hosts, by the parameters in benches/hosts.toml. An instruction that costs \
         thousands of cycles there counts as one.",
        grid,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_file_is_well_formed() {
        let hosts = all().unwrap();
        let names: BTreeSet<_> = hosts.iter().map(|host| &host.name).collect();
        assert_eq!(names.len(), hosts.len());
        for host in &hosts {
            assert!(
                !host.shows.is_empty() && !host.cmdline.is_empty(),
                "{}",
                host.name
            );
        }
        assert_eq!(cases().len(), chart::FIRST.len());
    }

    #[test]
    fn another_mitigation_is_an_error() {
        let host = all().unwrap().into_iter().find(|it| it.name == "AMD Zen 3");
        let kept = include_str!("../../docs/results.json");
        let record: Record = serde_json::from_str(kept).unwrap();
        let error = host
            .unwrap()
            .check(&record.runs[0].measured_on)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("does not take the paths of AMD Zen 3"),
            "{error}"
        );
    }
}
