//! Cycles on real processors: a model, made of the recorded events, of llvm-mca's estimates
//! for the instructions between them, and of published costs. docs/hardware.md says what it
//! leaves out.

pub mod costs;
mod model;
pub mod plain;

pub use costs::Costs;
pub use model::{Interval, Model};
pub use plain::Plain;
