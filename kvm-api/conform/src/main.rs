//! `cargo conform`: builds the patched kernel, boots it, and tries to find a
//! difference between what KVM's system calls do and what its ioctls do, or a
//! fault in what is new.

mod access;
mod arguments;
mod audit;
mod calls;
mod cli;
mod faults;
mod fuzz;
mod hook;
mod host;
mod inside;
mod lanes;
mod module;
mod property;
mod table;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::cli::{Cli, Command, Options};
use crate::host::Host;
use crate::property::Row;

fn main() -> ExitCode {
    kernel_patch::init_if_first();
    let cli = Cli::parse();
    let done = match &cli.command {
        Some(Command::Inside { property }) => inside::run(property, &cli.options),
        None => outside(&cli.options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conform: {error:#}");
            let code = error
                .downcast_ref::<kernel_patch::Error>()
                .map_or(1, kernel_patch::Error::exit_code);
            code.into()
        }
    }
}

/// Tests what is asked for, and says whether all of it holds.
fn outside(options: &Options) -> Result<bool> {
    kernel_patch::interrupt::install()?;
    let properties = options.properties()?;
    if options.list {
        println!("{}", table::list());
        return Ok(true);
    }
    let host = Host::new(options)?;
    let rows = lanes::run(&host, &properties)?;
    println!("{}", table::results(&rows, options));
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&rows)? + "\n";
        fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(!rows.is_empty(), "there was nothing to test");
    Ok(rows.iter().all(Row::holds))
}
