//! The answer in words, made from the figures of the run.

use crate::parts::Part;
use crate::record::{Profile, Record, Row, Run};
use crate::seccomp::Seccomp;

/// What the message proposes, each held against the form that differs from it
/// in nothing else: `(question, [(before, after, rows)])`.
type Question = (
    &'static str,
    &'static [(&'static str, &'static str, &'static [&'static str])],
);
const QUESTIONS: [Question; 6] = [
    (
        "The spelling, ioctl against system call",
        &[(
            "ioctl",
            "syscall",
            &[
                EXIT,
                REGS,
                "registers_read_written",
                LOOP,
                "vcpu_saved_restored",
            ],
        )],
    ),
    (
        "Merging, one call for each part against one for all",
        &[(
            "syscall",
            "merged",
            &["registers_read_written", LOOP, "vcpu_saved_restored"],
        )],
    ),
    (
        "Ranges, slots by number against addresses",
        &[(
            "syscall",
            "ranges",
            &["page_replaced", "memory_mapped", "dirty_pages_fetched"],
        )],
    ),
    (
        "Files, system call against read and write",
        &[(
            "syscall",
            "files",
            &[REGS, "registers_read_written", LOOP, "vcpu_saved_restored"],
        )],
    ),
    (
        "Binding, calls on a descriptor against the same on the task's vcpu",
        &[
            ("syscall", "bound", &[EXIT, REGS]),
            (
                "merged",
                "bound",
                &["registers_read_written", LOOP, "vcpu_saved_restored"],
            ),
            ("ioctl", "bound", &["kick", "interrupt_by_another_thread"]),
        ],
    ),
    (
        "General and special registers without a call, which KVM_CAP_SYNC_REGS copies with a run",
        &[("ioctl", "sync-regs", &[LOOP, "registers_read_written"])],
    ),
];

const EXIT: &str = "kvm_run_pio_out";
const REGS: &str = "kvm_get_regs";
const LOOP: &str = "emulation_loop";

/// What a row is about, in words.
fn what(row: &str) -> &str {
    match row {
        EXIT => "an exit to user space for port output",
        REGS => "reading the registers",
        "registers_read_written" => "regs, sregs and fpu read and written back",
        LOOP => "an exit with the registers read and written back",
        "vcpu_saved_restored" => "a whole vcpu saved and restored",
        "page_replaced" => "a page in the middle of memory replaced and put back",
        "memory_mapped" => "memory shown to the guest and taken away",
        "dirty_pages_fetched" => "the log of 16 pages, one of them written",
        "kick" => "kicking another thread's vcpu, by signal or by call",
        "interrupt_by_another_thread" => "an interrupt that another thread injects",
        other => other,
    }
}

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
    for (question, pairs) in QUESTIONS {
        let pairs = pairs.iter().flat_map(|(before, after, rows)| {
            let rows = rows.iter().filter_map(|name| run.row(name));
            rows.filter_map(|row| Change::of(row, before, after))
        });
        let all: Vec<_> = pairs.map(|change| change.to_string()).collect();
        if !all.is_empty() {
            let unit = record.unit;
            paragraphs.push(format!("{question}, in {unit}: {}.", all.join("; ")));
        }
    }
    paragraphs.extend(exit(run).and_then(what_remains));
    paragraphs.extend(record.runs[1..].iter().filter_map(elsewhere));
    paragraphs
}

/// The exit that stands for all: in 64-bit mode, or what there is.
pub(super) fn exit(run: &Run) -> Option<&Row> {
    let names = [EXIT, "kvm_run_pio_out_real_mode"];
    names.into_iter().find_map(|name| run.row(name))
}

/// The same under another condition.
fn elsewhere(run: &Run) -> Option<String> {
    let rows = [exit(run), run.row(REGS)].into_iter().flatten();
    let changes = rows.flat_map(|row| {
        let forms = ["syscall", "files", "bound"];
        forms.map(|form| Some(format!("{} by {form}", Change::of(row, "ioctl", form)?)))
    });
    let all: Vec<_> = changes.flatten().collect();
    let why = match run.seccomp {
        Seccomp::None => "",
        Seccomp::Allowlist => " (see the matrix for why)",
    };
    (!all.is_empty()).then(|| format!("With {}: {}{why}.", run.condition(), all.join("; ")))
}

/// What of an exit no interface takes away.
fn what_remains(row: &Row) -> Option<String> {
    let profile = |name| row.figures.get(name)?.profile.as_ref();
    let (ioctl, bound) = (profile("ioctl")?, profile("bound")?);
    let part = |profile: &Profile, part| profile.parts.get(&part).copied();
    let parts = |profile: &Profile| {
        let all = Part::ALL.into_iter().map(|it| {
            let count = part(profile, it).unwrap_or_default();
            format!("{} {count}", it.title())
        });
        all.collect::<Vec<_>>().join(", ")
    };
    let kept = bound
        .instructions
        .checked_sub(part(bound, Part::Entry)?)?
        .checked_sub(part(bound, Part::Floor)?)?;
    Some(format!(
        "What remains: by ioctl such an exit takes {} ({}); bound it takes {} ({}). What is \
         neither floor nor entry, {kept} instructions or {:.0} % of the bound exit, is what no \
         interface can remove: KVM's run loop, the switch of state between host and guest, the \
         guest, and the way back.",
        ioctl.instructions,
        parts(ioctl),
        bound.instructions,
        parts(bound),
        100.0 * kept as f64 / bound.instructions as f64,
    ))
}

/// What one interface takes beside another, for the same work.
struct Change<'a> {
    what: &'a str,
    before: f64,
    after: f64,
}

impl<'a> Change<'a> {
    fn of(row: &'a Row, before: &str, after: &str) -> Option<Self> {
        let value = |name: &str| row.figures.get(name)?.value();
        Some(Self {
            what: what(&row.name),
            before: value(before)?,
            after: value(after)?,
        })
    }
}

impl std::fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            what,
            before,
            after,
        } = self;
        let percent = 100.0 * (after / before - 1.0);
        write!(f, "{what} {before:.0} against {after:.0} ({percent:+.1} %)")
    }
}
