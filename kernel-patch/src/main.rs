//! The command line.

mod cli;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use kernel_patch::port::{self, Fate};
use kernel_patch::{TARGET, interrupt};

use crate::cli::{Action, Cli, MachineArgs};

/// The variables by which cargo tells the programs that it runs about their package.
/// Another cargo would take them for its own packages'.
const OUTER_CARGO: [&str; 6] = [
    "CARGO_BIN_",
    "CARGO_CRATE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_TARGET_TMPDIR",
];

fn main() -> ExitCode {
    kernel_patch::init_if_first();
    let cli = Cli::parse();
    match act(cli) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("kernel-patch: {error:#}");
            interrupt::exit_code().into()
        }
    }
}

fn act(cli: Cli) -> Result<u8> {
    interrupt::install().context("cannot handle signals")?;
    match cli.command {
        Action::Build(build) => {
            let kernel = build.build()?;
            println!("{}", kernel.image().display());
            Ok(0)
        }
        Action::Run { machine, command } => run(machine, &command),
        Action::Shell(mut machine) => {
            let shell = env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
            machine.machine = machine.machine.host_root(true);
            run(machine, &[shell])
        }
        Action::Cargo { machine, args } => cargo(&machine, &args),
        Action::Check(check) => {
            let review = check.run()?;
            println!("{}", review.table());
            Ok(u8::from(!review.holds()))
        }
        Action::Import { from, source } => {
            port::import(&from.repository, from.base, source.as_deref())?;
            Ok(0)
        }
        Action::Rebase {
            repository,
            onto,
            json,
        } => {
            let moved = port::rebase(&repository, &onto)?;
            if let Some(file) = &json {
                let json = serde_json::to_string_pretty(&moved)?;
                fs::write(file, json)
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
            println!("{}", port::table(&moved));
            Ok(u8::from(moved.iter().any(|it| it.fate == Fate::Conflicts)))
        }
        Action::Export(args) => {
            port::export(&args.repository, args.base)?;
            Ok(0)
        }
        Action::Fresh(fresh) => {
            let trial = fresh.run()?;
            println!("\n{}", trial.table());
            Ok(u8::from(!trial.holds()))
        }
        Action::Path { base, variant } => {
            let build = kernel_patch::build_dir(base, variant)?;
            println!("source\t{}", build.parent().unwrap_or(&build).display());
            println!("build\t{}", build.display());
            println!("image\t{}", build.join("arch/x86/boot/bzImage").display());
            Ok(0)
        }
    }
}

fn run(options: MachineArgs, command: &[String]) -> Result<u8> {
    change_directory(&options)?;
    let (program, args) = command.split_first().expect("clap requires at least one");
    let program = Path::new(program);
    // Check before a build that can take minutes.
    options.machine.check_executable(program)?;
    let kernel = options.kernel.build()?;
    let exit = options.machine.input(true).run(
        &kernel,
        program,
        args,
        &mut io::stdout(),
        &mut io::stderr(),
    )?;
    Ok(exit.code())
}

/// Becomes cargo, which runs its executables with this program.
fn cargo(machine: &MachineArgs, args: &[OsString]) -> Result<u8> {
    change_directory(machine)?;
    // Build here, not in the first run: cargo can hide the output of a run.
    drop(machine.kernel.build()?);
    let mut cargo = kernel_patch::cargo();
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if OUTER_CARGO.iter().any(|it| text.starts_with(it)) {
            cargo.env_remove(&name);
        }
    }
    // Cargo runs its executables in the directories of their packages.
    if let Some(target) = env::var_os("CARGO_TARGET_DIR") {
        cargo.env("CARGO_TARGET_DIR", absolute(Path::new(&target))?);
    }
    let error = cargo.arg("--config").arg(runner()?).args(args).exec();
    Err(error).context("cannot run cargo")
}

/// Returns `run` with this command's own options as cargo's configuration. It is a
/// list, because a path can contain blanks.
fn runner() -> Result<String> {
    let this = kernel_patch::this_program()?;
    let here = absolute(Path::new("."))?;
    let options = env::args_os().skip(2).take_while(|arg| arg != "--");
    let words: Vec<_> = [this.into(), "run".into(), "--directory".into(), here.into()]
        .into_iter()
        .chain(options)
        .chain(["--".into()])
        // TOML quotes a string as JSON does.
        .map(|word: OsString| serde_json::Value::from(word.to_string_lossy()).to_string())
        .collect();
    Ok(format!("target.{TARGET}.runner=[{}]", words.join(",")))
}

fn change_directory(machine: &MachineArgs) -> Result<()> {
    let Some(dir) = &machine.directory else {
        return Ok(());
    };
    env::set_current_dir(dir).with_context(|| format!("cannot change to {}", dir.display()))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))
}
