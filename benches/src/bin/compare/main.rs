//! `cargo compare`: builds the patched kernel, boots it, measures every call by
//! every interface, and prints how they compare.

mod cli;
mod progress;
mod results;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, fs, io};

use anyhow::{Context, Result};
use benches::place::Build;
use benches::{measure, table};
use clap::Parser;
use kernel_patch::{Kernel, Machine};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::cli::{Cli, Inside, Options, Switch};
use crate::progress::{Log, Spinner};
use crate::results::{Output, RECORD, Results};

fn main() -> ExitCode {
    kernel_patch::init_if_first();
    let cli = Cli::parse();
    let done = match cli.inside {
        Some(Inside::Measure) => inside(&cli.options),
        None => outside(&cli.options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            let code = error
                .downcast_ref::<kernel_patch::Error>()
                .map_or(1, kernel_patch::Error::exit_code);
            code.into()
        }
    }
}

/// Inside the machine: measures, and leaves the record and criterion's files.
/// The host reads the names of the cases from stderr.
fn inside(options: &Options) -> Result<()> {
    // Natively there is a parent, who may be killed.
    set_pdeathsig(Signal::SIGKILL)?;
    let out = env::var_os(kernel_patch::OUT_VARIABLE).context("this is for inside")?;
    let out = Path::new(&out);
    let record = measure(&options.selection(out)?, |case| eprintln!("{case}"))?;
    fs::write(out.join(RECORD), serde_json::to_vec(&record)?).context("the record")
}

fn outside(options: &Options) -> Result<()> {
    kernel_patch::interrupt::install()?;
    // What is wrong with the options is said before the work of minutes.
    options.selection(Path::new(""))?;
    let to_stdout = options.json.as_deref() == Some(Path::new("-"));
    let output = match options.json.as_deref() {
        Some(path) if !to_stdout => Some(Output::begin(path)?),
        _ => None,
    };

    let results = Results::begin(&options.kind())?;
    let build = if options.native {
        natively(options, results.scratch())?;
        None
    } else {
        Some(in_machine(options, results.scratch())?)
    };
    let (mut record, report) = results.finish(!options.no_criterion)?;
    record.measured_on.build = build;
    record.time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();

    let json = serde_json::to_string_pretty(&record)? + "\n";
    if to_stdout {
        print!("{json}");
        return Ok(());
    }
    println!("{}\n{}", table::tables(&record), table::legend(&record));
    if let Some(report) = report {
        println!("plots        {}", report.display());
    }
    output.map_or(Ok(()), |output| output.finish(&json))
}

/// Measures here, in a process of its own, since criterion talks on stdout.
fn natively(options: &Options, out: &Path) -> Result<()> {
    let progress = Spinner::start();
    let mut child = Command::new(env::current_exe()?)
        .args(options.inside())
        .env(kernel_patch::OUT_VARIABLE, out)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start this program again")?;
    let mut log = Log::new(&progress);
    io::copy(&mut child.stderr.take().expect("it is a pipe"), &mut log)?;
    log.judge("measuring failed", child.wait()?.success())
}

fn in_machine(options: &Options, out: &Path) -> Result<Build> {
    let mut builder = Kernel::builder();
    if let Some(source) = &options.source {
        builder = builder.source(source);
    }
    let kernel = builder.build()?;

    let progress = Spinner::start();
    progress.say("booting");
    let mut log = Log::new(&progress);
    let exit = Machine::new()
        .accel(options.accel)
        .mitigations(options.mitigations == Switch::On)
        .timeout(Duration::from_secs(options.timeout))
        .out(out)
        .run(
            &kernel,
            &env::current_exe()?,
            &options.inside(),
            &mut io::sink(),
            &mut log,
        )?;
    log.judge("measuring failed in the machine", exit.success())?;
    Ok(Build {
        series: kernel.series_id().into(),
        config: kernel.config_id().into(),
        accelerator: options.accel.describe()?,
        mitigations: options.mitigations.to_string(),
    })
}
