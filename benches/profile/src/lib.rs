//! Where the instructions of a call go.
//!
//! A bench puts [`mark!`]s around each call. The recorder, which is loaded into
//! the emulator, hands every instruction between them to a [`Recorder`], which
//! keeps the stream of the most common outcome. With the machine's own
//! [`Symbols`], [`fold()`] makes stacks of functions of it.

pub mod fold;
pub mod marker;
pub mod recorder;
pub mod stream;
mod symbols;

pub use fold::{Folded, fold};
pub use recorder::{Recorder, Section};
pub use symbols::Symbols;
