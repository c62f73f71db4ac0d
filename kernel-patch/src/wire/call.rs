//! How a program passes arguments to itself, in a machine or in another process, and
//! gets a value back. Both travel as JSON in files.

/// The first argument of a program that calls itself. The second is the path of the
/// file with the input.
///
/// It is an argument, not a variable, because the children of the called process
/// inherit its environment.
pub(crate) const CALL: &str = "kernel-patch-call";

/// The file of the input inside a machine.
pub(crate) const INPUT: &str = "/call.json";

/// The file of the output, in the directory whose files go to the caller.
pub(crate) const OUTPUT: &str = "output.json";
