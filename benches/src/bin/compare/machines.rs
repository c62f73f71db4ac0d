//! The machines that the comparison runs in, and what each of them is for.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use benches::place::Build;
use benches::profiles;
use benches::record::Record;
use kernel_patch::{Kernel, Machine, Progress, call_here, cdylib, lanes};
use profile::{Section, Symbols};
use tempfile::TempDir;

use crate::cli::{Measure, Options, Switch};
use crate::files::CRITERION;

/// What the machine leaves beside the record, for the symbols.
pub const KALLSYMS: &str = "kallsyms";
/// The same, for where its modules are.
pub const MODULES: &str = "modules";

/// One boot, and what is measured in it.
struct Boot {
    what: &'static str,
    mitigations: Switch,
    measure: Measure,
}

impl Boot {
    /// All that `options` ask for: first what the figures come from.
    fn plan(options: &Options) -> Vec<Self> {
        let measure = |exact, criterion, record| Measure {
            filter: options.filter.clone(),
            exact,
            criterion,
            record,
            quick: false,
        };
        let criterion = !options.no_criterion;
        if !options.profile {
            return vec![Self {
                what: "measuring",
                mitigations: options.mitigations,
                measure: measure(true, criterion, false),
            }];
        }
        let recorded = |what, mitigations| Self {
            what,
            mitigations,
            measure: measure(true, false, true),
        };
        let mut plan = vec![
            recorded("recording", Switch::On),
            recorded("recording without mitigations", Switch::Off),
        ];
        // What is recorded is slow, and criterion has no use for it.
        if criterion {
            plan.push(Self {
                what: "measuring by criterion",
                mitigations: Switch::On,
                measure: measure(false, true, false),
            });
        }
        plan
    }
}

/// Measures in machines, two at a time, and leaves criterion's files in `out`.
pub fn measure(options: &Options, out: &Path) -> Result<Record> {
    let kernel = kernel(options)?;
    let recorder = options.profile.then(recorder).transpose()?;

    let scratch = scratch()?;
    let plan = Boot::plan(options);
    let failed = AtomicBool::new(false);
    let done = lanes(2, &plan, |nth, boot| {
        // One error is enough.
        if failed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let out = scratch.path().join(nth.to_string());
        let run = run(options, &kernel, boot, recorder.as_deref(), &out);
        failed.fetch_or(run.is_err(), Ordering::Relaxed);
        run.map(Some)
    })?;
    let done: Vec<_> = done.into_iter().collect::<Result<_>>()?;

    let mut whole: Option<Record> = None;
    for (nth, mut record) in done.into_iter().flatten().enumerate() {
        let measure = &plan[nth].measure;
        if measure.criterion {
            let from = scratch.path().join(nth.to_string()).join(CRITERION);
            fs::rename(&from, out.join(CRITERION)).context("criterion's files")?;
        }
        match &mut whole {
            None => whole = Some(record),
            Some(whole) if measure.exact => whole.runs.append(&mut record.runs),
            Some(_) => {}
        }
    }
    let mut whole = whole.context("nothing was measured")?;
    if !options.no_criterion {
        whole.runs[0].read_estimates(&out.join(CRITERION))?;
    }
    Ok(whole)
}

fn kernel(options: &Options) -> Result<Kernel, kernel_patch::BuildError> {
    if let Some(tree) = &options.tree {
        return Kernel::of_checkout(tree);
    }
    let mut builder = Kernel::builder();
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
    let progress = Progress::start("compare", boot.what);
    fs::create_dir(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut machine = Machine::new()
        .accel(options.accel)
        .mitigations(boot.mitigations == Switch::On)
        .timeout(Duration::from_secs(options.timeout))
        .out(out);
    let sections = out.join("sections.json");
    if boot.measure.record {
        let recorder = recorder.context("it was built")?;
        machine = machine.plugin(recorder, &sections);
    }
    let mut show = |case: &str| progress.at(case);
    let mut record: Record = machine.call(kernel, boot.what, &boot.measure, &mut show)?;
    for run in &mut record.runs {
        run.measured_on.build = Some(Build {
            series: kernel.series_id().into(),
            config: kernel.config_id().into(),
            accelerator: options.accel.describe()?,
            mitigations: boot.mitigations.to_string(),
        });
    }
    if boot.measure.record {
        progress.at("folding");
        let text = |name| fs::read_to_string(out.join(name)).context(name);
        let symbols = Symbols::parse(&text(KALLSYMS)?, &text(MODULES)?)?;
        let recorded = fs::read(&sections).context("what the recorder has seen")?;
        let recorded: Vec<Section> = serde_json::from_slice(&recorded)?;
        profiles::attach(&mut record.runs, &recorded, &symbols)?;
    }
    Ok(record)
}

/// Measures on this machine's own KVM, for the report of what was measured in
/// machines; says why, if that does not serve.
pub fn beside(options: &Options) -> Option<Record> {
    let record = scratch().and_then(|scratch| natively(options, scratch.path(), true));
    let why =
        |error: &anyhow::Error| eprintln!("compare: no times of this machine's own: {error:#}");
    record.inspect_err(why).ok()
}

/// A directory on the disk where all is built: what is recorded is large.
fn scratch() -> Result<TempDir> {
    let target = kernel_patch::target_dir()?;
    tempfile::tempdir_in(&target).with_context(|| format!("a directory in {}", target.display()))
}

/// What is done without a machine.
const NATIVELY: &str = "measuring on this machine";

/// Measures here, in a process of its own, since criterion talks on stdout; if
/// it is to be `quick`, less well.
pub fn natively(options: &Options, out: &Path, quick: bool) -> Result<Record> {
    let progress = Progress::start("compare", NATIVELY);
    let measure = Measure {
        filter: options.filter.clone(),
        exact: true,
        criterion: true,
        record: false,
        quick,
    };
    let timeout = Duration::from_secs(options.timeout);
    let mut show = |case: &str| progress.at(case);
    let mut record: Record = call_here(NATIVELY, &measure, out, timeout, &mut show)?;
    record.runs[0].read_estimates(&out.join(CRITERION))?;
    Ok(record)
}
