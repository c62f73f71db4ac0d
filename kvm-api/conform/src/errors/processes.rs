//! Calls from other processes.

use std::env;
use std::os::fd::BorrowedFd;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::alarm;

use super::invocation::{Invocation, Raw};
use super::misuse::Made;
use super::testbed::{ROOM, Testbed};
use crate::arguments::CallResult;
use crate::child;

/// The time limit of the executed program, in seconds.
const LIMIT: u32 = 60;

/// Makes the call in a child.
pub fn forked(testbed: &mut Testbed<'_>, invocation: &Invocation) -> Result<Made> {
    let answer = child::run(|| Ok(CallResult::from(invocation.make(testbed))))?;
    Ok(Made::returned(answer.into()))
}

/// Executes this program again, which makes the call on an inherited
/// descriptor, with memory at the addresses that the call points to.
pub fn executed(testbed: &mut Testbed<'_>, invocation: &Invocation) -> Result<Made> {
    let fd = testbed.fd(invocation.call);
    let raw = invocation.raw();
    let mut header = [0; 8];
    let known = invocation.object().len().min(header.len());
    header[..known].copy_from_slice(&invocation.object()[..known]);
    let arena = testbed.arena.as_ptr().expose_provenance() as u64;
    inherit(fd, FdFlag::empty())?;
    let output = Command::new(env::current_exe()?)
        .arg("inherited-call")
        .args([arena, u64::from_ne_bytes(header)].map(|word| word.to_string()))
        .args(raw.to_words().map(|word| word.to_string()))
        .output();
    inherit(fd, FdFlag::FD_CLOEXEC)?;
    let output = output.context("the program cannot be executed")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let answer: CallResult = serde_json::from_str(&printed).with_context(|| {
        let error = String::from_utf8_lossy(&output.stderr);
        format!("the program prints {printed:?} {error:?}")
    })?;
    // The number of a descriptor belongs to the other program.
    let answer = Result::from(answer);
    let answer = answer.map(|number| if raw.makes_file() { 0 } else { number });
    Ok(Made::returned(answer))
}

/// Makes a call in the executed program, and prints the result.
pub fn inherited_call(words: &[u64]) -> Result<()> {
    let [arena, header, rest @ ..] = words else {
        anyhow::bail!("no words");
    };
    alarm::set(LIMIT);
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let place = std::ptr::with_exposed_provenance_mut(*arena as usize);
    // SAFETY: memory that is in use is not replaced, by these flags.
    let memory = unsafe { libc::mmap(place, 2 * ROOM as usize, access, flags, -1, 0) };
    ensure!(memory == place, "there is something at {arena:#x}");
    // SAFETY: it has just been mapped, for this.
    unsafe { memory.cast::<u64>().write(*header) };
    let raw = Raw::of_words(rest).context("not the words of a call")?;
    println!("{}", serde_json::to_string(&CallResult::from(raw.make()))?);
    Ok(())
}

/// Sets whether an executed program inherits the descriptor.
fn inherit(fd: BorrowedFd<'_>, flags: FdFlag) -> Result<()> {
    Ok(fcntl(fd, FcntlArg::F_SETFD(flags)).map(drop)?)
}
