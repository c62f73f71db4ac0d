//! Estimates by criterion: a mean with its spread, plots, and a report.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, PlottingBackend, Throughput};
use serde::{Deserialize, Serialize};

use crate::counter::{self, Unit};
use crate::interfaces::Named;

/// Criterion's estimate of a mean, in the unit of the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The interval that holds the mean with a probability of 95 %.
    pub interval: (f64, f64),
    /// The standard deviation.
    pub std_dev: f64,
}

impl Estimate {
    /// Half the width of the interval.
    #[must_use]
    pub fn spread(&self) -> f64 {
        let (low, high) = self.interval;
        (high - low) / 2.0
    }
}

/// Criterion with its unit.
pub enum Criteria {
    /// In instructions.
    Instructions(Criterion<Instructions>),
    /// In nanoseconds.
    Nanoseconds(Criterion),
}

impl Criteria {
    /// Configures criterion for `unit` and by the command line.
    #[must_use]
    pub fn from_args(unit: Unit) -> Self {
        match unit {
            Unit::Instructions => Self::Instructions(instructions().configure_from_args()),
            Unit::Nanoseconds => Self::Nanoseconds(nanoseconds().configure_from_args()),
        }
    }

    /// Configures criterion for `unit`, with its files below `home`. If it is `quick`, it
    /// takes few samples of times and draws no plots.
    #[must_use]
    pub fn below(home: &Path, unit: Unit, quick: bool) -> Self {
        match unit {
            Unit::Instructions => Self::Instructions(instructions().output_directory(home)),
            Unit::Nanoseconds if quick => Self::Nanoseconds(quickly().output_directory(home)),
            Unit::Nanoseconds => Self::Nanoseconds(nanoseconds().output_directory(home)),
        }
    }

    /// Measures a case on each interface that has a part in it, with the ids
    /// `case/interface`. The report compares the interfaces.
    ///
    /// Each workload is dropped before the next is taken, because a thread has one bound
    /// vCPU and a process one bound VM.
    pub fn measure<'w>(&mut self, case: &str, workloads: impl Iterator<Item = Named<'w>>) {
        match self {
            Self::Instructions(criterion) => measure(criterion, &Instructions, case, workloads),
            Self::Nanoseconds(criterion) => measure(criterion, &WallTime, case, workloads),
        }
    }

    /// Writes the index of the report.
    pub fn finish(&self) {
        match self {
            Self::Instructions(criterion) => criterion.final_summary(),
            Self::Nanoseconds(criterion) => criterion.final_summary(),
        }
    }
}

/// Few samples suffice, because they are alike. The emulated processor is slow, and draws
/// the plots as well.
fn instructions() -> Criterion<Instructions> {
    Criterion::default()
        .plotting_backend(PlottingBackend::Plotters)
        .with_measurement(Instructions)
        .sample_size(10)
        .nresamples(200)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_millis(2))
}

fn nanoseconds() -> Criterion {
    Criterion::default()
        .plotting_backend(PlottingBackend::Plotters)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
}

/// A quarter of a second for each bench, which is enough to compare times.
fn quickly() -> Criterion {
    Criterion::default()
        .without_plots()
        .sample_size(20)
        .nresamples(1000)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200))
}

fn measure<'w, M: Measurement + 'static>(
    criterion: &mut Criterion<M>,
    clock: &M,
    case: &str,
    workloads: impl Iterator<Item = Named<'w>>,
) {
    let mut group = criterion.benchmark_group(case);
    for (interface, mut workload) in workloads {
        group.bench_function(interface, |bencher| {
            if workload.needs_reset() {
                bencher.iter_custom(|calls| {
                    (0..calls).fold(clock.zero(), |sum, _| {
                        workload.before();
                        let start = clock.start();
                        workload.call();
                        let took = clock.end(start);
                        workload.after();
                        clock.add(&sum, &took)
                    })
                });
            } else {
                bencher.iter(|| workload.call());
            }
        });
    }
    group.finish();
}

/// Reads the estimate of one id that criterion has written below `home`.
///
/// # Errors
///
/// If the file is missing, or has other contents.
pub fn read(home: &Path, case: &str, interface: &str) -> Result<Estimate> {
    let file = home.join(case).join(interface).join("new/estimates.json");
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let estimates: serde_json::Value = serde_json::from_slice(&text)?;
    let number = |place: &str| {
        let number = estimates.pointer(place).and_then(serde_json::Value::as_f64);
        number.with_context(|| format!("{} has no {place}", file.display()))
    };
    Ok(Estimate {
        mean: number("/mean/point_estimate")?,
        interval: (
            number("/mean/confidence_interval/lower_bound")?,
            number("/mean/confidence_interval/upper_bound")?,
        ),
        std_dev: number("/std_dev/point_estimate")?,
    })
}

/// Instructions, on a machine whose time stamp counter counts them.
pub struct Instructions;

impl Measurement for Instructions {
    type Intermediate = u64;
    type Value = u64;

    fn start(&self) -> u64 {
        counter::now()
    }

    fn end(&self, start: u64) -> u64 {
        counter::now() - start
    }

    fn add(&self, a: &u64, b: &u64) -> u64 {
        a + b
    }

    fn zero(&self) -> u64 {
        0
    }

    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for Instructions {
    fn scale_values(&self, _typical: f64, _values: &mut [f64]) -> &'static str {
        "instructions"
    }

    fn scale_throughputs(
        &self,
        _typical: f64,
        _throughput: &Throughput,
        _values: &mut [f64],
    ) -> &'static str {
        "instructions"
    }

    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        "instructions"
    }
}
