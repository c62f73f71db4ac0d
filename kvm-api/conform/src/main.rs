//! `cargo conform`: builds the patched kernel, boots it, and looks for
//! differences between KVM's system calls and its ioctls, and for faults in the
//! new code.

mod access;
mod arguments;
mod audit;
mod bindings;
mod child;
mod cli;
mod clock;
mod coverage;
mod delays;
mod errors;
mod faults;
mod fuzz;
#[cfg(test)]
mod generated;
mod hook;
mod inside;
mod kernel_memory;
mod lanes;
mod migrated;
mod module;
mod mutations;
mod open_files;
mod outcome;
mod output;
mod parameters;
mod passing;
mod processors;
mod property;
mod races;
mod random;
mod registry;
mod requests;
mod selftests;
mod sequences;
mod signal;
mod suite;
mod table;
mod test_kernel;
mod tested_call;
mod tracking;
mod trait_calls;
mod vcpu_state;
mod wait;
mod walk;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;

use crate::cli::{Cli, Command, Options};
use crate::coverage::Coverage;
use crate::inside::Input;
use crate::outcome::{Outcome, PropertyResult};
use crate::test_kernel::TestKernel;

fn main() -> ExitCode {
    kernel_patch::init_if_first();
    kernel_patch::answer_if_called(test);
    let cli = Cli::parse();
    let done = match &cli.command {
        Some(Command::Mutations { names }) => mutations(&cli.options, names),
        Some(Command::InheritedCall { words }) => errors::inherited_call(words).map(|()| true),
        None => properties(&cli.options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conform: {error:#}");
            kernel_patch::interrupt::exit_code().into()
        }
    }
}

/// Tests one property in this machine.
fn test(input: Input, _: &Path) -> Result<Outcome> {
    let property = registry::find(&input.property)?;
    inside::run(property.inside()?, &input.options)
}

/// Tests the selected properties, and returns whether all of them hold.
fn properties(options: &Options) -> Result<bool> {
    kernel_patch::interrupt::install()?;
    let properties = registry::select(options)?;
    if options.list {
        println!("{}", output::list(registry::ALL));
        return Ok(true);
    }
    if options.only.is_empty() {
        for property in registry::left_out(options) {
            eprintln!(
                "conform: {}: left out, because it is about another release of Linux",
                property.name
            );
        }
    }
    let kernel = TestKernel::new(options)?;
    let (mut rows, ended) = lanes::run(&kernel, &properties);
    let coverage = kernel.coverage()?;
    if let Some(coverage) = coverage.as_ref().filter(|_| options.whole()) {
        rows.push(coverage.row());
    }
    println!("{}", output::results(&rows));
    if let Some(coverage) = &coverage {
        println!("\n{}", output::coverage(coverage));
    }
    // Last, where a long list of lines that were not reached does not hide them.
    print!("{}", output::failures(&rows, options));
    let results = Results {
        properties: &rows,
        coverage,
    };
    write_json(options, &results)?;
    ended?;
    ensure!(!rows.is_empty(), "there is no property to test");
    Ok(rows.iter().all(PropertyResult::holds))
}

/// Tests the mutations, and returns whether a property notices each of them.
fn mutations(options: &Options, names: &[String]) -> Result<bool> {
    kernel_patch::interrupt::install()?;
    let mut results = Vec::new();
    let ended = mutations::run(options, names, &mut results);
    println!("{}", output::mutations(&results));
    write_json(options, &results)?;
    ended?;
    ensure!(!results.is_empty(), "there is no mutation to test");
    Ok(results.iter().all(|it| it.caught.is_some()))
}

fn write_json(options: &Options, found: &impl Serialize) -> Result<()> {
    let Some(path) = &options.json else {
        return Ok(());
    };
    let json = serde_json::to_string_pretty(found)? + "\n";
    fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
}

/// The results, for programs.
#[derive(Serialize)]
struct Results<'a> {
    properties: &'a [PropertyResult],
    #[serde(skip_serializing_if = "Option::is_none")]
    coverage: Option<Coverage>,
}
