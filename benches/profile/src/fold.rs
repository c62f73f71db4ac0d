//! Stacks of functions from a stream of instructions.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::stream::{Kind, Run, Stream};
use crate::symbols::{ENTRY, Symbols, Thunk, is_kernel};

/// The number of instructions in each stack of functions. A stack is the names of its
/// functions joined by semicolons, the outermost first.
pub type Folded = BTreeMap<String, u64>;

/// The name of the guest in a stack.
pub const GUEST: &str = "guest";
/// The name of the program in user space.
pub const PROGRAM: &str = "program";
/// The name of a compiled BPF program, which has no symbol.
pub const BPF: &str = "BPF program";
/// The name of a task that the scheduler switches to.
pub const ELSEWHERE: &str = "another task";

/// Folds a stream. The sum of all stacks is the number of instructions in the stream.
///
/// # Errors
///
/// If the symbols belong to another kernel.
pub fn fold(stream: &Stream, symbols: &Symbols) -> Result<Folded> {
    let into_kernel =
        |pair: &[Run]| pair[0].last == Kind::SystemCall && pair[1].start != pair[0].end;
    for pair in stream.0.windows(2).filter(|pair| into_kernel(pair)) {
        ensure!(
            symbols.find(pair[1].start) == Some((ENTRY, true)),
            "the symbols are not those of the kernel that ran: a system call enters it at {:#x}",
            pair[1].start
        );
    }
    let mut walk = Walk {
        symbols,
        stack: Stack::default(),
        parked: Vec::new(),
        guest: None,
        through: None,
    };
    let mut folded = Folded::new();
    let mut last = None;
    for run in &stream.0 {
        let stack = walk.step(last, run);
        *folded.entry(stack).or_default() += run.count;
        last = Some(run);
    }
    Ok(folded)
}

/// A function on the stack.
#[derive(Clone, Debug)]
struct Frame {
    name: String,
    /// The return address, if a call has entered the function.
    back: Option<u64>,
    /// Whether an interrupt or an exception has entered the function.
    interrupt: bool,
}

/// The stack of one task, the outermost function first.
#[derive(Clone, Debug, Default)]
struct Stack(Vec<Frame>);

impl Stack {
    /// Returns to an address, if it is the return address of a function on the stack.
    fn go_back(&mut self, to: u64) -> bool {
        match self.0.iter().rposition(|frame| frame.back == Some(to)) {
            Some(at) => {
                self.0.truncate(at);
                true
            }
            None => false,
        }
    }
}

struct Walk<'a> {
    symbols: &'a Symbols,
    stack: Stack,
    /// The stacks of the tasks that do not run.
    parked: Vec<Stack>,
    /// The address at which the host continues after the guest's exit.
    guest: Option<u64>,
    /// The return address of a call that is still in its thunk.
    through: Option<u64>,
}

impl Walk<'_> {
    /// Returns the stack of a run that follows `last`.
    fn step(&mut self, last: Option<&Run>, run: &Run) -> String {
        let pc = run.start;
        if let Some(last) = last
            && last.last == Kind::Vmrun
            && last.end != pc
        {
            self.guest = Some(last.end);
        }
        if self.guest.is_some_and(|end| end != pc) {
            return format!("{};{GUEST}", self.shown());
        }
        let resumed = self.guest.take().is_some();
        if !is_kernel(pc) {
            self.stack = Stack::default();
            return PROGRAM.into();
        }
        let called = last.is_some_and(|last| last.last == Kind::Call);
        let (name, first) = self.symbols.find(pc).unwrap_or((BPF, called));
        if let Some(thunk) = Thunk::of(name)
            && !resumed
        {
            // The thunk counts for the function that goes through it.
            let from = |last: &Run| Thunk::of(self.symbols.find(last.start)?.0);
            if let Some(last) = last
                && last.last == Kind::Call
                && thunk != Thunk::Return
                && from(last).is_none()
            {
                self.through = Some(last.end);
            }
            return self.shown();
        }
        if !resumed {
            match self.through.take() {
                Some(back) => self.push(name, Some(back), false),
                None => self.arrive(last, pc, name, first),
            }
        }
        self.shown()
    }

    /// Enters, returns to or continues a function after the last run.
    fn arrive(&mut self, last: Option<&Run>, pc: u64, name: &str, first: bool) {
        if is_interrupt(name) && first {
            return self.push(name, None, true);
        }
        match last.map(|last| (last.last, last.end)) {
            Some((Kind::Call, end)) if first => self.push(name, Some(end), false),
            Some((Kind::Return, _)) if self.stack.go_back(pc) => {}
            Some((Kind::Return, _)) if !first && self.switch(pc) => {}
            Some((Kind::Leave, _)) => {
                let interrupt = self.stack.0.iter().rposition(|frame| frame.interrupt);
                self.stack.0.truncate(interrupt.unwrap_or(usize::MAX));
            }
            Some((Kind::SystemCall, _)) => self.push(name, None, false),
            Some((Kind::Plain, _)) => self.push(name, None, true),
            _ => self.replace(name),
        }
    }

    fn push(&mut self, name: &str, back: Option<u64>, interrupt: bool) {
        let name = name.to_owned();
        self.stack.0.push(Frame {
            name,
            back,
            interrupt,
        });
    }

    /// Continues the function, or replaces it after a tail call.
    fn replace(&mut self, name: &str) {
        match self.stack.0.last_mut() {
            Some(frame) => name.clone_into(&mut frame.name),
            None => self.push(name, None, false),
        }
    }

    /// Switches to another task, if the scheduler returns to an address that is not on this
    /// task's stack.
    fn switch(&mut self, pc: u64) -> bool {
        let switching = |stack: &Stack| stack.0.iter().any(|it| it.name == "__switch_to_asm");
        if !switching(&self.stack) {
            return false;
        }
        let mut parked = self.parked.iter_mut();
        if let Some(other) = parked.find(|it| it.0.iter().any(|it| it.back == Some(pc))) {
            std::mem::swap(&mut self.stack, other);
            self.stack.go_back(pc);
        } else {
            self.parked.push(std::mem::take(&mut self.stack));
            self.push(ELSEWHERE, None, false);
            let name = self.symbols.find(pc).map_or(BPF, |(name, _)| name);
            self.push(name, None, false);
        }
        true
    }

    fn shown(&self) -> String {
        let names = self.stack.0.iter().map(|frame| &*frame.name);
        names.collect::<Vec<_>>().join(";")
    }
}

fn is_interrupt(name: &str) -> bool {
    [
        "asm_exc_",
        "asm_sysvec_",
        "asm_common_",
        "irq_entries",
        "asm_spurious",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Instruction;

    /// Functions of 0x100 bytes each, from here on.
    const BASE: u64 = 0xffff_ffff_8100_0000;
    const NAMES: [&str; 11] = [
        "entry_SYSCALL_64",
        "do_syscall_64",
        "vcpu_run",
        "leaf",
        "tail",
        "__x86_return_thunk",
        "__x86_indirect_thunk_rax",
        "asm_common_interrupt",
        "handler",
        "__switch_to_asm",
        "worker",
    ];

    fn symbols() -> Symbols {
        let lines = NAMES.iter().zip(0_u64..);
        let line = |(name, nth)| format!("{:x} T {name}\n", BASE + 0x100 * nth);
        let end = format!("{:x} T _etext\n", BASE + 0x100 * NAMES.len() as u64);
        Symbols::parse(&(lines.map(line).collect::<String>() + &end), "").unwrap()
    }

    /// An instruction of four bytes, the `nth` of a function.
    fn of(name: &str, nth: u64, kind: Kind) -> Instruction {
        let function = NAMES.iter().position(|it| *it == name).unwrap() as u64;
        let pc = BASE + 0x100 * function + 4 * nth;
        Instruction { pc, len: 4, kind }
    }

    fn user(kind: Kind) -> Instruction {
        let (pc, len) = (0x40_1000, 2);
        Instruction { pc, len, kind }
    }

    fn folded(instructions: impl IntoIterator<Item = Instruction>) -> Vec<(String, u64)> {
        let mut stream = Stream::default();
        instructions.into_iter().for_each(|it| stream.push(it));
        let folded = fold(&stream, &symbols()).unwrap();
        assert_eq!(folded.values().sum::<u64>(), stream.count());
        folded.into_iter().collect()
    }

    fn expect(stacks: &[(&str, u64)]) -> Vec<(String, u64)> {
        let owned = stacks.iter().map(|(stack, n)| ((*stack).to_owned(), *n));
        owned.collect()
    }

    #[test]
    fn calls_nest_and_returns_go_back() {
        let found = folded([
            user(Kind::SystemCall),
            of("entry_SYSCALL_64", 0, Kind::Plain),
            of("entry_SYSCALL_64", 1, Kind::Call),
            of("do_syscall_64", 0, Kind::Call),
            of("leaf", 0, Kind::Return),
            of("do_syscall_64", 1, Kind::Return),
            of("entry_SYSCALL_64", 2, Kind::Leave),
            user(Kind::Plain),
        ]);
        let stacks = [
            ("entry_SYSCALL_64", 3),
            ("entry_SYSCALL_64;do_syscall_64", 2),
            ("entry_SYSCALL_64;do_syscall_64;leaf", 1),
            ("program", 2),
        ];
        assert_eq!(found, expect(&stacks));
    }

    #[test]
    fn a_tail_call_takes_the_place_of_its_caller() {
        let found = folded([
            of("vcpu_run", 0, Kind::Call),
            of("leaf", 0, Kind::Jump),
            of("tail", 0, Kind::Return),
            of("vcpu_run", 1, Kind::Plain),
        ]);
        let stacks = [("vcpu_run", 2), ("vcpu_run;leaf", 1), ("vcpu_run;tail", 1)];
        assert_eq!(found, expect(&stacks));
    }

    #[test]
    fn thunks_stand_for_a_return_and_a_jump() {
        let found = folded([
            of("vcpu_run", 0, Kind::Call),
            of("__x86_indirect_thunk_rax", 0, Kind::Call),
            of("__x86_indirect_thunk_rax", 4, Kind::Return),
            of("leaf", 0, Kind::Jump),
            of("__x86_return_thunk", 0, Kind::Return),
            of("vcpu_run", 1, Kind::Plain),
        ]);
        assert_eq!(found, expect(&[("vcpu_run", 4), ("vcpu_run;leaf", 2)]));
    }

    #[test]
    fn an_interrupt_is_a_separate_function() {
        let found = folded([
            of("vcpu_run", 0, Kind::Plain),
            of("asm_common_interrupt", 0, Kind::Call),
            of("handler", 0, Kind::Return),
            of("asm_common_interrupt", 1, Kind::Leave),
            of("vcpu_run", 1, Kind::Plain),
        ]);
        let stacks = [
            ("vcpu_run", 2),
            ("vcpu_run;asm_common_interrupt", 2),
            ("vcpu_run;asm_common_interrupt;handler", 1),
        ];
        assert_eq!(found, expect(&stacks));
    }

    #[test]
    fn instructions_between_entry_and_exit_are_the_guests() {
        let found = folded([
            of("vcpu_run", 0, Kind::Vmrun),
            Instruction {
                pc: 0x1000,
                len: 1,
                kind: Kind::Plain,
            },
            of("vcpu_run", 1, Kind::Plain),
        ]);
        assert_eq!(found, expect(&[("vcpu_run", 2), ("vcpu_run;guest", 1)]));
    }

    #[test]
    fn a_filter_is_code_without_a_symbol() {
        let filter = Instruction {
            pc: 0xffff_ffff_c000_0000,
            len: 4,
            kind: Kind::Return,
        };
        let called = [
            of("vcpu_run", 0, Kind::Call),
            filter,
            of("vcpu_run", 1, Kind::Plain),
        ];
        let through_a_thunk = [
            of("vcpu_run", 0, Kind::Call),
            of("__x86_indirect_thunk_rax", 0, Kind::Jump),
            filter,
            of("vcpu_run", 1, Kind::Plain),
        ];
        assert_eq!(
            folded(called),
            expect(&[("vcpu_run", 2), ("vcpu_run;BPF program", 1)])
        );
        let stacks = [("vcpu_run", 3), ("vcpu_run;BPF program", 1)];
        assert_eq!(folded(through_a_thunk), expect(&stacks));
    }

    #[test]
    fn the_symbols_of_another_kernel_are_refused() {
        let mut stream = Stream::default();
        stream.push(user(Kind::SystemCall));
        stream.push(of("leaf", 0, Kind::Plain));
        let error = fold(&stream, &symbols()).unwrap_err().to_string();
        assert!(
            error.contains("not those of the kernel that ran"),
            "{error}"
        );
    }

    #[test]
    fn another_task_has_a_separate_stack() {
        let found = folded([
            of("vcpu_run", 0, Kind::Call),
            of("__switch_to_asm", 0, Kind::Return),
            of("worker", 5, Kind::Call),
            of("__switch_to_asm", 0, Kind::Return),
            of("vcpu_run", 1, Kind::Plain),
        ]);
        let stacks = [
            ("another task;worker", 1),
            ("another task;worker;__switch_to_asm", 1),
            ("vcpu_run", 2),
            ("vcpu_run;__switch_to_asm", 1),
        ];
        assert_eq!(found, expect(&stacks));
    }
}
