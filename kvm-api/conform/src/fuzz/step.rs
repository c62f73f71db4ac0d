//! A step of a sequence: a call and its arguments. It can be written to the
//! corpus, and mutated.

use std::ffi::CStr;
use std::fmt::Write;

use fastrand::Rng;
use kvm_api::files::File;

use super::argument::{Arg, Fd, NUMBERS, Place};
use super::fitting::{any, fitting, pick};
use super::rows::{CallRow, ROWS};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The system call of a row of the table.
    Call(usize),
    /// The ioctl that it replaces.
    Ioctl(usize),
    /// A system call of another number.
    Number(u16),
    /// mmap of a file: descriptor, offset, size.
    Map,
    /// openat of one of the files by [`file_name`]: descriptor, which, flags.
    Open,
    /// pread of a file: descriptor, place, size, offset.
    Read,
    /// pwrite, with the same arguments.
    Write,
    /// getdents64 of a directory: descriptor, place, size.
    List,
    /// No call: changes eight bytes of a place. Place, offset, value.
    Poke,
}

/// The number of names that [`file_name`] gives.
pub const FILES: usize = File::ALL.len() + 1;

/// The name of a file of a vCPU, or one that it does not have.
pub fn file_name(nth: usize) -> &'static CStr {
    let file = File::ALL.get(nth % FILES);
    file.map_or(c"nothing", |file| file.name())
}

/// The other targets, by name.
pub const OTHERS: [(&str, Target); 6] = [
    ("mmap", Target::Map),
    ("open", Target::Open),
    ("read", Target::Read),
    ("write", Target::Write),
    ("list", Target::List),
    ("poke", Target::Poke),
];

/// A step. Each call gets six arguments, and ignores those that it does not
/// take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub target: Target,
    pub args: [Arg; 6],
}

/// The numbers next to those of the calls.
const NEIGHBOURS: [u16; 4] = [599, 657, 658, 470];

impl Step {
    /// A step with arguments of the right kinds, most of them.
    pub fn structured(rng: &mut Rng) -> Self {
        let call = row(rng);
        let target = match rng.u8(..100) {
            0..=1 => Target::Number(pick(&NEIGHBOURS, rng)),
            2..=13 => Target::Ioctl(call),
            14..=15 => Target::Map,
            16 => pick(&OTHERS, rng).1,
            17..=26 => Target::Poke,
            _ => Target::Call(call),
        };
        let mut args = [(); 6].map(|()| any(rng));
        match target {
            Target::Call(call) | Target::Ioctl(call) => {
                for (arg, parameter) in args.iter_mut().zip(&ROWS[call].parameters) {
                    *arg = fitting(parameter, &ROWS[call], rng);
                }
            }
            Target::Map => {
                args[0] = Arg::Fd(pick(&[Fd::Vm0, Fd::Vm1, Fd::Vcpu0, Fd::New], rng));
                args[1] = Arg::Number(pick(&NUMBERS[..16], rng));
                args[2] = Arg::Number(pick(&NUMBERS[..16], rng));
            }
            Target::Open => {
                args[0] = Arg::Fd(pick(&[Fd::Vcpu0, Fd::Vcpu1, Fd::New], rng));
                args[1] = Arg::Number(rng.u64(..FILES as u64));
                args[2] = Arg::Number(rng.u64(..4));
            }
            Target::Read | Target::Write | Target::List => {
                args[0] = Arg::Fd(pick(&[Fd::New, Fd::Vcpu0], rng));
                args[2] = Arg::Number(pick(&NUMBERS[..14], rng));
                args[3] = Arg::Number(0);
            }
            Target::Poke => {
                args[0] = Arg::Place(pick(Place::writable(), rng));
                args[1] = Arg::Number(rng.u64(..512));
            }
            Target::Number(_) => {}
        }
        Self { target, args }
    }

    pub fn random(rng: &mut Rng) -> Self {
        Self {
            target: Target::Call(row(rng)),
            args: [(); 6].map(|()| any(rng)),
        }
    }

    /// Changes one thing about it.
    pub fn mutate(&mut self, rng: &mut Rng) {
        let n = rng.usize(..6);
        match rng.u8(..4) {
            0 => self.args.swap(n, rng.usize(..6)),
            1 => self.args[n] = any(rng),
            2 => self.target = Self::structured(rng).target,
            _ => {
                self.args[n] = match self.args[n] {
                    Arg::Number(number) => Arg::Number(number ^ (1 << rng.u8(..64))),
                    _ => any(rng),
                }
            }
        }
    }

    /// Reads what [`Display`](std::fmt::Display) writes.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let other = OTHERS.into_iter().find(|other| other.0 == name);
        let target = match (name.split_once(':'), other) {
            (Some(("ioctl", name)), _) => Target::Ioctl(CallRow::named(name)?),
            (Some(("number", number)), _) => Target::Number(number.parse().ok()?),
            (_, Some((_, other))) => other,
            (_, None) => Target::Call(CallRow::named(name)?),
        };
        let mut args = [Arg::Number(0); 6];
        for (n, word) in words.enumerate() {
            *args.get_mut(n)? = Arg::parse(word)?;
        }
        Some(Self { target, args })
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = match self.target {
            Target::Call(row) => ROWS[row].name.clone(),
            Target::Ioctl(row) => format!("ioctl:{}", ROWS[row].name),
            Target::Number(number) => format!("number:{number}"),
            other => {
                let other = OTHERS.into_iter().find(|it| it.1 == other);
                other.expect("each has a name").0.into()
            }
        };
        for arg in &self.args {
            write!(text, " {arg}")?;
        }
        f.write_str(&text)
    }
}

/// A random row of the table. Slow calls are rarer than the others.
fn row(rng: &mut Rng) -> usize {
    loop {
        let row = rng.usize(..ROWS.len());
        if rng.u8(..32) == 0 || !ROWS[row].is_slow() {
            return row;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_can_be_written_and_read() {
        let mut rng = Rng::with_seed(7);
        for _ in 0..2000 {
            let mut step = Step::structured(&mut rng);
            step.mutate(&mut rng);
            assert_eq!(Step::parse(&step.to_string()), Some(step));
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        for line in [
            "",
            "kvm_fly vm0",
            "ioctl:x",
            "bound:kvm_create_vm",
            "kvm_run vcpu9",
            "poke 1 2 3 4 5 6 7",
        ] {
            assert_eq!(Step::parse(line), None, "{line}");
        }
    }
}
