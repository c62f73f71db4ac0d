//! The machines in which the comparison runs.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result};
use benches::counter;
use benches::cycles::Costs;
use benches::hosts::{self, Host};
use benches::place::Build;
use benches::record::{Native, Record};
use benches::{CRITERION, Selection, cases, profiles};
use clap::ValueEnum;
use kernel_patch::{Accel, Base, Kernel, Machine, Progress, call_here, cdylib, lanes};
use profile::{Recording, Symbols};
use tempfile::TempDir;

use crate::cli::{Options, Switch};

/// The file with the kernel's symbols, which the machine leaves beside the record.
pub const KALLSYMS: &str = "kallsyms";
/// The file with the addresses of its modules.
pub const MODULES: &str = "modules";

/// One boot, and the measurements in it.
struct Boot {
    title: String,
    accel: Accel,
    mitigations: Switch,
    /// The host whose mitigations are forced, if any.
    host: Option<Host>,
    /// The number of processors.
    processors: u32,
    selection: Selection,
    goal: Goal,
}

/// The part of the record that a boot gives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// Runs under a condition.
    Runs,
    /// Criterion's estimates for the first run.
    Estimates,
    /// Runs on a processor of the other vendor.
    Others,
    /// Runs with the mitigations of a host.
    Hosts,
    /// Rows of the first run that need more processors than its machine has.
    Rows,
}

impl Goal {
    /// Whether there is a record without this part.
    fn is_dispensable(self) -> bool {
        matches!(
            self,
            Self::Estimates | Self::Others | Self::Hosts | Self::Rows
        )
    }
}

impl Boot {
    /// The boots that `options` ask for. The first one has the usual condition.
    fn plan(options: &Options) -> Result<Vec<Self>> {
        let boot = |title: &str, goal| Self {
            title: title.into(),
            accel: options.accel.unwrap_or_default(),
            mitigations: options.mitigations,
            host: None,
            processors: 1,
            selection: Selection {
                filter: options.filter.clone(),
                exact: goal != Goal::Estimates,
                ..Selection::default()
            },
            goal,
        };
        let mut plan = Vec::new();
        if options.profile {
            for (title, mitigations) in [
                ("recording", Switch::On),
                ("recording without mitigations", Switch::Off),
            ] {
                let mut boot = boot(title, Goal::Runs);
                boot.mitigations = mitigations;
                boot.selection.record = true;
                boot.selection.confined = true;
                plan.push(boot);
            }
            // Criterion has a boot without the recorder, which is slow.
            if options.criterion() {
                let mut boot = boot("measuring by criterion", Goal::Estimates);
                boot.selection.criterion = true;
                plan.push(boot);
            }
        } else {
            let mut boot = boot("measuring", Goal::Runs);
            boot.selection.criterion = options.criterion();
            plan.push(boot);
        }
        // Bochs has not been tried with more processors.
        if options.accel != Some(Accel::Bochs) {
            let most = cases::all().map(|case| case.processors).max();
            let most = most.unwrap_or_default();
            let mut boot = boot(&format!("measuring on {most} processors"), Goal::Rows);
            boot.processors = most;
            boot.selection.only = Some(cases::on_more_processors());
            boot.selection.record = options.profile;
            boot.selection.criterion = options.criterion();
            plan.extend(boot.is_needed().then_some(boot));
        }
        // Unless one machine was chosen.
        if options.accel.is_none() {
            let mut boot = boot("measuring on Intel", Goal::Others);
            boot.accel = Accel::Bochs;
            plan.push(boot);
        }
        // Linux 6.12 has no parameter to set flags of the processor.
        if options.profile && options.base == Base::default() {
            for host in hosts::all()? {
                let mut boot = boot(&format!("measuring as on {}", host.name), Goal::Hosts);
                boot.accel = Accel::from_str(&host.accel, false).map_err(anyhow::Error::msg)?;
                boot.selection.only = Some(hosts::cases());
                // Only QEMU has the recorder.
                boot.selection.record = boot.accel == Accel::Tcg;
                boot.host = Some(host);
                plan.extend(boot.is_needed().then_some(boot));
            }
        }
        Ok(plan)
    }

    /// Whether it measures anything besides null_syscall.
    fn is_needed(&self) -> bool {
        self.selection.cases().len() > 1
    }

    /// The machine of the boot.
    fn machine(&self, options: &Options) -> Machine {
        let mut machine = Machine::new()
            .accel(self.accel)
            .smp(self.processors)
            .mitigations(self.mitigations == Switch::On)
            .timeout(Duration::from_secs(options.timeout));
        if self.processors > 1 && self.accel == Accel::Tcg {
            // The emulated processors share one counter. Without this, the kernel expects
            // that two sockets do not, and KVM sets the guest's TSC at each load of a vCPU.
            machine = machine.cmdline("tsc=reliable");
        }
        if let Some(host) = &self.host {
            if let Some(model) = &host.cpu {
                machine = machine.cpu(model);
            }
            for parameter in &host.cmdline {
                machine = machine.cmdline(parameter);
            }
        }
        machine
    }
}

/// Measures in machines, two at a time, and leaves criterion's files in `out`. If a machine
/// of another vendor, of a host, with more processors or for criterion alone fails, its
/// figures are missing, and the others are there: also returns the number of these machines.
pub fn measure(options: &Options, out: &Path) -> Result<(Record, usize)> {
    // First, because a reader may have edited the file.
    let costs = Costs::read()?;
    let kernel = kernel(options)?;
    let recorder = options.profile.then(recorder).transpose()?;

    let scratch = scratch()?;
    let plan = Boot::plan(options)?;
    let failed = AtomicBool::new(false);
    let done = lanes(2, &plan, |nth, boot| {
        // One error is enough.
        if failed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let out = scratch.path().join(nth.to_string());
        let run = run(options, &kernel, &costs, boot, recorder.as_deref(), &out);
        if boot.goal.is_dispensable() {
            let why = |error: &anyhow::Error| eprintln!("compare: {}: {error:#}", boot.title);
            return Ok(run.inspect_err(why).ok());
        }
        failed.fetch_or(run.is_err(), Ordering::Relaxed);
        run.map(Some)
    })?;
    let done: Vec<_> = done.into_iter().collect::<Result<_>>()?;

    let missing = done.iter().filter(|record| record.is_none()).count();
    let estimated = plan.iter().zip(&done).all(|(boot, record)| {
        // The failure has been shown.
        boot.goal != Goal::Estimates || record.is_some()
    });
    let mut whole: Option<Record> = None;
    for (nth, (boot, record)) in plan.iter().zip(done).enumerate() {
        let Some(mut record) = record else { continue };
        if boot.selection.criterion {
            let from = scratch.path().join(nth.to_string()).join(CRITERION);
            // Each estimate that is missing then has its own message.
            if let Err(error) = move_missing(&from, &out.join(CRITERION)) {
                eprintln!("compare: {}: criterion's files: {error}", boot.title);
            }
        }
        let Some(whole) = &mut whole else {
            whole = Some(record);
            continue;
        };
        match boot.goal {
            Goal::Runs => whole.runs.append(&mut record.runs),
            Goal::Others => whole.others.append(&mut record.runs),
            Goal::Hosts => whole.hosts.append(&mut record.runs),
            Goal::Estimates => {}
            Goal::Rows => {
                let rows = record.runs.swap_remove(0).rows.into_iter();
                let rows = rows.filter(|row| row.processors.is_some());
                whole.runs[0].rows.extend(rows);
            }
        }
    }
    let mut whole = whole.context("nothing was measured")?;
    if options.criterion() && estimated {
        read_estimates(&mut whole, out);
    }
    Ok((whole, missing))
}

/// Adds criterion's estimates, and shows which are missing.
fn read_estimates(record: &mut Record, out: &Path) {
    for why in record.runs[0].read_estimates(&out.join(CRITERION)) {
        eprintln!("compare: {why}");
    }
}

/// Moves the files of a directory that the other one lacks.
fn move_missing(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if !to.exists() {
            fs::rename(entry.path(), to)?;
        }
    }
    Ok(())
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
    costs: &Costs,
    boot: &Boot,
    recorder: Option<&Path>,
    out: &Path,
) -> Result<Record> {
    let progress = Progress::start("compare", boot.title.clone());
    fs::create_dir(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut machine = boot.machine(options).out(out);
    let recording = out.join("recording.json");
    if boot.selection.record {
        let recorder = recorder.context("the recorder was not built")?;
        machine = machine.plugin(recorder, &recording);
    }
    let accelerator = machine.describe()?;
    let mut show = |case: &str| progress.at(case);
    let mut record: Record = machine.call(kernel, &boot.title, &boot.selection, &mut show)?;
    for run in &mut record.runs {
        if let Some(host) = &boot.host {
            host.check(&run.measured_on)?;
        }
        run.measured_on.build = Some(Build {
            series: kernel.series_id.clone(),
            config: kernel.config_id.clone(),
            accelerator: accelerator.clone(),
            mitigations: match &boot.host {
                Some(host) => format!("as on {}", host.name),
                None => boot.mitigations.to_string(),
            },
            host: boot.host.as_ref().map(|host| host.name.clone()),
        });
    }
    if boot.selection.record {
        progress.at("folding");
        let text = |name| fs::read_to_string(out.join(name)).context(name);
        let symbols = Symbols::parse(&text(KALLSYMS)?, &text(MODULES)?)?;
        let recorded = fs::read(&recording).context("the recording")?;
        let recorded: Recording = serde_json::from_slice(&recorded)?;
        let processor = match &boot.host {
            Some(host) => costs.of_host(&host.name),
            None => costs.here(),
        };
        profiles::attach(&mut record.runs, &recorded, &symbols, processor, out)?;
    }
    Ok(record)
}

/// Measures on this machine's own KVM, to have times beside the measurements in machines.
/// Prints the reason if that is not possible.
pub fn beside(options: &Options) -> Option<Native> {
    let measured = scratch().and_then(|scratch| {
        let mut record = natively(options, scratch.path(), true)?;
        let gigahertz = counter::gigahertz();
        let run = record.runs.remove(0);
        Ok(Native { gigahertz, run })
    });
    let why =
        |error: &anyhow::Error| eprintln!("compare: no times of this machine's own KVM: {error:#}");
    measured.inspect_err(why).ok()
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
        ..Selection::default()
    };
    let timeout = Duration::from_secs(options.timeout);
    let mut show = |case: &str| progress.at(case);
    let mut record: Record = call_here(NATIVELY, &selection, out, timeout, &mut show)?;
    read_estimates(&mut record, out);
    Ok(record)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn plan(options: &[&str]) -> Vec<Boot> {
        let options = ["compare"].iter().chain(options);
        Boot::plan(&Options::parse_from(options)).unwrap()
    }

    /// The boots on more than one processor.
    fn on_more(options: &[&str]) -> Vec<Boot> {
        let mut plan = plan(options);
        plan.retain(|boot| boot.processors > 1);
        plan
    }

    #[test]
    fn one_boot_has_the_processors_that_cases_need() {
        for options in [
            &[][..],
            &["--accel", "tcg"],
            &["--mitigations", "off"],
            &["--profile"],
        ] {
            let [boot] = &on_more(options)[..] else {
                panic!("{options:?}");
            };
            assert_eq!(boot.accel, Accel::Tcg);
            assert!(boot.mitigations == plan(options)[0].mitigations);
            assert!(boot.host.is_none() && boot.goal.is_dispensable());
            for case in &boot.selection.cases()[1..] {
                assert!((2..=boot.processors).contains(&case.processors));
            }
        }
    }

    #[test]
    fn without_such_a_case_there_is_no_such_boot() {
        assert_eq!(on_more(&["--filter", "vcpu_changes_threads"]).len(), 1);
        assert_eq!(on_more(&["--filter", "kvm_get_regs"]).len(), 0);
        assert_eq!(on_more(&["--accel", "bochs"]).len(), 0);
    }

    #[test]
    fn files_of_the_first_boot_stay() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two, to] = ["one", "two", "to"].map(|name| dir.path().join(name));
        for (from, names) in [(one, ["report", "exit"]), (two, ["report", "change"])] {
            fs::create_dir(&from).unwrap();
            for name in names {
                fs::write(from.join(name), from.to_str().unwrap()).unwrap();
            }
            move_missing(&from, &to).unwrap();
        }
        let text = |name: &str| fs::read_to_string(to.join(name)).unwrap();
        assert!(text("report").ends_with("one") && text("exit").ends_with("one"));
        assert!(text("change").ends_with("two"));
    }
}
