//! The instructions and the memory accesses between marks, by section.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::code::{Code, LINE, PAGE, blocks};
use crate::marker::Marker;
use crate::symbols::is_kernel;

/// What a [`Recorder`] has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// Each instruction of the sections' streams once, in the order of execution.
    pub code: Vec<Code>,
    /// The sections, in the order of execution.
    pub sections: Vec<Section>,
}

/// The recording of one section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// The numbers of instructions of the calls, the most common first.
    pub variants: Vec<Variant>,
    /// The most common stream among those with the most common number of instructions: the
    /// place of each executed instruction in [`Recording::code`].
    pub stream: Vec<u32>,
    /// The number of calls with exactly this stream.
    pub calls: u64,
    /// The most common accesses of these calls.
    pub accesses: Accesses,
}

/// The calls with the same number of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// The number of instructions.
    pub instructions: u64,
    /// The number of calls.
    pub calls: u64,
}

/// The memory accesses of one call by the kernel. The emulator's unit is an access: a
/// processor makes fewer if it saves registers with one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Accesses {
    /// The number of accesses that read.
    pub loads: u64,
    /// The number of accesses that write.
    pub stores: u64,
    /// The number of different lines of 64 bytes, by virtual address.
    pub lines: u64,
    /// The number of different pages of 4 KiB, by virtual address.
    pub pages: u64,
}

/// One call.
#[derive(Clone, Debug, Default)]
struct Call {
    stream: Vec<u32>,
    loads: u64,
    stores: u64,
    lines: Vec<u64>,
}

impl Call {
    fn accesses(&mut self) -> Accesses {
        self.lines.sort_unstable();
        self.lines.dedup();
        let lines = self.lines.len();
        self.lines.dedup_by_key(|line| *line >> (PAGE - LINE));
        Accesses {
            loads: self.loads,
            stores: self.stores,
            lines: lines as u64,
            pages: self.lines.len() as u64,
        }
    }
}

/// The calls of an open section, by stream.
#[derive(Default)]
struct Seen(HashMap<Vec<u32>, Calls>);

/// The calls with the same stream.
struct Calls {
    /// The number of streams that were seen before.
    order: usize,
    /// The number of calls with the same accesses.
    accesses: BTreeMap<Accesses, u64>,
}

impl Calls {
    fn number(&self) -> u64 {
        self.accesses.values().sum()
    }
}

impl Seen {
    fn add(&mut self, mut call: Call) {
        let (accesses, order) = (call.accesses(), self.0.len());
        let calls = self.0.entry(call.stream).or_insert_with(|| Calls {
            order,
            accesses: BTreeMap::new(),
        });
        *calls.accesses.entry(accesses).or_default() += 1;
    }

    fn close(self) -> Section {
        let mut variants: HashMap<u64, u64> = HashMap::new();
        for (stream, calls) in &self.0 {
            *variants.entry(stream.len() as u64).or_default() += calls.number();
        }
        let variant = |(instructions, calls)| Variant {
            instructions,
            calls,
        };
        let mut variants: Vec<_> = variants.into_iter().map(variant).collect();
        variants.sort_by_key(|it| (u64::MAX - it.calls, it.instructions));
        let Some(mode) = variants.first().map(|it| it.instructions) else {
            return Section::default();
        };
        let common = self.0.into_iter();
        let common = common.filter(|(stream, _)| stream.len() as u64 == mode);
        let (stream, calls) = common
            .min_by_key(|(_, calls)| (u64::MAX - calls.number(), calls.order))
            .expect("one has the most common number");
        // Of two that are equally common, the smaller one.
        let accesses = calls.accesses.iter();
        let accesses = accesses.min_by_key(|(accesses, calls)| (u64::MAX - **calls, **accesses));
        Section {
            variants,
            stream,
            calls: calls.number(),
            accesses: *accesses.expect("a call was made").0,
        }
    }
}

/// Records the instructions and the memory accesses of a machine.
#[derive(Default)]
pub struct Recorder {
    /// The place of each instruction in `code`.
    places: HashMap<Code, u32>,
    code: Vec<Code>,
    closed: Vec<Section>,
    open: Option<Seen>,
    /// The call of each processor since its last [`Marker::Begin`].
    processors: Vec<Option<Call>>,
}

impl Recorder {
    /// Returns the number by which [`Self::execute`] knows an instruction.
    ///
    /// # Panics
    ///
    /// If there are 2^32 instructions.
    pub fn place(&mut self, code: Code) -> u32 {
        *self.places.entry(code).or_insert_with_key(|code| {
            self.code.push(code.clone());
            u32::try_from(self.code.len() - 1).expect("a machine has fewer instructions")
        })
    }

    /// Records that a processor executes a mark.
    pub fn mark(&mut self, processor: usize, marker: Marker) {
        match marker {
            Marker::Section => {
                self.close();
                self.open = Some(Seen::default());
            }
            Marker::Close => self.close(),
            Marker::Discard => drop(self.closed.pop()),
            Marker::Begin => *self.processor(processor) = Some(Call::default()),
            Marker::End => {
                let call = self.processor(processor).take();
                if let (Some(seen), Some(call)) = (&mut self.open, call) {
                    seen.add(call);
                }
            }
        }
    }

    /// Records that a processor executes another instruction.
    pub fn execute(&mut self, processor: usize, place: u32) {
        if let Some(Some(call)) = self.processors.get_mut(processor) {
            call.stream.push(place);
        }
    }

    /// Records that the instruction that a processor executes accesses memory. Only the
    /// kernel's accesses count, not those of the program or of the guest.
    pub fn access(&mut self, processor: usize, address: u64, size: u64, is_store: bool) {
        let Some(Some(call)) = self.processors.get_mut(processor) else {
            return;
        };
        let by = call.stream.last().map(|place| &self.code[*place as usize]);
        if !by.is_some_and(|code| is_kernel(code.pc)) {
            return;
        }
        *if is_store {
            &mut call.stores
        } else {
            &mut call.loads
        } += 1;
        call.lines.extend(blocks(address, size, LINE));
    }

    /// Returns the recording.
    #[must_use]
    pub fn finish(mut self) -> Recording {
        self.close();
        let mut kept = Recording::default();
        let mut places = HashMap::new();
        for mut section in self.closed {
            for place in &mut section.stream {
                *place = *places.entry(*place).or_insert_with_key(|place| {
                    kept.code.push(self.code[*place as usize].clone());
                    kept.code.len() as u32 - 1
                });
            }
            kept.sections.push(section);
        }
        kept
    }

    fn close(&mut self) {
        self.closed.extend(self.open.take().map(Seen::close));
    }

    fn processor(&mut self, processor: usize) -> &mut Option<Call> {
        if processor >= self.processors.len() {
            self.processors.resize(processor + 1, None);
        }
        &mut self.processors[processor]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The addresses of the kernel.
    const KERNEL: u64 = 0xffff_ffff_8100_0000;

    fn execute(recorder: &mut Recorder, processor: usize, pc: u64) {
        let bytes = vec![0x90];
        let place = recorder.place(Code { pc, bytes });
        recorder.execute(processor, place);
    }

    fn call(recorder: &mut Recorder, processor: usize, pcs: impl IntoIterator<Item = u64>) {
        recorder.mark(processor, Marker::Begin);
        for pc in pcs {
            execute(recorder, processor, pc);
        }
        recorder.mark(processor, Marker::End);
    }

    #[test]
    fn the_most_common_stream_of_the_most_common_length_is_kept() {
        let mut recorder = Recorder::default();
        recorder.mark(0, Marker::Section);
        // An interrupt makes the first call longer.
        call(&mut recorder, 0, 0..9);
        for start in [10, 20, 20, 30] {
            call(&mut recorder, 0, start..start + 4);
        }
        call(&mut recorder, 0, 40..42);
        let recording = recorder.finish();
        let [section] = recording.sections.try_into().unwrap();
        let variants: Vec<_> = section
            .variants
            .iter()
            .map(|it| (it.instructions, it.calls))
            .collect();
        assert_eq!(variants, [(4, 4), (2, 1), (9, 1)]);
        assert_eq!((section.stream, section.calls), (vec![0, 1, 2, 3], 2));
        // The code of other streams is not kept.
        let pcs: Vec<_> = recording.code.iter().map(|it| it.pc).collect();
        assert_eq!(pcs, [20, 21, 22, 23]);
    }

    #[test]
    fn a_patched_instruction_is_another_one() {
        let mut recorder = Recorder::default();
        let places = [0x90, 0xcc, 0x90].map(|byte| {
            let bytes = vec![byte];
            recorder.place(Code { pc: KERNEL, bytes })
        });
        assert_eq!(places, [0, 1, 0]);
    }

    #[test]
    fn the_most_common_accesses_of_the_kernel_are_kept() {
        let mut recorder = Recorder::default();
        recorder.mark(0, Marker::Section);
        for last in [0x2000, 0x3000, 0x3000] {
            recorder.mark(0, Marker::Begin);
            // The program.
            execute(&mut recorder, 0, 0x40_1000);
            recorder.access(0, 0x9000, 8, true);
            execute(&mut recorder, 0, KERNEL);
            recorder.access(0, 0x1000, 8, false);
            recorder.access(0, 0x1038, 8, true);
            // In two lines.
            recorder.access(0, 0x103c, 8, true);
            recorder.access(0, last, 1, false);
            recorder.mark(0, Marker::End);
        }
        // In no call.
        recorder.access(0, 0x5000, 1, false);
        let recording = recorder.finish();
        let expected = Accesses {
            loads: 2,
            stores: 2,
            lines: 3,
            pages: 2,
        };
        assert_eq!(recording.sections[0].accesses, expected);
    }

    #[test]
    fn another_processor_does_not_count() {
        let mut recorder = Recorder::default();
        recorder.mark(1, Marker::Section);
        recorder.mark(1, Marker::Begin);
        execute(&mut recorder, 0, 1);
        execute(&mut recorder, 1, 2);
        // This processor has not begun.
        recorder.mark(0, Marker::End);
        recorder.mark(1, Marker::End);
        execute(&mut recorder, 1, 3);
        let [section] = recorder.finish().sections.try_into().unwrap();
        assert_eq!(section.stream.len(), 1);
        assert_eq!(section.variants.len(), 1);
    }

    #[test]
    fn instructions_between_two_sections_belong_to_none() {
        let mut recorder = Recorder::default();
        recorder.mark(0, Marker::Section);
        call(&mut recorder, 0, 5..7);
        recorder.mark(0, Marker::Close);
        call(&mut recorder, 0, 5..9);
        let sections = recorder.finish().sections;
        assert_eq!(sections.len(), 1);
        assert_eq!(sections[0].variants.len(), 1);
    }

    #[test]
    fn a_section_can_be_discarded() {
        let mut recorder = Recorder::default();
        for first in [5, 7] {
            recorder.mark(0, Marker::Section);
            call(&mut recorder, 0, [first]);
            recorder.mark(0, Marker::Close);
        }
        recorder.mark(0, Marker::Discard);
        let recording = recorder.finish();
        assert_eq!((recording.sections.len(), recording.code[0].pc), (1, 5));
    }

    #[test]
    fn a_call_that_does_not_end_is_forgotten() {
        let mut recorder = Recorder::default();
        recorder.mark(0, Marker::Section);
        recorder.mark(0, Marker::Begin);
        execute(&mut recorder, 0, 1);
        call(&mut recorder, 0, 5..7);
        recorder.mark(0, Marker::Section);
        let sections = recorder.finish().sections;
        assert_eq!(sections[0].stream.len(), 2);
        assert_eq!(sections[1], Section::default());
    }
}
