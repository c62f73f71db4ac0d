//! Profiles of calls: the functions of their instructions.
//!
//! A bench puts [`mark!`]s around each call. The QEMU plugin passes each instruction between
//! them to a [`Recorder`], which keeps the most common stream. [`fold()`] makes stacks of
//! functions of the stream, with the machine's own [`Symbols`].

pub mod fold;
pub mod marker;
pub mod recorder;
pub mod stream;
mod symbols;

pub use fold::{Folded, fold};
pub use recorder::{Recorder, Section};
pub use symbols::Symbols;
