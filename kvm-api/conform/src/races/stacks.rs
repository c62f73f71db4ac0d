//! The stacks of a race that hangs.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use nix::unistd::Pid;

/// The state of each thread in the process group: its name, state, system call,
/// and kernel stack.
pub fn of_group(group: Pid) -> String {
    let mut text = String::new();
    for process in entries(Path::new("/proc")) {
        if group_of(&process) == Some(group) {
            for thread in entries(&process.join("task")) {
                let read = |name| fs::read_to_string(thread.join(name)).unwrap_or_default();
                let stat = read("stat");
                let state = stat.rsplit(')').next().unwrap_or_default();
                let _ = writeln!(
                    text,
                    "{} {}, state {}, system call {}{}",
                    thread.display(),
                    read("comm").trim(),
                    state.trim().get(..1).unwrap_or_default(),
                    read("syscall"),
                    read("stack"),
                );
            }
        }
    }
    text
}

fn entries(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The process group, the third field behind the name in parentheses.
fn group_of(process: &Path) -> Option<Pid> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let group = stat.rsplit(')').next()?.split_whitespace().nth(2)?;
    Some(Pid::from_raw(group.parse().ok()?))
}
