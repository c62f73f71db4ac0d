//! `cargo compare`: builds the patched kernel, boots it, measures every call by every
//! interface, and shows the comparison.

mod cli;
mod files;
mod machines;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use benches::diff::Diff;
use benches::output::Output;
use benches::record::Record;
use benches::report::{self, documents};
use benches::{CRITERION, Selection, legend, measure};
use clap::Parser;

use crate::cli::Options;
use crate::files::{REPORT, Results};
use crate::machines::{KALLSYMS, MODULES};

/// The exit status for which `git bisect run` skips a commit.
const SKIP: u8 = 125;

fn main() -> ExitCode {
    kernel_patch::init_if_first();
    kernel_patch::answer_if_called(inside);
    let options = Options::parse();
    outside(&options).unwrap_or_else(|error| {
        eprintln!("compare: {error:#}");
        match kernel_patch::interrupt::exit_code() {
            1 if options.diff.is_some() => SKIP,
            code => code,
        }
        .into()
    })
}

/// In the process that measures: returns the record, and leaves criterion's files in
/// `out`. The caller reads the names of the cases from standard error.
fn inside(selection: Selection, out: &Path) -> Result<Record> {
    let record = measure(&selection, out, |case| eprintln!("{case}"))?;
    if selection.record {
        for name in [KALLSYMS, MODULES] {
            fs::copy(Path::new("/proc").join(name), out.join(name)).context(name)?;
        }
    }
    Ok(record)
}

fn outside(options: &Options) -> Result<ExitCode> {
    kernel_patch::interrupt::install()?;
    options.check()?;
    let old = options.diff.as_deref().map(Record::read).transpose()?;
    let page = options.report.as_deref().map(Output::begin).transpose()?;
    let new = match &options.from {
        Some(file) => show(file, page)?,
        None => run(options, page)?,
    };
    let Some(old) = old else {
        return Ok(ExitCode::SUCCESS);
    };
    let diff = Diff::new(&old, &new)?;
    println!("\n{}", diff.text());
    let Some(threshold) = options.threshold else {
        return Ok(ExitCode::SUCCESS);
    };
    let past = diff.past(threshold).count();
    if past == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("compare: {past} figures have grown by more than {threshold} %");
    Ok(ExitCode::FAILURE)
}

/// Prints the tables of a record, and what they were measured on.
fn print(record: &Record) {
    println!("{}\n{}", documents::tables(record), legend::legend(record));
}

/// Shows a saved record.
fn show(file: &Path, page: Option<Output>) -> Result<Record> {
    let record = Record::read(file)?;
    print(&record);
    if let Some(page) = page {
        page.finish(&report::render(&record)?)?;
    }
    Ok(record)
}

/// Measures, and shows the record.
fn run(options: &Options, page: Option<Output>) -> Result<Record> {
    let to_stdout = options.json.as_deref() == Some(Path::new("-"));
    let json = options.json.as_deref().filter(|_| !to_stdout);
    let json = json.map(Output::begin).transpose()?;
    let results = Results::begin(&options.kind())?;
    let (mut record, missing) = if options.native {
        (machines::natively(options, results.scratch(), false)?, 0)
    } else {
        machines::measure(options, results.scratch())?
    };
    record.time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    record.native = options.profile.then(|| machines::beside(options)).flatten();
    let text = serde_json::to_string_pretty(&record)? + "\n";
    let html = report::render(&record)?;
    let home = results.finish(&text, &html)?;

    if to_stdout {
        print!("{text}");
    } else {
        print(&record);
        println!("{:<12} {}", "report", home.join(REPORT).display());
        if options.criterion() {
            let plots = home.join(CRITERION).join("report/index.html");
            println!("{:<12} {}", "plots", plots.display());
        }
    }
    json.map_or(Ok(()), |output| output.finish(&text))?;
    page.map_or(Ok(()), |output| output.finish(&html))?;
    let failures = record.failures();
    ensure!(
        failures == 0,
        "{failures} figures are missing, because their cases failed or have no estimate"
    );
    ensure!(
        missing == 0,
        "{missing} of the machines failed, and their figures are missing"
    );
    Ok(record)
}
