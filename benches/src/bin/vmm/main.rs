//! `cargo vmm`: builds the patched kernel, boots it, runs unmodified VMMs in it by ioctls and
//! by the calls, and shows what they gain.

mod child;
mod cli;
mod guest;
mod inside;
mod machines;

use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use benches::output::Output;
use benches::vmm::documents;
use benches::vmm::record::{Record, SCHEMA};
use clap::Parser;

use crate::cli::Options;

fn main() -> ExitCode {
    kernel_patch::init_if_first();
    kernel_patch::answer_if_called(|job, _| inside::measure(&job));
    match outside(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmm: {error:#}");
            kernel_patch::interrupt::exit_code().into()
        }
    }
}

fn outside(options: &Options) -> Result<()> {
    kernel_patch::interrupt::install()?;
    options.check()?;
    let page = options.report.as_deref().map(Output::begin).transpose()?;
    let to_stdout = options.json.as_deref() == Some(Path::new("-"));
    let json = options.json.as_deref().filter(|_| !to_stdout);
    let json = json.map(Output::begin).transpose()?;
    let (record, missing) = match &options.from {
        Some(file) => (Record::read(file)?, 0),
        None => measure(options)?,
    };
    let text = serde_json::to_string_pretty(&record)? + "\n";
    if to_stdout {
        print!("{text}");
    } else {
        print!("{}", documents::tables(&record));
    }
    json.map_or(Ok(()), |output| output.finish(&text))?;
    page.map_or(Ok(()), |output| output.finish(&documents::render(&record)?))?;
    let missing = missing + record.failures();
    ensure!(missing == 0, "{missing} figures are missing");
    Ok(())
}

/// Measures. Also returns the number of machines that failed.
fn measure(options: &Options) -> Result<(Record, usize)> {
    let (works, missing) = machines::measure(options)?;
    let time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let record = Record {
        schema: SCHEMA,
        time,
        works,
    };
    Ok((record, missing))
}
