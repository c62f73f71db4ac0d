//! The called side of a call.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::Path;
use std::{env, fs, process};

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire::call::{CALL, OUTPUT};
use crate::wire::job::OUT_VARIABLE;

/// Runs `function` and ends the process, if another process of this program has
/// called it with [`Machine::call`](crate::Machine::call) or
/// [`call_here`](crate::call_here). Otherwise returns.
///
/// `function` receives the caller's input, and the directory whose files go to the
/// caller. The caller receives each line that it writes to standard error as progress.
pub fn answer_if_called<I, O, E>(function: impl FnOnce(I, &Path) -> Result<O, E>)
where
    I: DeserializeOwned,
    O: Serialize,
    E: Display,
{
    let mut args = env::args_os().skip(1);
    if args.next().is_none_or(|it| it != CALL) {
        return;
    }
    let code = match answer(args.next(), function) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("error: {error:#}");
            1
        }
    };
    process::exit(code)
}

fn answer<I, O, E>(
    input: Option<OsString>,
    function: impl FnOnce(I, &Path) -> Result<O, E>,
) -> anyhow::Result<()>
where
    I: DeserializeOwned,
    O: Serialize,
    E: Display,
{
    let out = env::var_os(OUT_VARIABLE).context("no directory for the output")?;
    let out = Path::new(&out);
    let input = fs::read(input.context("no file with the input")?).context("the input")?;
    let input = serde_json::from_slice(&input).context("the input")?;
    let output = function(input, out).map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let output = serde_json::to_vec(&output).context("the output")?;
    fs::write(out.join(OUTPUT), output).context("the output")
}
