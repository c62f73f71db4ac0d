//! The protocol between the host and a machine: the files and ports by which they talk,
//! and the formats of the data.

pub(crate) mod call;
pub(crate) mod job;
pub(crate) mod line;
