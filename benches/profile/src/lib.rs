//! Profiles of calls: the functions of their instructions, and the events that cost more
//! than an instruction.
//!
//! A bench puts [`mark!`]s around each call. The QEMU plugin passes each instruction between
//! them, and each memory access, to a [`Recorder`], which keeps the most common stream.
//! [`fold()`] makes stacks of functions of the stream, with the machine's own [`Symbols`].
//! A [`Counter`] counts its events and the pieces between them.

pub mod code;
mod constants;
mod costly;
pub mod events;
pub mod fold;
pub mod marker;
pub mod recorder;
pub mod stream;
mod symbols;

pub use code::{Code, Decoded};
pub use events::{Counter, Counts, Event, Events, Pieces};
pub use fold::{Folded, fold};
pub use recorder::{Recorder, Recording, Section};
pub use symbols::Symbols;
