//! The events of a call in the kernel that cost more on a processor than an instruction, and
//! the pieces of code between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind};
use serde::{Deserialize, Serialize};

use crate::code::{Decoded, LINE, PAGE, blocks};
use crate::constants::Constants;
use crate::costly;
use crate::recorder::Section;
use crate::stream::Kind;
use crate::symbols::{Symbols, Thunk, is_kernel};

/// The number of each event. An event that does not happen is absent.
pub type Events = BTreeMap<Event, u64>;

/// A kind of event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Event {
    /// A memory access that reads.
    Load,
    /// A memory access that writes.
    Store,
    /// A line of 64 bytes that is read or written.
    DataLine,
    /// A page of 4 KiB that is read or written.
    DataPage,
    /// A line of 64 bytes with executed code.
    CodeLine,
    /// A page of 4 KiB with executed code.
    CodePage,
    /// An atomic instruction: one with a LOCK prefix, or XCHG with memory.
    Locked,
    /// An indirect jump.
    IndirectJump,
    /// An indirect call.
    IndirectCall,
    /// An indirect jump or call through a retpoline.
    Retpoline,
    /// A return.
    Return,
    /// A return through a thunk.
    ReturnThunk,
    /// A static call through its trampoline. Most are patched into their callers, where they
    /// are direct calls.
    StaticCall,
    /// A costly instruction, by name.
    Instruction(String),
}

/// The names of the events that are not instructions.
const NAMES: [(Event, &str); 13] = [
    (Event::Load, "loads"),
    (Event::Store, "stores"),
    (Event::DataLine, "lines of data"),
    (Event::DataPage, "pages of data"),
    (Event::CodeLine, "lines of code"),
    (Event::CodePage, "pages of code"),
    (Event::Locked, "locked instructions"),
    (Event::IndirectJump, "indirect jumps"),
    (Event::IndirectCall, "indirect calls"),
    (Event::Retpoline, "retpolines"),
    (Event::Return, "returns"),
    (Event::ReturnThunk, "return thunks"),
    (Event::StaticCall, "static call trampolines"),
];

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(event, _)| event == self);
        match (name, self) {
            (Some((_, name)), _) => f.pad(name),
            (None, Self::Instruction(name)) => f.pad(name),
            (None, event) => unreachable!("{event:?} has a name"),
        }
    }
}

impl From<Event> for String {
    fn from(event: Event) -> Self {
        event.to_string()
    }
}

impl From<String> for Event {
    fn from(name: String) -> Self {
        let event = NAMES.into_iter().find(|(_, it)| *it == name);
        event.map_or(Self::Instruction(name), |(event, _)| event)
    }
}

/// The pieces of a call, and how often it executes each. A piece is the places of plain
/// instructions that the kernel executes one after the other. It ends at an event that
/// [`Event::cuts`].
pub type Pieces = BTreeMap<Vec<u32>, u64>;

/// The events and the pieces of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The events.
    pub events: Events,
    /// The pieces between them.
    pub pieces: Pieces,
}

impl Event {
    /// Whether a model of the processor's pipeline does not know the cost of the event.
    #[must_use]
    pub fn cuts(&self) -> bool {
        matches!(
            self,
            Self::Locked | Self::Retpoline | Self::ReturnThunk | Self::Instruction(_)
        )
    }
}

/// What an instruction counts as, whenever it is executed.
#[derive(Clone)]
struct Counted {
    thunk: Option<Thunk>,
    /// The events, but for the MSR of an instruction that accesses one.
    events: Vec<Event>,
    accesses_msr: bool,
    repeats: bool,
}

impl Counted {
    /// Whether the instruction ends a piece and belongs to none.
    fn cuts(&self) -> bool {
        self.accesses_msr
            || self.events.iter().any(Event::cuts)
            || self.thunk.is_some_and(|thunk| of_thunk(thunk).cuts())
    }
}

/// Counts the events of the sections of a recording.
pub struct Counter<'a> {
    code: &'a Decoded,
    counted: Vec<Counted>,
}

impl<'a> Counter<'a> {
    /// Makes a counter for sections whose instructions are `code`.
    #[must_use]
    pub fn new(code: &'a Decoded, symbols: &Symbols) -> Self {
        let counted = |it: &Instruction| {
            let function = symbols.find(it.ip()).map(|(name, _)| name);
            let thunk = function.and_then(Thunk::of);
            Counted {
                thunk,
                events: events(it, thunk.is_some()),
                accesses_msr: costly::accesses_msr(it),
                repeats: costly::repeats(it),
            }
        };
        let counted = code.all().iter().map(counted).collect();
        Self { code, counted }
    }

    /// Counts the events and the pieces of a section: those in the kernel, not in the program
    /// or the guest.
    #[must_use]
    pub fn count(&self, section: &Section) -> Counts {
        let accesses = section.accesses;
        let mut events = Events::from([
            (Event::Load, accesses.loads),
            (Event::Store, accesses.stores),
            (Event::DataLine, accesses.lines),
            (Event::DataPage, accesses.pages),
        ]);
        let mut add = |event| *events.entry(event).or_default() += 1;
        let (mut lines, mut pages) = (BTreeSet::new(), BTreeSet::new());
        let mut constants = Constants::new();
        let mut thunk = None;
        let mut last = None;
        let (mut pieces, mut piece) = (Pieces::new(), Vec::new());
        let mut cut = |piece: &mut Vec<u32>| {
            if !piece.is_empty() {
                *pieces.entry(std::mem::take(piece)).or_default() += 1;
            }
        };
        for place in &section.stream {
            let instruction = &self.code.all()[*place as usize];
            let counted = &self.counted[*place as usize];
            // The system call itself counts, too.
            if !is_kernel(instruction.ip()) && Kind::of(instruction) != Kind::SystemCall {
                constants.forget();
                cut(&mut piece);
                last = None;
                continue;
            }
            // An instruction that repeats itself is one.
            if last.replace(place) == Some(place) && counted.repeats {
                continue;
            }
            if counted.cuts() {
                cut(&mut piece);
            } else {
                piece.push(*place);
            }
            counted.events.iter().cloned().for_each(&mut add);
            if counted.accesses_msr {
                add(Event::Instruction(costly::of_msr(instruction, &constants)));
            }
            if thunk != counted.thunk {
                thunk = counted.thunk;
                thunk.map(of_thunk).into_iter().for_each(&mut add);
            }
            constants.execute(instruction);
            if is_kernel(instruction.ip()) {
                let (at, size) = (instruction.ip(), instruction.len() as u64);
                lines.extend(blocks(at, size, LINE));
                pages.extend(blocks(at, size, PAGE));
            }
        }
        cut(&mut piece);
        events.insert(Event::CodeLine, lines.len() as u64);
        events.insert(Event::CodePage, pages.len() as u64);
        Counts { events, pieces }
    }
}

/// The events that an instruction is.
fn events(it: &Instruction, in_thunk: bool) -> Vec<Event> {
    let mut events = Vec::new();
    let exchanges =
        it.mnemonic() == Mnemonic::Xchg && [it.op0_kind(), it.op1_kind()].contains(&OpKind::Memory);
    if it.has_lock_prefix() || exchanges {
        events.push(Event::Locked);
    }
    let branch = match (it.flow_control(), Kind::of(it)) {
        (FlowControl::IndirectBranch, _) => Some(Event::IndirectJump),
        (FlowControl::IndirectCall, Kind::Call) => Some(Event::IndirectCall),
        (_, Kind::Return) => Some(Event::Return),
        _ => None,
    };
    // The branches of a thunk are part of its own event.
    events.extend(branch.filter(|_| !in_thunk));
    events.extend(costly::name(it).map(Event::Instruction));
    events
}

fn of_thunk(thunk: Thunk) -> Event {
    match thunk {
        Thunk::Retpoline => Event::Retpoline,
        Thunk::Return => Event::ReturnThunk,
        Thunk::StaticCall => Event::StaticCall,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Code;
    use crate::marker::Marker;
    use crate::recorder::{Recorder, Recording};

    const KERNEL: u64 = 0xffff_ffff_8100_0000;
    const SYMBOLS: &str = "\
        ffffffff81000000 T entry_SYSCALL_64\n\
        ffffffff81000100 T __x86_indirect_thunk_rax\n\
        ffffffff81000200 T __x86_return_thunk\n\
        ffffffff81000300 T _etext\n";

    /// Counts the events and pieces of instructions at these addresses.
    fn counts(code: &[(u64, &[u8])]) -> Counts {
        let mut recorder = Recorder::default();
        recorder.mark(0, Marker::Section);
        recorder.mark(0, Marker::Begin);
        for (pc, bytes) in code {
            let place = recorder.place(Code {
                pc: *pc,
                bytes: bytes.to_vec(),
            });
            recorder.execute(0, place);
        }
        recorder.mark(0, Marker::End);
        let Recording { code, sections } = recorder.finish();
        let (code, symbols) = (Decoded::new(&code), Symbols::parse(SYMBOLS, "").unwrap());
        Counter::new(&code, &symbols).count(&sections[0])
    }

    /// Counts the events of instructions at these addresses, by name.
    fn count(code: &[(u64, &[u8])]) -> BTreeMap<String, u64> {
        let events = counts(code).events.into_iter();
        let events = events.filter(|(_, count)| *count > 0);
        events.map(|(it, count)| (it.to_string(), count)).collect()
    }

    fn expect(events: &[(&str, u64)]) -> BTreeMap<String, u64> {
        let owned = events.iter().map(|(name, n)| ((*name).to_owned(), *n));
        owned.collect()
    }

    #[test]
    fn an_msr_is_known_by_its_constant() {
        let found = count(&[
            (KERNEL, &[0xb9, 0x48, 0, 0, 0]),
            (KERNEL + 5, &[0x0f, 0x30]),
            (KERNEL + 7, &[0x8b, 0x08]),
            (KERNEL + 9, &[0x0f, 0x32]),
            // cpuid changes ECX, too.
            (KERNEL + 11, &[0x0f, 0xa2]),
        ]);
        let expected = [
            ("cpuid", 1),
            ("lines of code", 1),
            ("pages of code", 1),
            ("rdmsr of a variable MSR", 1),
            ("wrmsr IA32_SPEC_CTRL", 1),
        ];
        assert_eq!(found, expect(&expected));
    }

    #[test]
    fn a_thunk_is_one_event() {
        let found = count(&[
            // call *%rax; jmp *%rax; ret
            (KERNEL, &[0xff, 0xd0]),
            (KERNEL + 2, &[0xff, 0xe0]),
            (KERNEL + 4, &[0xc3]),
            // A call of the retpoline, which calls and returns.
            (KERNEL + 5, &[0xe8, 0xf6, 0, 0, 0]),
            (KERNEL + 0x100, &[0xe8, 1, 0, 0, 0]),
            (KERNEL + 0x106, &[0xc3]),
            (KERNEL + 10, &[0xe9, 0xf1, 1, 0, 0]),
            (KERNEL + 0x200, &[0xc3]),
        ]);
        let expected = [
            ("indirect calls", 1),
            ("indirect jumps", 1),
            ("lines of code", 3),
            ("pages of code", 1),
            ("retpolines", 1),
            ("return thunks", 1),
            ("returns", 1),
        ];
        assert_eq!(found, expect(&expected));
    }

    #[test]
    fn the_program_and_the_guest_do_not_count() {
        let found = count(&[
            // lock incl (%rax); syscall
            (0x1000, &[0xf0, 0xff, 0x00]),
            (0x1003, &[0x0f, 0x05]),
            // lock incl (%rax); xchg %eax,(%rax); mov %cr3,%rax; vmrun
            (KERNEL + 0x3e, &[0xf0, 0xff, 0x00]),
            (KERNEL + 0x41, &[0x87, 0x00]),
            (KERNEL + 0x43, &[0x0f, 0x20, 0xd8]),
            (KERNEL + 0x46, &[0x0f, 0x01, 0xd8]),
            (0x1005, &[0xf0, 0xff, 0x00]),
        ]);
        let expected = [
            ("lines of code", 2),
            ("locked instructions", 2),
            ("pages of code", 1),
            ("read of a control register", 1),
            ("syscall", 1),
            ("vmrun", 1),
        ];
        assert_eq!(found, expect(&expected));
    }

    #[test]
    fn pieces_end_at_events_of_their_own_cost() {
        let counts = counts(&[
            // syscall; mov (%rax),%ecx; call *%rax
            (0x1003, &[0x0f, 0x05]),
            (KERNEL, &[0x8b, 0x08]),
            (KERNEL + 2, &[0xff, 0xd0]),
            // lock incl (%rax); ret
            (KERNEL + 4, &[0xf0, 0xff, 0x00]),
            (KERNEL + 7, &[0xc3]),
            // A return thunk, vmrun, a guest's instruction, and a return to the program.
            (KERNEL + 0x200, &[0xc3]),
            (KERNEL + 0x46, &[0x0f, 0x01, 0xd8]),
            (0x100, &[0x90]),
            (KERNEL + 0x49, &[0x90]),
            (0x1005, &[0x90]),
        ]);
        let expected = [vec![1, 2], vec![4], vec![8]].map(|piece| (piece, 1));
        assert_eq!(counts.pieces, Pieces::from(expected));
    }

    #[test]
    fn an_instruction_that_repeats_itself_counts_once() {
        let movs: (u64, &[u8]) = (KERNEL, &[0xf3, 0xa4]);
        let found = count(&[movs, movs, (KERNEL + 2, &[0x90]), movs]);
        let expected = [("lines of code", 1), ("pages of code", 1), ("rep movsb", 2)];
        assert_eq!(found, expect(&expected));
    }

    #[test]
    fn each_event_is_known_by_its_name() {
        let other = Event::Instruction("swapgs".into());
        for event in NAMES.map(|(event, _)| event).into_iter().chain([other]) {
            assert_eq!(Event::from(String::from(event.clone())), event);
        }
    }
}
