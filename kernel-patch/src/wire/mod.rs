//! What both sides of a machine's boundary share: the files and ports by which they
//! talk, and the format of what passes.

pub(crate) mod call;
pub(crate) mod job;
pub(crate) mod line;
