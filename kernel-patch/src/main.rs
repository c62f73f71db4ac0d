//! The command line.

mod cli;

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use kernel_patch::fresh::Entry;
use kernel_patch::{Error, Result, TARGET};

use crate::cli::{Action, Cli, MachineArgs};

/// What cargo tells the programs that it runs about a package. Passed on to
/// another cargo, it would seem to be about that one's packages.
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
    let done = kernel_patch::interrupt::install()
        .map_err(|source| Error::Io {
            doing: "catch signals in",
            path: "this process".into(),
            source,
        })
        .and_then(|()| act(cli));
    match done {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("kernel-patch: {error}");
            error.exit_code().into()
        }
    }
}

fn act(cli: Cli) -> Result<u8> {
    match cli.command {
        Action::Build(build) => {
            let kernel = build.builder().build()?;
            println!("{}", kernel.image().display());
            Ok(0)
        }
        Action::Run { machine, command } => run(&machine, &command),
        Action::Cargo { machine, args } => cargo(&machine, &args),
        Action::Check(args) => {
            let report = args.check().run()?;
            if let Some(file) = &args.json {
                report.write_json(file)?;
            }
            println!("{}", report.table());
            Ok(u8::from(!report.holds()))
        }
        Action::Fresh(args) => {
            let report = args.fresh().run()?;
            println!("\n{}", report.table());
            Ok(u8::from(!report.holds()))
        }
        Action::Enter { entry } => {
            let entry: Entry = serde_json::from_str(&entry).map_err(|error| Error::Io {
                doing: "understand",
                path: "the command for a new machine".into(),
                source: error.into(),
            })?;
            match entry.enter()? {}
        }
        Action::Path { variant } => {
            let build = kernel_patch::build_dir(variant)?;
            println!("source\t{}", build.parent().unwrap_or(&build).display());
            println!("build\t{}", build.display());
            println!("image\t{}", build.join("arch/x86/boot/bzImage").display());
            Ok(0)
        }
    }
}

fn run(machine: &MachineArgs, command: &[String]) -> Result<u8> {
    change_directory(machine)?;
    let (program, args) = command.split_first().expect("clap wants at least one");
    // Before a build that may take minutes.
    kernel_patch::check_executable(Path::new(program))?;
    let kernel = machine.build.builder().build()?;
    let exit = machine.machine().run(
        &kernel,
        Path::new(program),
        args,
        &mut io::stdout(),
        &mut io::stderr(),
    )?;
    Ok(exit.code())
}

/// Becomes cargo, with this program for what it runs its executables by.
fn cargo(machine: &MachineArgs, args: &[OsString]) -> Result<u8> {
    change_directory(machine)?;
    // Here, not in the first of the runs: what cargo runs, it may run quietly.
    drop(machine.build.builder().build()?);
    let mut cargo = kernel_patch::cargo();
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if OUTER_CARGO.iter().any(|it| text.starts_with(it)) {
            cargo.env_remove(&name);
        }
    }
    // Cargo runs its executables in their packages' directories.
    if let Some(target) = env::var_os("CARGO_TARGET_DIR") {
        cargo.env("CARGO_TARGET_DIR", absolute(Path::new(&target))?);
    }
    let source = cargo.arg("--config").arg(runner()?).args(args).exec();
    Err(Error::Spawn {
        what: "cargo".into(),
        source,
    })
}

/// `run` with this command's own options, as cargo's configuration has it: a
/// list, since a path may have blanks in it.
fn runner() -> Result<String> {
    let this = kernel_patch::this_program()?;
    let here = absolute(Path::new("."))?;
    let options = env::args_os().skip(2).take_while(|arg| arg != "--");
    let words: Vec<_> = [this.into(), "run".into(), "--directory".into(), here.into()]
        .into_iter()
        .chain(options)
        .chain(["--".into()])
        // A string of TOML is quoted as one of JSON is.
        .map(|word: OsString| serde_json::Value::from(word.to_string_lossy()).to_string())
        .collect();
    Ok(format!("target.{TARGET}.runner=[{}]", words.join(",")))
}

fn change_directory(machine: &MachineArgs) -> Result<()> {
    let Some(dir) = &machine.directory else {
        return Ok(());
    };
    env::set_current_dir(dir).map_err(|source| Error::Io {
        doing: "change to",
        path: dir.clone(),
        source,
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|source| Error::Io {
        doing: "find",
        path: path.into(),
        source,
    })
}
