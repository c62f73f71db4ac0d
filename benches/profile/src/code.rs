//! The instructions of a recording.

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};
use serde::{Deserialize, Serialize};

use crate::stream::{Instruction, Kind, Stream};

/// The size of a cache line, as a power of two.
pub const LINE: u32 = 6;
/// The size of a page, as a power of two.
pub const PAGE: u32 = 12;

/// An instruction in memory. If the kernel patches an instruction, each version is one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Code {
    /// The address.
    pub pc: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The decoded instructions of a recording, by place.
pub struct Decoded(Vec<iced_x86::Instruction>);

impl Decoded {
    /// Decodes instructions as 64-bit code. A guest's instructions may be other ones, but
    /// nothing looks at them.
    #[must_use]
    pub fn new(code: &[Code]) -> Self {
        let decode = |code: &Code| {
            let mut decoder = Decoder::with_ip(64, &code.bytes, code.pc, DecoderOptions::NONE);
            let mut instruction = decoder.decode();
            // The processor knows the length, even if the decoder does not.
            instruction.set_len(code.bytes.len());
            instruction
        };
        Self(code.iter().map(decode).collect())
    }

    /// All instructions, by place.
    #[must_use]
    pub fn all(&self) -> &[iced_x86::Instruction] {
        &self.0
    }

    /// An instruction in the GNU assembler's syntax.
    #[must_use]
    pub fn assembly(&self, place: u32) -> String {
        let mut formatter = GasFormatter::new();
        let options = formatter.options_mut();
        options.set_rip_relative_addresses(true);
        options.set_gas_show_mnemonic_size_suffix(true);
        let mut text = String::new();
        formatter.format(&self.0[place as usize], &mut text);
        text
    }

    /// The stream of a section.
    #[must_use]
    pub fn stream(&self, places: &[u32]) -> Stream {
        let mut stream = Stream::default();
        for place in places {
            let it = &self.0[*place as usize];
            stream.push(Instruction {
                pc: it.ip(),
                len: it.len() as u8,
                kind: Kind::of(it),
            });
        }
        stream
    }
}

/// The numbers of the blocks of 2^`order` bytes that a range of `size` bytes has a part in.
pub(crate) fn blocks(address: u64, size: u64, order: u32) -> impl Iterator<Item = u64> {
    let last = address.saturating_add(size.max(1) - 1);
    (address >> order)..=(last >> order)
}
