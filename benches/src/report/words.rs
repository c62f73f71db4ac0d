//! Words for rows and for lists of things.

use std::borrow::Borrow;
use std::fmt::Display;

pub const EXIT: &str = "kvm_run_pio_out";
pub const REGS: &str = "kvm_get_regs";
pub const THREADS: &str = "vcpu_changes_threads";
pub const LOOP: &str = "emulation_loop";
pub const REGISTERS: &str = "registers_read_written";
pub const SAVED: &str = "vcpu_saved_restored";
pub const MAPPED: &str = "memory_mapped";
pub const REPLACED: &str = "page_replaced";
pub const SWITCHED: &str = "dirty_log_switched";
pub const FETCHED: &str = "dirty_pages_fetched";

/// The work of a row, as the end of a sentence.
pub fn work(row: &str) -> &str {
    match row {
        EXIT => "an exit to user space",
        REGS => "kvm_get_regs",
        LOOP => "the emulation loop",
        REGISTERS => "reading and writing all registers",
        SAVED => "saving and restoring a vCPU",
        REPLACED => "replacing one page",
        MAPPED => "mapping and unmapping memory",
        SWITCHED => "beginning and ending a dirty log",
        FETCHED => "fetching the dirty log",
        other => other,
    }
}

/// A list in words.
pub fn listed<S: Borrow<str> + Display>(items: &[S]) -> String {
    match items {
        [] => String::new(),
        [item] => item.to_string(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}
