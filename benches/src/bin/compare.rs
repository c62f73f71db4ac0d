//! `cargo compare`: builds the patched kernel, boots it, measures every call by
//! every interface, and prints how they compare.

use std::fmt;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use benches::place::Build;
use benches::record::Record;
use benches::{Selection, measure, table};
use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use kernel_patch::{Accel, Kernel, Machine};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// The name of the record among the files that a machine hands back.
const RECORD: &str = "record.json";
/// The directory of criterion's files among them.
const CRITERION: &str = "criterion";

/// Compares the interfaces of KVM: what each call and each exit costs.
///
/// Builds the patched Linux, boots it in QEMU, measures in it, and prints a
/// table. The first run takes about ten minutes, later ones about one. Figures
/// are instructions, not cycles; with --native or --accel kvm they are
/// nanoseconds of real hardware.
#[derive(Parser)]
#[command(name = "cargo compare", version)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    inside: Option<Inside>,
}

#[derive(Args)]
struct Options {
    /// Measure only cases with TEXT in their names (and the floor)
    #[arg(long, value_name = "TEXT", global = true)]
    filter: Option<String>,

    /// Leave out criterion, and so its report with the plots
    #[arg(long, global = true)]
    no_criterion: bool,

    /// Write what was found as JSON to FILE too ("-" for standard output,
    /// in place of the table)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Whether the kernel guards against the processor's flaws
    #[arg(long, value_enum, default_value_t = Switch::On)]
    mitigations: Switch,

    /// Measure on this machine and the kernel that it runs, not in QEMU
    #[arg(long, conflicts_with_all = ["mitigations", "accel", "source"])]
    native: bool,

    /// What runs the machine: tcg emulates and counts instructions, kvm needs
    /// hardware with nested virtualization and measures time
    #[arg(long, value_name = "tcg|kvm", default_value_t = Accel::Tcg)]
    accel: Accel,

    /// A tree or a tarball of Linux 6.12 to build from [default: Debian's]
    #[arg(long, value_name = "PATH")]
    source: Option<PathBuf>,

    /// How long the machine may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout: u64,
}

#[derive(Subcommand)]
enum Inside {
    /// Measure here and leave the record for the host.
    #[command(hide = true)]
    Measure,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

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

impl Options {
    /// What to measure, with criterion's files below `home`.
    fn selection(&self, home: &Path) -> Result<Selection> {
        let selection = Selection {
            filter: self.filter.clone(),
            criterion: (!self.no_criterion).then(|| home.join(CRITERION)),
        };
        if let Some(filter) = &self.filter {
            // The floor is always among them.
            ensure!(
                selection.cases().len() > 1,
                "no case has {filter:?} in its name"
            );
        }
        Ok(selection)
    }

    /// The name of the directory for what is found.
    fn place(&self) -> String {
        if self.native {
            "native".into()
        } else {
            format!("{}-mitigations-{}", self.accel, self.mitigations)
        }
    }

    /// This command's own words for the measuring inside.
    fn inside(&self) -> Vec<String> {
        let mut args = vec!["measure".to_owned()];
        if let Some(filter) = &self.filter {
            args.extend(["--filter".into(), filter.clone()]);
        }
        if self.no_criterion {
            args.push("--no-criterion".into());
        }
        args
    }
}

/// Inside the machine: measures, and leaves the record and criterion's files.
/// The host reads the names of the cases from stderr.
fn inside(options: &Options) -> Result<()> {
    // Natively there is a parent, who may be killed.
    set_pdeathsig(Signal::SIGKILL)?;
    let out = std::env::var_os(kernel_patch::OUT_VARIABLE).context("this is for inside")?;
    let out = Path::new(&out);
    let record = measure(&options.selection(out)?, |case| eprintln!("{case}"))?;
    fs::write(out.join(RECORD), serde_json::to_vec(&record)?).context("the record")
}

fn outside(options: &Options) -> Result<()> {
    kernel_patch::interrupt::install()?;
    // What is wrong with the options is said before the work of minutes.
    if let Some(file) = options
        .json
        .as_deref()
        .filter(|file| *file != Path::new("-"))
    {
        fs::File::options()
            .create(true)
            .append(true)
            .open(file)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let home = kernel_patch::target_dir()?
        .join("compare")
        .join(options.place());
    let selection = options.selection(&home)?;
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| format!("cannot empty {}", home.display()))?;
    }
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;

    let build = if options.native {
        natively(options, &home)?;
        None
    } else {
        Some(in_machine(options, &home)?)
    };
    let file = home.join(RECORD);
    let json = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut record: Record = serde_json::from_slice(&json)?;
    record.measured_on.build = build;
    record.time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    if !options.no_criterion {
        record.read_estimates(&home.join(CRITERION))?;
    }

    match options.json.as_deref() {
        Some(file) if file == Path::new("-") => print!("{}", to_json(&record)?),
        json => {
            if let Some(file) = json {
                fs::write(file, to_json(&record)?)
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
            println!("{}\n{}", table::tables(&record), table::legend(&record));
            if !options.no_criterion {
                let report = home.join(CRITERION).join("report/index.html");
                println!("plots        {}", report.display());
            }
        }
    }
    Ok(())
}

fn to_json(record: &Record) -> Result<String> {
    Ok(serde_json::to_string_pretty(record)? + "\n")
}

/// Measures here, in a process of its own, since criterion talks on stdout.
fn natively(options: &Options, home: &Path) -> Result<()> {
    let progress = Spinner::start();
    let mut child = Command::new(std::env::current_exe()?)
        .args(options.inside())
        .env(kernel_patch::OUT_VARIABLE, home)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start this program again")?;
    let mut log = Log::new(&progress);
    io::copy(&mut child.stderr.take().expect("it is a pipe"), &mut log)?;
    log.judge("measuring failed", child.wait()?.success())
}

fn in_machine(options: &Options, home: &Path) -> Result<Build> {
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
        .out(home)
        .run(
            &kernel,
            &std::env::current_exe()?,
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

/// What is being measured, on a terminal.
struct Spinner(ProgressBar);

impl Spinner {
    fn start() -> Self {
        let style = ProgressStyle::with_template("{spinner} measuring: {wide_msg} {elapsed}")
            .expect("the template is well-formed");
        let bar = ProgressBar::new_spinner().with_style(style);
        if io::stderr().is_terminal() {
            bar.enable_steady_tick(Duration::from_millis(100));
        } else {
            eprintln!("compare: measuring");
        }
        Self(bar)
    }

    fn say(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// What the machine says on stderr: its last line is what it measures.
struct Log<'a> {
    bytes: Vec<u8>,
    progress: &'a Spinner,
}

impl<'a> Log<'a> {
    fn new(progress: &'a Spinner) -> Self {
        Self {
            bytes: Vec::new(),
            progress,
        }
    }

    fn judge(&self, failure: &str, success: bool) -> Result<()> {
        let said = String::from_utf8_lossy(&self.bytes);
        ensure!(success, "{failure}; it said:\n{said}");
        Ok(())
    }
}

impl Write for Log<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        if let Some(line) = String::from_utf8_lossy(bytes).lines().last() {
            self.progress.say(line);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
