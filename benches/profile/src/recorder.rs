//! The instructions between marks, by section.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde::{Deserialize, Serialize};

use crate::marker::Marker;
use crate::stream::{Instruction, Stream};

/// The recording of one section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// The numbers of instructions of the calls, the most common first.
    pub variants: Vec<Variant>,
    /// The most common stream among those with the most common number of instructions.
    pub stream: Stream,
    /// The number of calls with exactly this stream.
    pub calls: u64,
}

/// The calls with the same number of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// The number of instructions.
    pub instructions: u64,
    /// The number of calls.
    pub calls: u64,
}

/// The streams of an open section, each with its number of calls and its order.
#[derive(Default)]
struct Seen(HashMap<Stream, (u64, usize)>);

impl Seen {
    fn add(&mut self, stream: Stream) {
        let order = self.0.len();
        match self.0.entry(stream) {
            Entry::Occupied(entry) => entry.into_mut().0 += 1,
            Entry::Vacant(entry) => {
                entry.insert((1, order));
            }
        }
    }

    fn close(self) -> Section {
        let mut variants: Vec<Variant> = Vec::new();
        for (stream, (calls, _)) in &self.0 {
            let instructions = stream.count();
            match variants
                .iter_mut()
                .find(|it| it.instructions == instructions)
            {
                Some(variant) => variant.calls += calls,
                None => variants.push(Variant {
                    instructions,
                    calls: *calls,
                }),
            }
        }
        variants.sort_by_key(|it| (u64::MAX - it.calls, it.instructions));
        let Some(mode) = variants.first().map(|it| it.instructions) else {
            return Section::default();
        };
        let mut best: Option<(Stream, u64, usize)> = None;
        for (stream, (calls, order)) in self.0 {
            let better = best
                .as_ref()
                .is_none_or(|(_, most, first)| calls > *most || calls == *most && order < *first);
            if stream.count() == mode && better {
                best = Some((stream, calls, order));
            }
        }
        let (stream, calls, _) = best.expect("one has the most common number");
        Section {
            variants,
            stream,
            calls,
        }
    }
}

/// Records the instructions of a machine.
#[derive(Default)]
pub struct Recorder {
    closed: Vec<Section>,
    open: Option<Seen>,
    /// The stream of each processor since its last [`Marker::Begin`].
    processors: Vec<Option<Stream>>,
}

impl Recorder {
    /// Records that a processor executes a mark.
    pub fn mark(&mut self, processor: usize, marker: Marker) {
        match marker {
            Marker::Section => {
                self.close();
                self.open = Some(Seen::default());
            }
            Marker::Close => self.close(),
            Marker::Begin => *self.processor(processor) = Some(Stream::default()),
            Marker::End => {
                let stream = self.processor(processor).take();
                if let (Some(seen), Some(stream)) = (&mut self.open, stream) {
                    seen.add(stream);
                }
            }
        }
    }

    /// Records that a processor executes another instruction.
    pub fn execute(&mut self, processor: usize, instruction: Instruction) {
        if let Some(Some(stream)) = self.processors.get_mut(processor) {
            stream.push(instruction);
        }
    }

    /// Returns the recording by section.
    #[must_use]
    pub fn finish(mut self) -> Vec<Section> {
        self.close();
        self.closed
    }

    fn close(&mut self) {
        self.closed.extend(self.open.take().map(Seen::close));
    }

    fn processor(&mut self, processor: usize) -> &mut Option<Stream> {
        if processor >= self.processors.len() {
            self.processors.resize(processor + 1, None);
        }
        &mut self.processors[processor]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Kind;

    fn call(recorder: &mut Recorder, processor: usize, pcs: impl IntoIterator<Item = u64>) {
        recorder.mark(processor, Marker::Begin);
        for pc in pcs {
            recorder.execute(processor, plain(pc));
        }
        recorder.mark(processor, Marker::End);
    }

    fn plain(pc: u64) -> Instruction {
        let (len, kind) = (1, Kind::Plain);
        Instruction { pc, len, kind }
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
        let [section] = recorder.finish().try_into().unwrap();
        let variants: Vec<_> = section
            .variants
            .iter()
            .map(|it| (it.instructions, it.calls))
            .collect();
        assert_eq!(variants, [(4, 4), (2, 1), (9, 1)]);
        assert_eq!(section.stream.0[0].start, 20);
        assert_eq!(section.calls, 2);
    }

    #[test]
    fn another_processor_does_not_count() {
        let mut recorder = Recorder::default();
        recorder.mark(1, Marker::Section);
        recorder.mark(1, Marker::Begin);
        recorder.execute(0, plain(1));
        recorder.execute(1, plain(2));
        // This processor has not begun.
        recorder.mark(0, Marker::End);
        recorder.mark(1, Marker::End);
        recorder.execute(1, plain(3));
        let [section] = recorder.finish().try_into().unwrap();
        assert_eq!(section.stream.count(), 1);
        assert_eq!(section.variants.len(), 1);
    }

    #[test]
    fn instructions_between_two_sections_belong_to_none() {
        let mut recorder = Recorder::default();
        recorder.mark(0, Marker::Section);
        call(&mut recorder, 0, 5..7);
        recorder.mark(0, Marker::Close);
        call(&mut recorder, 0, 5..9);
        let sections = recorder.finish();
        assert_eq!(sections.len(), 1);
        assert_eq!(sections[0].variants.len(), 1);
    }

    #[test]
    fn a_call_that_does_not_end_is_forgotten() {
        let mut recorder = Recorder::default();
        recorder.mark(0, Marker::Section);
        recorder.mark(0, Marker::Begin);
        recorder.execute(0, plain(1));
        call(&mut recorder, 0, 5..7);
        recorder.mark(0, Marker::Section);
        let sections = recorder.finish();
        assert_eq!(sections[0].stream.count(), 2);
        assert_eq!(sections[1], Section::default());
    }
}
