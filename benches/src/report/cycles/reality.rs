//! The model beside the times of a processor.

use profile::Event;

use super::{Cycles, cycles};
use crate::cases;
use crate::cycles::{Interval, Model};
use crate::grid::{Grid, Section};
use crate::record::{Native, Run};
use crate::seccomp::Seccomp;

/// A call that was modelled and measured.
struct Compared<'a> {
    name: &'a str,
    loads_vcpu: bool,
    model: Interval,
    measured: f64,
    /// Half the width of the interval that holds the mean with a probability of 95 %.
    spread: f64,
}

impl Compared<'_> {
    /// How far the measured value lies outside, in per cent of the nearer end.
    fn deviation(&self) -> f64 {
        let nearer = self.measured.clamp(self.model.low, self.model.high);
        100.0 * (self.measured / nearer - 1.0)
    }
}

impl<'a> Cycles<'a> {
    /// The model beside the times of the machine that ran the emulators.
    pub(super) fn reality(&self) -> Option<Section> {
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
            "Calls by ioctl that need no guest and no other thread, on {}, Linux {}, at {:.2} GHz. \
             {} of {} measured values lie in the interval of the model for {}, at {fastest:.1} to \
             {slowest:.1} times its low end. A deviation is from the nearer end. A mean lies with \
             a probability of 95 % in the interval after ±. The streams are those of the patched \
             kernel with mitigations {}, and the times are of this other kernel.",
            here.cpu,
            here.release(),
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
            let numbers = [
                cycles(it.model),
                format!("{:.0} ± {:.0}", it.measured, it.spread),
                deviation,
            ];
            grid.push([it.name], numbers.map(Some));
        }
        Section::new("cycles-reality", "The model and a processor", text, grid)
    }

    /// The calls by ioctl that need no guest, and were both modelled and measured.
    fn compared(&self, run: &'a Run, native: &Native) -> Vec<Compared<'a>> {
        let guest = Event::from(String::from("vmrun"));
        let rows = run.rows.iter().filter_map(|row| {
            let model = Model::new(row, "ioctl", &self.costs, run.processor.as_deref()?)?;
            let profile = row.profile("ioctl")?;
            let time = native.run.row(&row.name)?.figures.get("ioctl")?.criterion?;
            let is_alone = !model.events().any(|it| *it == guest)
                && !row.name.starts_with("kvm_run")
                && !cases::needs_another_thread(&row.name);
            is_alone.then(|| Compared {
                name: &row.name,
                loads_vcpu: profile.loads_vcpu,
                model: model.cycles(),
                measured: time.mean * native.gigahertz,
                spread: time.spread() * native.gigahertz,
            })
        });
        rows.collect()
    }
}
