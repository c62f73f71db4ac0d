//! Stacks of functions, made of a stream of instructions.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::stream::{Kind, Run, Stream};
use crate::symbols::{ENTRY, Symbols, is_kernel};

/// How many instructions each stack of functions took, its functions joined by
/// semicolons, the outermost first.
pub type Folded = BTreeMap<String, u64>;

/// The guest's instructions, among the host's functions.
pub const GUEST: &str = "guest";
/// The program's.
pub const PROGRAM: &str = "program";
/// A program of BPF, which the kernel has compiled: it has no symbol.
pub const BPF: &str = "BPF program";
/// Tasks that were switched to.
pub const ELSEWHERE: &str = "another task";

/// Folds a stream. The sum of all stacks is the number of its instructions.
///
/// # Errors
///
/// When the symbols are not those of the kernel that has executed it.
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

/// A function that was entered.
#[derive(Clone, Debug)]
struct Frame {
    name: String,
    /// Where it returns to; none for what no call has entered.
    back: Option<u64>,
    /// Whether an interrupt or an exception has entered it.
    interrupt: bool,
}

/// The functions of one task, the outermost first.
#[derive(Clone, Debug, Default)]
struct Stack(Vec<Frame>);

impl Stack {
    /// Goes back to where a function returns to, if any of them does.
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
    /// Those of the tasks that were switched from.
    parked: Vec<Stack>,
    /// Where the host goes on when its guest has exited.
    guest: Option<u64>,
    /// Where a call returns to that is still in the thunk for it.
    through: Option<u64>,
}

impl Walk<'_> {
    /// The stack of a run that comes after `last`.
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
        if is_thunk(name) && !resumed {
            // Whoever goes through it is in the function that has gone there,
            // and goes on to another.
            if let Some(last) = last
                && last.last == Kind::Call
                && !is_return(name)
                && !self
                    .symbols
                    .find(last.start)
                    .is_some_and(|(name, _)| is_thunk(name))
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

    /// Goes from the last run to a function.
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

    /// A function has gone over to another, which returns for it; or is still
    /// the same.
    fn replace(&mut self, name: &str) {
        match self.stack.0.last_mut() {
            Some(frame) => {
                if frame.name != name {
                    name.clone_into(&mut frame.name);
                }
            }
            None => self.push(name, None, false),
        }
    }

    /// A return to where none of this task's functions was called from: another
    /// task's, if the scheduler was here.
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
            let name = name.to_owned();
            self.push(&name, None, false);
        }
        true
    }

    fn shown(&self) -> String {
        let names: Vec<_> = self
            .stack
            .0
            .iter()
            .map(|frame| frame.name.as_str())
            .collect();
        names.join(";")
    }
}

/// Code that stands for a single return, jump or call, so that it cannot be
/// mistrained, or so that it can be patched.
fn is_thunk(name: &str) -> bool {
    name.starts_with("__x86_indirect_") || name.starts_with("__SCT__") || is_return(name)
}

/// Code that stands for a return: a call of it returns from its caller.
fn is_return(name: &str) -> bool {
    name.contains("return_thunk") || name.ends_with("safe_ret")
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
    fn an_interrupt_is_a_function_of_its_own() {
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
    fn what_runs_between_entry_and_exit_is_the_guest() {
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
    fn another_task_has_a_stack_of_its_own() {
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
