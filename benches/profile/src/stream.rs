//! Streams of executed instructions, in runs that are adjacent in memory.

use iced_x86::{Code, FlowControl};

/// The way in which an instruction passes control to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It falls through to the next instruction.
    Plain,
    /// It calls.
    Call,
    /// It returns.
    Return,
    /// It jumps, or can jump.
    Jump,
    /// It enters the kernel.
    SystemCall,
    /// It returns from an interrupt or from a system call.
    Leave,
    /// It enters a guest.
    Vmrun,
}

impl Kind {
    /// The kind of an instruction.
    #[must_use]
    pub fn of(instruction: &iced_x86::Instruction) -> Self {
        match instruction.code() {
            Code::Syscall | Code::Sysenter => return Self::SystemCall,
            Code::Sysretd | Code::Sysretq | Code::Iretq | Code::Iretd | Code::Iretw => {
                return Self::Leave;
            }
            Code::Vmrunq | Code::Vmrund | Code::Vmlaunch | Code::Vmresume => return Self::Vmrun,
            _ => {}
        }
        match instruction.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => Self::Call,
            FlowControl::Return => Self::Return,
            FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::ConditionalBranch => Self::Jump,
            _ => Self::Plain,
        }
    }
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The address.
    pub pc: u64,
    /// The length in bytes.
    pub len: u8,
    /// The kind, which determines the next instruction.
    pub kind: Kind,
}

/// Instructions that are adjacent in memory, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The address of the first instruction.
    pub start: u64,
    /// The address after the last instruction.
    pub end: u64,
    /// The number of executed instructions. An instruction that repeats itself counts each
    /// time.
    pub count: u64,
    /// The kind of the last instruction.
    pub last: Kind,
}

/// A sequence of runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream(pub Vec<Run>);

impl Stream {
    /// Adds an instruction.
    pub fn push(&mut self, it: Instruction) {
        let end = it.pc + u64::from(it.len);
        if let Some(run) = self.0.last_mut() {
            let repeats = run.end == end && run.last == Kind::Plain && it.kind == Kind::Plain;
            // A guest's instructions do not continue the code around its entry.
            let follows = run.end == it.pc && run.last != Kind::Vmrun;
            if repeats || follows {
                run.end = end;
                run.count += 1;
                run.last = it.kind;
                return;
            }
        }
        self.0.push(Run {
            start: it.pc,
            end,
            count: 1,
            last: it.kind,
        });
    }

    /// The number of instructions.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|run| run.count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pc: u64, len: u8, kind: Kind) -> Instruction {
        Instruction { pc, len, kind }
    }

    #[test]
    fn adjacent_instructions_are_one_run() {
        let mut stream = Stream::default();
        stream.push(at(0x10, 2, Kind::Plain));
        stream.push(at(0x12, 2, Kind::Jump));
        stream.push(at(0x14, 3, Kind::Plain));
        stream.push(at(0x14, 3, Kind::Plain));
        stream.push(at(0x17, 5, Kind::Call));
        stream.push(at(0x80, 1, Kind::Return));
        let run = |start, end, count, last| Run {
            start,
            end,
            count,
            last,
        };
        let runs = [
            run(0x10, 0x1c, 5, Kind::Call),
            run(0x80, 0x81, 1, Kind::Return),
        ];
        assert_eq!(stream.0, runs);
        assert_eq!(stream.count(), 6);
    }

    #[test]
    fn a_guest_never_continues_a_run() {
        let mut stream = Stream::default();
        stream.push(at(0x10, 3, Kind::Vmrun));
        stream.push(at(0x13, 1, Kind::Plain));
        assert_eq!(stream.0.len(), 2);
    }
}
