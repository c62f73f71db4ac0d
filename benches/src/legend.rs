//! The meaning of the figures, and the machine of a run.

use crate::counter::Unit;
use crate::place::Place;
use crate::record::{Record, Run};

/// The meaning of the figures.
#[must_use]
pub fn meaning(unit: Unit) -> &'static str {
    match unit {
        Unit::Instructions => {
            "A figure is a number of instructions, counted under emulation. It is not a number\n\
             of cycles. The count goes from user space to user space and includes the guest's\n\
             own instructions; its entry counts as one. Each case is counted some 300 times.\n\
             The figure is the most common count. The percentage in parentheses is the share\n\
             of calls that had this count; without parentheses, all of them had it.\n\
             null_syscall is getppid(), the least that any call costs."
        }
        Unit::Nanoseconds => {
            "A figure is criterion's estimate of the mean, in nanoseconds. The number after ± is\n\
             half the width of the interval that holds the mean with a probability of 95 %.\n\
             null_syscall is getppid(), the least that any call costs."
        }
    }
}

/// The machine and the kernel of a run: names and values.
#[must_use]
pub fn place(run: &Run) -> Vec<(&'static str, String)> {
    let mut lines = of_place(&run.measured_on);
    if let Some(why) = &run.no_syscalls {
        lines.push(("no syscalls", why.clone()));
    }
    lines
}

/// A machine and its kernel: names and values.
#[must_use]
pub fn of_place(place: &Place) -> Vec<(&'static str, String)> {
    let mut lines = vec![("kernel", format!("{} {}", place.kernel, place.version))];
    if let Some(build) = &place.build {
        let from = format!("series {}, configuration {}", build.series, build.config);
        lines.push(("built from", from));
        lines.push(("emulator", build.accelerator.clone()));
    }
    lines.push(("processor", place.cpu.clone()));
    lines.push(("KVM", place.kvm.clone()));
    lines.push(("mitigations", mitigations(place)));
    lines
}

/// The machine and the kernel of a run, in lines short enough for a caption on a phone.
#[must_use]
pub fn caption(unit: Unit, run: &Run) -> Vec<String> {
    let place = &run.measured_on;
    let counted = match unit {
        Unit::Instructions => "Instructions counted under emulation, not cycles.",
        Unit::Nanoseconds => "Nanoseconds.",
    };
    let (mut kernel, mut processor) = (format!("Linux {}", place.kernel), place.cpu.clone());
    if let Some(build) = &place.build {
        kernel += &format!(", patch series {}", build.series);
        // The version without its package and without QEMU's settings.
        let version = build.accelerator.split([',', '(']).next();
        processor = format!("{}, {processor}", version.unwrap_or_default().trim());
    }
    let condition = format!("CPU vulnerability {}", run.condition());
    vec![counted.into(), kernel, processor, condition]
}

/// The rows of a run that were measured on more than one processor. The others need only
/// one.
#[must_use]
pub fn on_more_processors(run: &Run) -> Vec<String> {
    let rows = run.rows.iter();
    let rows = rows.filter_map(|row| Some((&row.name, row.processors?)));
    rows.map(|(name, processors)| format!("{name} was measured on {processors} processors."))
        .collect()
}

/// The meaning of the figures, and the machine of the first run.
#[must_use]
pub fn legend(record: &Record) -> String {
    let first = record.runs.first();
    let mut lines = vec![meaning(record.unit).into()];
    lines.extend(first.map(on_more_processors).unwrap_or_default());
    let machine = first.map(machine).unwrap_or_default();
    format!("{}\n{machine}", lines.join("\n"))
}

/// The machine and the kernel of a run, in lines that begin with a newline.
#[must_use]
pub fn machine(run: &Run) -> String {
    in_lines(place(run))
}

/// Names and values, in lines that begin with a newline.
#[must_use]
pub fn in_lines(values: Vec<(&str, String)>) -> String {
    let indent = " ".repeat(13);
    let options = textwrap::Options::new(88).subsequent_indent(&indent);
    let lines = values.into_iter();
    let lines = lines.map(|(name, value)| format!("{name:<12} {value}"));
    lines
        .map(|line| format!("\n{}", textwrap::fill(&line, &options)))
        .collect()
}

/// The mitigations in force, and the vulnerabilities without one.
fn mitigations(place: &Place) -> String {
    let requested = match &place.build {
        Some(build) => format!("{}: ", build.mitigations),
        None => String::new(),
    };
    let affected = place.mitigations.iter();
    let affected = affected.filter(|(_, state)| *state != "Not affected");
    let affected = affected.map(|(name, state)| format!("{name} ({state})"));
    requested + &affected.collect::<Vec<_>>().join(", ")
}
