//! The names of a kernel's functions.

use std::ops::Range;

use anyhow::{Result, ensure};

/// The functions in `/proc/kallsyms`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Symbols {
    /// The address and the name of each function of the kernel and its modules, sorted.
    functions: Vec<(u64, String)>,
    /// The address ranges of functions: the kernel and its modules.
    places: Vec<Range<u64>>,
}

/// The function by which a system call enters the kernel.
pub const ENTRY: &str = "entry_SYSCALL_64";

/// The first address of the kernel's half.
const KERNEL: u64 = 1 << 63;

/// Whether an address belongs to the kernel.
#[must_use]
pub fn is_kernel(address: u64) -> bool {
    address >= KERNEL
}

/// A function through which the kernel makes a jump, a call or a return, against
/// speculation or to be able to patch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thunk {
    /// An indirect jump or call.
    Retpoline,
    /// A return. A jump to the thunk returns from its caller.
    Return,
    /// A static call that is not patched into its caller.
    StaticCall,
}

impl Thunk {
    /// The thunk that a function is, if it is one.
    #[must_use]
    pub fn of(function: &str) -> Option<Self> {
        if function.contains("return_thunk") || function.ends_with("safe_ret") {
            Some(Self::Return)
        } else if function.starts_with("__x86_indirect_") {
            Some(Self::Retpoline)
        } else if function.starts_with("__SCT__") {
            Some(Self::StaticCall)
        } else {
            None
        }
    }
}

impl Symbols {
    /// Parses `/proc/kallsyms` and `/proc/modules`.
    ///
    /// # Errors
    ///
    /// If there are no functions, or if their addresses are hidden.
    pub fn parse(kallsyms: &str, modules: &str) -> Result<Self> {
        let mut functions: Vec<_> = kallsyms.lines().filter_map(function).collect();
        ensure!(!functions.is_empty(), "/proc/kallsyms names no function");
        ensure!(
            functions.iter().any(|(address, _)| *address != 0),
            "/proc/kallsyms hides its addresses (kernel.kptr_restrict)"
        );
        functions.sort();
        // The kernel has no functions after the end of its text.
        let end = functions.iter().find(|(_, name)| name == "_etext");
        let end = end.map_or(u64::MAX, |(address, _)| *address);
        functions.dedup_by_key(|(address, _)| *address);
        let mut places: Vec<_> = modules.lines().filter_map(place).collect();
        places.push(KERNEL..end);
        Ok(Self { functions, places })
    }

    /// Returns the function of an address, and whether it is the first address.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<(&str, bool)> {
        let functions = &self.functions;
        self.places.iter().find(|place| place.contains(&address))?;
        let after = functions.partition_point(|(start, _)| *start <= address);
        let (start, name) = &functions[after.checked_sub(1)?];
        Some((name, *start == address))
    }
}

/// Parses the function in a line, if there is one.
fn function(line: &str) -> Option<(u64, String)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let kind = words.next()?;
    let name = words.next()?;
    let is_function = matches!(kind, "t" | "T" | "w" | "W");
    is_function.then(|| (address, whole(name).to_owned()))
}

/// Parses the address range of the module in a line.
fn place(line: &str) -> Option<Range<u64>> {
    // Name, size, number of users, users, state, address.
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let size: u64 = words.get(1)?.parse().ok()?;
    let address = words.get(5)?.strip_prefix("0x")?;
    let address = u64::from_str_radix(address, 16).ok()?;
    Some(address..address.checked_add(size)?)
}

/// Returns the function that a symbol is a part of. Compilers move cold code elsewhere, and
/// the entry of system calls has names for its parts.
fn whole(name: &str) -> &str {
    // The name by which the code that starts the kernel calls the function.
    let name = name.strip_prefix("__pi_").unwrap_or(name);
    // Clones of a function have a suffix, too.
    let function = name.split('.').next().unwrap_or(name);
    if function.starts_with("entry_SYSCALL_64_") {
        ENTRY
    } else {
        function
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KALLSYMS: &str = "\
        ffffffff81000000 T startup_64\n\
        ffffffff81000100 t helper.constprop.0.cold\n\
        ffffffff81000200 D some_data\n\
        ffffffff81000300 W weak\n\
        ffffffff81000340 T __pi_memcpy\n\
        ffffffff81000340 T memcpy\n\
        ffffffff81000400 T _etext\n\
        ffffffffc0000000 t kvm_vcpu_ioctl\t[kvm]\n";
    const MODULES: &str = "kvm 4096 1 kvm_amd, Live 0xffffffffc0000000\n";

    #[test]
    fn an_address_is_in_the_function_before_it() {
        let symbols = Symbols::parse(KALLSYMS, MODULES).unwrap();
        let find = |address| symbols.find(address);
        assert_eq!(find(0xffff_ffff_8100_0000), Some(("startup_64", true)));
        assert_eq!(find(0xffff_ffff_8100_00ff), Some(("startup_64", false)));
        assert_eq!(find(0xffff_ffff_8100_0101), Some(("helper", false)));
        assert_eq!(find(0xffff_ffff_8100_0204), Some(("helper", false)));
        assert_eq!(find(0xffff_ffff_8100_0300), Some(("weak", true)));
        assert_eq!(find(0xffff_ffff_8100_0340), Some(("memcpy", true)));
        assert_eq!(find(0xffff_ffff_c000_0001), Some(("kvm_vcpu_ioctl", false)));
        assert_eq!(find(0x1000), None);
        assert_eq!(find(0xffff_ffff_8100_0400), None);
        assert_eq!(find(0xffff_ffff_c000_1000), None);
    }

    #[test]
    fn a_file_without_addresses_is_refused() {
        let error = |text| Symbols::parse(text, "").unwrap_err().to_string();
        assert!(error("").contains("names no function"));
        assert!(error("0000000000000000 T startup_64\n").contains("hides"));
    }
}
