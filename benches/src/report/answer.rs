//! The answer in words, made from the figures of the run.

use crate::parts::Part;
use crate::record::{Record, Row, Run};
use crate::seccomp::Seccomp;

/// A few paragraphs. What was not measured is not spoken of.
pub fn paragraphs(record: &Record) -> Vec<String> {
    let Some(run) = record.runs.first() else {
        return Vec::new();
    };
    let mut paragraphs = Vec::new();
    if let Some(why) = &run.no_syscalls {
        paragraphs.push(format!(
            "The system calls are missing here: {why}. What follows is the ioctls alone."
        ));
    }
    let unit = record.unit;
    let sentence = |run: &Run, name: &str, what: &str| {
        let saved = Saved::of(run.row(name)?)?;
        Some(format!("{what} takes {saved}"))
    };
    let exit = exit(run);
    let all = [
        exit.and_then(|row| sentence(run, &row.name, "an exit to user space for port output")),
        sentence(run, "kvm_get_regs", "reading the registers"),
        sentence(
            run,
            "emulation_loop",
            "an exit with the registers read and written back",
        ),
    ];
    let all: Vec<_> = all.into_iter().flatten().collect();
    if !all.is_empty() {
        paragraphs.push(format!(
            "In {unit}, from user space and back, ioctl against system call: {}.",
            all.join("; ")
        ));
    }
    paragraphs.extend(exit.and_then(where_it_goes));
    for other in &record.runs[1..] {
        let all = [
            sentence(other, exit.map_or("", |row| &row.name), "the exit"),
            sentence(other, "kvm_get_regs", "reading the registers"),
        ];
        let all: Vec<_> = all.into_iter().flatten().collect();
        if !all.is_empty() {
            let why = match other.seccomp {
                Seccomp::None => "",
                Seccomp::Allowlist => " (see the matrix for why)",
            };
            paragraphs.push(format!(
                "With {}: {}{why}.",
                other.condition(),
                all.join("; ")
            ));
        }
    }
    paragraphs
}

/// The exit that stands for all: in 64-bit mode, or what there is.
pub(super) fn exit(run: &Run) -> Option<&Row> {
    let names = ["kvm_run_pio_out", "kvm_run_pio_out_real_mode"];
    names.into_iter().find_map(|name| run.row(name))
}

fn where_it_goes(row: &Row) -> Option<String> {
    let profile = row.figures.get("ioctl")?.profile.as_ref()?;
    let part = |part| profile.parts.get(&part).copied();
    let (floor, entry) = (part(Part::Floor)?, part(Part::Entry)?);
    let rest = profile
        .instructions
        .checked_sub(floor)?
        .checked_sub(entry)?;
    Some(format!(
        "Of the {} that such an exit takes by ioctl, {floor} are what any system call takes and \
         {entry} are entry and dispatch, the part that another spelling can save from. The other \
         {rest}, {:.0} %, are KVM's run loop ({}), the switch of state ({}), the guest and the way \
         back: no spelling saves these.",
        profile.instructions,
        100.0 * rest as f64 / profile.instructions as f64,
        part(Part::RunLoop)?,
        part(Part::State)?,
    ))
}

/// What the system call takes, beside the ioctl.
struct Saved {
    ioctl: f64,
    syscall: f64,
}

impl Saved {
    fn of(row: &Row) -> Option<Self> {
        let value = |name: &str| row.figures.get(name)?.value();
        Some(Self {
            ioctl: value("ioctl")?,
            syscall: value("syscall")?,
        })
    }
}

impl std::fmt::Display for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ioctl, syscall } = self;
        let percent = 100.0 * (syscall / ioctl - 1.0);
        write!(f, "{ioctl:.0} against {syscall:.0} ({percent:+.1} %)")
    }
}
