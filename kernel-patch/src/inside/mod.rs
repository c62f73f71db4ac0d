//! The code that runs inside the machine, as its first process or for a caller.

pub(crate) mod call;
pub(crate) mod counts;
pub(crate) mod host_root;
pub(crate) mod init;
pub(crate) mod ports;
pub(crate) mod streams;
