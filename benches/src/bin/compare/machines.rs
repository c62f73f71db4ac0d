//! The machines in which the comparison runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use benches::place::Build;
use benches::record::Record;
use benches::{CRITERION, Selection, profiles};
use kernel_patch::{Accel, Kernel, Machine, Progress, call_here, cdylib, lanes};
use profile::{Recording, Symbols};
use tempfile::TempDir;

use crate::cli::{Options, Switch};

/// The file with the kernel's symbols, which the machine leaves beside the record.
pub const KALLSYMS: &str = "kallsyms";
/// The file with the addresses of its modules.
pub const MODULES: &str = "modules";

/// One boot, and the measurements in it.
struct Boot {
    title: &'static str,
    accel: Accel,
    mitigations: Switch,
    selection: Selection,
}

impl Boot {
    /// The boots that `options` ask for. The first one has the usual condition. Unless a
    /// machine was chosen, the last one has a processor of the other vendor.
    fn plan(options: &Options) -> Vec<Self> {
        let accel = options.accel.unwrap_or_default();
        let boot = |title, mitigations, exact, criterion| Self {
            title,
            accel,
            mitigations,
            selection: Selection {
                filter: options.filter.clone(),
                exact,
                criterion,
                quick: false,
                record: options.profile && exact,
            },
        };
        let criterion = options.criterion();
        let mut plan = Vec::new();
        if options.profile {
            plan.push(boot("recording", Switch::On, true, false));
            let without = "recording without mitigations";
            plan.push(boot(without, Switch::Off, true, false));
            // Criterion has a boot without the recorder, which is slow.
            if criterion {
                plan.push(boot("measuring by criterion", Switch::On, false, true));
            }
        } else {
            plan.push(boot("measuring", options.mitigations, true, criterion));
        }
        if options.accel.is_none() {
            let mut other = boot("measuring on Intel", options.mitigations, true, false);
            other.accel = Accel::Bochs;
            // Only QEMU has the recorder.
            other.selection.record = false;
            plan.push(other);
        }
        plan
    }
}

/// Measures in machines, two at a time, and leaves criterion's files in `out`. The figures
/// of the vendor that is measured last are missing if its machine fails.
pub fn measure(options: &Options, out: &Path) -> Result<Record> {
    let kernel = kernel(options)?;
    let recorder = options.profile.then(recorder).transpose()?;

    let scratch = scratch()?;
    let plan = Boot::plan(options);
    let is_other = |boot: &Boot| boot.accel != plan[0].accel;
    let failed = AtomicBool::new(false);
    let done = lanes(2, &plan, |nth, boot| {
        // One error is enough.
        if failed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let out = scratch.path().join(nth.to_string());
        let run = run(options, &kernel, boot, recorder.as_deref(), &out);
        if is_other(boot) {
            let why = |error: &anyhow::Error| eprintln!("compare: {}: {error:#}", boot.title);
            return Ok(run.inspect_err(why).ok());
        }
        failed.fetch_or(run.is_err(), Ordering::Relaxed);
        run.map(Some)
    })?;
    let done: Vec<_> = done.into_iter().collect::<Result<_>>()?;

    let mut whole: Option<Record> = None;
    for (nth, (boot, record)) in plan.iter().zip(done).enumerate() {
        let Some(mut record) = record else { continue };
        if boot.selection.criterion {
            let from = scratch.path().join(nth.to_string()).join(CRITERION);
            fs::rename(&from, out.join(CRITERION)).context("criterion's files")?;
        }
        match &mut whole {
            None => whole = Some(record),
            Some(whole) if is_other(boot) => whole.others.append(&mut record.runs),
            Some(whole) if boot.selection.exact => whole.runs.append(&mut record.runs),
            Some(_) => {}
        }
    }
    let mut whole = whole.context("nothing was measured")?;
    if options.criterion() {
        whole.runs[0].read_estimates(&out.join(CRITERION))?;
    }
    Ok(whole)
}

fn kernel(options: &Options) -> Result<Kernel, kernel_patch::BuildError> {
    if let Some(tree) = &options.tree {
        return Kernel::of_checkout(tree);
    }
    let mut builder = Kernel::builder().base(options.base);
    if let Some(source) = &options.source {
        builder = builder.source(source);
    }
    builder.build()
}

/// Builds QEMU's plugin.
fn recorder() -> Result<PathBuf> {
    let recorder = kernel_patch::workspace_dir()?.join("benches/recorder");
    Ok(cdylib(&recorder, &[])?.join("librecorder.so"))
}

fn run(
    options: &Options,
    kernel: &Kernel,
    boot: &Boot,
    recorder: Option<&Path>,
    out: &Path,
) -> Result<Record> {
    let progress = Progress::start("compare", boot.title);
    fs::create_dir(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut machine = Machine::new()
        .accel(boot.accel)
        .mitigations(boot.mitigations == Switch::On)
        .timeout(Duration::from_secs(options.timeout))
        .out(out);
    let recording = out.join("recording.json");
    if boot.selection.record {
        let recorder = recorder.context("the recorder was not built")?;
        machine = machine.plugin(recorder, &recording);
    }
    let mut show = |case: &str| progress.at(case);
    let mut record: Record = machine.call(kernel, boot.title, &boot.selection, &mut show)?;
    for run in &mut record.runs {
        run.measured_on.build = Some(Build {
            series: kernel.series_id().into(),
            config: kernel.config_id().into(),
            accelerator: boot.accel.describe()?,
            mitigations: boot.mitigations.to_string(),
        });
    }
    if boot.selection.record {
        progress.at("folding");
        let text = |name| fs::read_to_string(out.join(name)).context(name);
        let symbols = Symbols::parse(&text(KALLSYMS)?, &text(MODULES)?)?;
        let recorded = fs::read(&recording).context("the recording")?;
        let recorded: Recording = serde_json::from_slice(&recorded)?;
        profiles::attach(&mut record.runs, &recorded, &symbols)?;
    }
    Ok(record)
}

/// Measures on this machine's own KVM, for the report of measurements in machines. Prints
/// the reason if that is not possible.
pub fn beside(options: &Options) -> Option<Record> {
    let record = scratch().and_then(|scratch| natively(options, scratch.path(), true));
    let why =
        |error: &anyhow::Error| eprintln!("compare: no times of this machine's own KVM: {error:#}");
    record.inspect_err(why).ok()
}

/// Makes a directory on the disk of the target directory, because recordings are large.
fn scratch() -> Result<TempDir> {
    let target = kernel_patch::target_dir()?;
    tempfile::tempdir_in(&target).with_context(|| format!("a directory in {}", target.display()))
}

/// The title of a measurement without a machine.
const NATIVELY: &str = "measuring on this machine";

/// Measures here, in a process of its own, because criterion prints to stdout. If it is
/// `quick`, it is less precise.
pub fn natively(options: &Options, out: &Path, quick: bool) -> Result<Record> {
    let progress = Progress::start("compare", NATIVELY);
    let selection = Selection {
        filter: options.filter.clone(),
        exact: true,
        criterion: true,
        quick,
        record: false,
    };
    let timeout = Duration::from_secs(options.timeout);
    let mut show = |case: &str| progress.at(case);
    let mut record: Record = call_here(NATIVELY, &selection, out, timeout, &mut show)?;
    record.runs[0].read_estimates(&out.join(CRITERION))?;
    Ok(record)
}
