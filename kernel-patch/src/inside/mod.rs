//! What runs inside the machine, as its first process or for its caller.

pub(crate) mod call;
pub(crate) mod counts;
pub(crate) mod init;
pub(crate) mod ports;
