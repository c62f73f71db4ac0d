//! Numbers at and beyond their limits.

use guests::MEMORY;
use kvm_sys::FlatCall::*;
use kvm_sys::MergedCall::*;
use kvm_sys::RangeCall::*;
use kvm_sys::{KVM_ALIAS_SLOTS, KVM_CAP_SYSCALLS, KVM_SYSCALLS_ABI, ProcessCall};
use nix::errno::Errno::*;

use self::Limit::*;
use super::expected::Expectation::{Fails, Gives, Works};
use super::expected::Route;
use super::expected::{Expected, both, differs, ioctl_only, nothing};
use super::misuse::{Made, Misuse};
use super::signature::{Kind, Place, arguments, arguments_of};
use super::testbed::{FREE, Facts, KERNEL_MEMORY, KERNEL_SIZE, PAGE, RANGE};
use crate::tested_call::TestedCall;
use crate::tested_call::TestedCall::*;

/// The largest valid number.
#[derive(Clone, Copy)]
pub enum Limit {
    Is(u64),
    /// `KVM_CAP_NR_MEMSLOTS`, less 1.
    LastSlot,
    /// `KVM_CAP_MAX_VCPU_ID`, less 1.
    LastVcpuId,
    /// The number of MSRs that `kvm_get_msr_index_list` lists. Room for fewer
    /// is too little.
    Listed,
    /// The address of the last page that the processor can address.
    LastPage,
}

impl Limit {
    fn find(self, facts: &Facts) -> u64 {
        match self {
            Is(number) => number,
            LastSlot => facts.slots - 1,
            LastVcpuId => facts.vcpu_ids - 1,
            Listed => facts.listed_msrs,
            LastPage => (1 << facts.physical_bits) - PAGE,
        }
    }

    fn text(self) -> String {
        match self {
            Is(number) if number > 0xffff => format!("{number:#x}"),
            Is(number) => number.to_string(),
            LastSlot => "`KVM_CAP_NR_MEMSLOTS` - 1".into(),
            LastVcpuId => "`KVM_CAP_MAX_VCPU_ID` - 1".into(),
            Listed => "the number of listed MSRs".into(),
            LastPage => "the last physical page".into(),
        }
    }
}

/// A number that calls take, and the expected result at each point.
pub struct Number {
    pub calls: &'static [TestedCall],
    pub name: &'static str,
    pub limit: Limit,
    /// The distance between two numbers that are valid.
    pub step: u64,
    pub zero: Expected,
    pub one: Expected,
    pub below: Expected,
    pub at: Expected,
    pub above: Expected,
    pub most: Expected,
    /// Other points.
    pub more: &'static [(u64, Expected)],
}

const WORKS: Expected = both(Works);
const INVALID: Expected = both(Fails(EINVAL));
const NONE: Expected = nothing("there is no such number");

/// The argument of an ioctl that takes none.
const UNUSED: &str = "the call has no such argument";
const UNTAKEN: Expected = ioctl_only(Fails(EINVAL), UNUSED);
const UNTAKEN_WORKS: Expected = ioctl_only(Works, UNUSED);
const UNTAKEN_EXISTS: Expected = ioctl_only(Fails(EEXIST), "the call chooses the id");
const ID: Expected = ioctl_only(Works, "the call chooses the id");
const BAD_ID: Expected = ioctl_only(Fails(EINVAL), "the call chooses the id");
const EXISTS: Expected = both(Fails(EEXIST));
const NO_LOG: Expected = both(Fails(ENOENT));
const TOO_BIG: Expected = both(Fails(E2BIG));
const ABSENT: Expected = both(Gives(0));
const NOT_MAPPED: Expected = both(Fails(ENOMEM));
const OTHERS: Expected = both(Fails(EBUSY));
const UNREACHABLE: Expected = both(Fails(EFAULT));
const UNBACKED: Expected = both(Fails(ENODEV));

const MMAP_LIMIT: &str = "mmap() refuses this size before it calls KVM";

/// Each flag of a slot that is not valid. The two lowest flags are.
const NO_FLAGS: &[(u64, Expected)] = &bits();

const fn bits() -> [(u64, Expected); 30] {
    let mut bits = [(0, INVALID); 30];
    let mut bit = 0;
    while bit < bits.len() {
        bits[bit].0 = 1 << (bit + 2);
        bit += 1;
    }
    bits
}

/// An address around which a region wraps, less the page size.
const TOP: u64 = PAGE.wrapping_neg();
const MOST_PAGES: u64 = ((1 << 31) - 1) * PAGE;
/// The address space of system management mode on x86, and one that does not
/// exist.
const SMM: u64 = 1 << 16;
const NO_SPACE: u64 = 2 << 16;
const USER_END: u64 = (1 << 47) - PAGE;

/// Every number works, unless a row says otherwise.
#[rustfmt::skip]
const ALL_WORK: Number = Number { calls: &[], name: "", limit: Is(0), step: 1,
    zero: WORKS, one: WORKS, below: WORKS, at: WORKS, above: WORKS, most: WORKS, more: &[] };

/// Whole pages work up to the limit, unless a row says otherwise.
#[rustfmt::skip]
const IN_PAGES: Number = Number { calls: &[], name: "", limit: LastPage, step: PAGE,
    zero: WORKS, one: INVALID, below: WORKS, at: WORKS, above: INVALID, most: INVALID,
    more: &[(TOP, INVALID)] };

#[rustfmt::skip]
pub const NUMBERS: &[Number] = &[
    Number { calls: &[Flat(kvm_create_vm)], name: "argument", limit: Is(1), zero: UNTAKEN_WORKS,
        one: UNTAKEN_WORKS, below: UNTAKEN_WORKS, at: UNTAKEN_WORKS, above: UNTAKEN,
        most: UNTAKEN, ..ALL_WORK },
    Number { calls: &[Flat(kvm_get_msr_index_list)], name: "nmsrs", limit: Listed,
        zero: TOO_BIG, one: TOO_BIG, below: TOO_BIG, ..ALL_WORK },
    Number { calls: &[Flat(kvm_get_vcpu_mmap_size), Flat(kvm_run)], name: "argument",
        zero: UNTAKEN_WORKS, one: UNTAKEN, below: NONE, at: UNTAKEN_WORKS, above: UNTAKEN,
        most: UNTAKEN, ..ALL_WORK },
    Number { calls: &[Flat(kvm_set_memory_region), Flat(kvm_set_user_memory_region)],
        name: "slot", limit: LastSlot, zero: INVALID, one: INVALID, above: INVALID,
        most: INVALID, more: &[(SMM, WORKS), (NO_SPACE, INVALID)], ..ALL_WORK },
    Number { calls: &[Flat(kvm_set_memory_region), Flat(kvm_set_user_memory_region),
        Range(kvm_map_range), Range(kvm_protect_range)], name: "flags", limit: Is(3), above: INVALID, most: INVALID,
        more: NO_FLAGS, ..ALL_WORK },
    Number { calls: &[Flat(kvm_set_memory_region), Flat(kvm_set_user_memory_region)],
        name: "guest_phys_addr", zero: EXISTS, more: &[(KERNEL_MEMORY, EXISTS), (TOP, INVALID)],
        ..IN_PAGES },
    Number { calls: &[Flat(kvm_set_memory_region), Flat(kvm_set_user_memory_region),
        Range(kvm_map_range)], name: "size", limit: Is(MOST_PAGES), zero: INVALID,
        below: INVALID, at: INVALID, more: &[(PAGE + 1, INVALID), (TOP, INVALID)], ..IN_PAGES },
    Number { calls: &[Flat(kvm_create_vcpu)], name: "argument", limit: LastVcpuId,
        zero: UNTAKEN_EXISTS, one: UNTAKEN_EXISTS, below: ID, at: ID, above: BAD_ID,
        most: BAD_ID, more: &[(1 << 32, BAD_ID)], ..ALL_WORK },
    Number { calls: &[Flat(kvm_get_dirty_log)], name: "slot", limit: LastSlot, below: NO_LOG,
        at: NO_LOG, above: INVALID, most: INVALID, more: &[(SMM, NO_LOG), (NO_SPACE, INVALID)],
        ..ALL_WORK },
    Number { calls: &[Flat(kvm_get_memory_alias), Flat(kvm_set_memory_alias)], name: "slot",
        limit: Is(KVM_ALIAS_SLOTS as u64 - 1), above: INVALID, most: INVALID, ..ALL_WORK },
    Number { calls: &[Flat(kvm_translate)], name: "linear_address", limit: Is((1 << 47) - 1),
        ..ALL_WORK },
    Number { calls: &[Flat(kvm_interrupt)], name: "irq", limit: Is(255), above: INVALID,
        most: INVALID, ..ALL_WORK },
    Number { calls: &[Flat(kvm_debug_guest)], name: "control", limit: Is(0x1f_0003),
        ..ALL_WORK },
    Number { calls: &[Flat(kvm_get_msrs), Flat(kvm_set_msrs)], name: "nmsrs", limit: Is(255),
        zero: both(Gives(0)), below: both(Gives(254)), at: both(Gives(255)), above: TOO_BIG,
        most: TOO_BIG, ..ALL_WORK },
    Number { calls: &[Flat(kvm_set_cpuid)], name: "nent", limit: Is(256), above: TOO_BIG,
        most: TOO_BIG, ..ALL_WORK },
    Number { calls: &[Flat(kvm_set_signal_mask)], name: "len", limit: Is(8), zero: INVALID,
        one: INVALID, below: INVALID, above: INVALID, most: INVALID,
        more: &[(4, INVALID), (128, INVALID)], ..ALL_WORK },
    Number { calls: &[Flat(kvm_check_extension)], name: "extension",
        limit: Is(KVM_CAP_SYSCALLS as u64), zero: both(Gives(1)), one: both(Gives(1)),
        below: ABSENT, at: both(Gives(KVM_SYSCALLS_ABI as i64)), above: ABSENT, most: ABSENT,
        more: &[(1 << 32, ABSENT), (1 << 32 | KVM_CAP_SYSCALLS as u64, ABSENT)], ..ALL_WORK },
    Number { calls: &[Flat(kvm_set_user_memory_region), Range(kvm_map_range)],
        name: "userspace_addr", limit: Is(USER_END - PAGE),
        more: &[(1 << 47, INVALID), (1 << 63, INVALID), (TOP, INVALID)], ..IN_PAGES },
    Number { calls: &[Flat(kvm_set_memory_alias)], name: "flags", one: INVALID, below: NONE,
        above: INVALID, most: INVALID, more: NO_FLAGS, ..ALL_WORK },
    Number { calls: &[Flat(kvm_set_memory_alias)], name: "guest_phys_addr", zero: EXISTS,
        ..IN_PAGES },
    Number { calls: &[Flat(kvm_set_memory_alias)], name: "memory_size", limit: Is(KERNEL_SIZE),
        zero: INVALID, ..IN_PAGES },
    Number { calls: &[Flat(kvm_set_memory_alias)], name: "target_phys_addr",
        limit: Is(KERNEL_MEMORY + KERNEL_SIZE - PAGE), ..IN_PAGES },
    Number { calls: &[Process(ProcessCall::kvm_map_memory)], name: "guest_phys_addr",
        limit: Is(KERNEL_MEMORY + KERNEL_SIZE - PAGE), zero: UNBACKED, above: UNBACKED,
        more: &[(TOP, differs(Fails(ENODEV), Fails(EINVAL), MMAP_LIMIT))], ..IN_PAGES },
    Number { calls: &[Process(ProcessCall::kvm_map_memory)], name: "size", limit: Is(KERNEL_SIZE), zero: INVALID,
        one: WORKS, above: UNBACKED, most: differs(Fails(ENODEV), Fails(ENOMEM), MMAP_LIMIT),
        more: &[(TOP, differs(Fails(ENODEV), Fails(EINVAL), MMAP_LIMIT))], ..IN_PAGES },
    Number { calls: &[Merged(kvm_get_state), Merged(kvm_set_state)], name: "parts",
        limit: Is(0x7fff), below: INVALID, at: INVALID, above: INVALID, most: INVALID,
        more: &[(0x7f, UNREACHABLE), (0x80, WORKS), (0x100, UNREACHABLE), (0x82, INVALID), (0x8001, INVALID),
            (1 << 32 | 1, INVALID), (1 << 63, INVALID)], ..ALL_WORK },
    Number { calls: &[Merged(kvm_get_state), Merged(kvm_set_state)], name: "size",
        limit: Is(PAGE), zero: INVALID, one: INVALID, above: TOO_BIG, most: TOO_BIG,
        more: &[(63, INVALID), (64, UNREACHABLE), (128, WORKS), (1 << 32 | 128, TOO_BIG)], ..ALL_WORK },
    Number { calls: &[Range(kvm_map_range)], name: "guest_phys_addr", zero: OTHERS,
        more: &[(KERNEL_MEMORY, OTHERS), (TOP, INVALID)], ..IN_PAGES },
    Number { calls: &[Range(kvm_map_range)], name: "slot", limit: Is(SMM), one: INVALID,
        below: INVALID, above: INVALID, most: INVALID, more: &[(NO_SPACE, INVALID)], ..ALL_WORK },
    Number { calls: &[Range(kvm_map_range)], name: "pad1", one: INVALID, below: NONE,
        above: INVALID, most: INVALID, ..ALL_WORK },
    // Without the flag, the kernel ignores them.
    Number { calls: &[Range(kvm_map_range)], name: "guest_memfd", limit: Is(PAGE), ..ALL_WORK },
    Number { calls: &[Range(kvm_map_range)], name: "guest_memfd_offset", limit: Is(PAGE),
        ..ALL_WORK },
    Number { calls: &[Range(kvm_unmap_range)], name: "address_space", limit: Is(1),
        above: INVALID, most: INVALID, more: &[(SMM, INVALID)], ..ALL_WORK },
    Number { calls: &[Range(kvm_get_dirty_range), Range(kvm_clear_dirty_range),
        Range(kvm_protect_range)], name: "address_space", limit: Is(1), one: NOT_MAPPED,
        at: NOT_MAPPED, above: INVALID, most: INVALID, more: &[(SMM, INVALID)], ..ALL_WORK },
    Number { calls: &[Range(kvm_get_dirty_range)], name: "flags", limit: Is(1), above: INVALID,
        most: INVALID, ..ALL_WORK },
    Number { calls: &[Range(kvm_protect_range)], name: "guest_phys_addr", limit: Is(RANGE),
        zero: OTHERS, below: NOT_MAPPED, above: NOT_MAPPED,
        more: &[(KERNEL_MEMORY, OTHERS), (TOP, INVALID)], ..IN_PAGES },
    Number { calls: &[Range(kvm_protect_range)], name: "size", limit: Is(PAGE), zero: INVALID,
        below: INVALID, above: NOT_MAPPED, more: &[(PAGE + 1, INVALID),
        (MOST_PAGES + PAGE, NOT_MAPPED), (TOP, INVALID)], ..IN_PAGES },
    Number { calls: &[Range(kvm_set_memory_attributes)], name: "guest_phys_addr", above: WORKS,
        ..IN_PAGES },
    Number { calls: &[Range(kvm_set_memory_attributes)], name: "size", limit: Is(TOP),
        zero: INVALID, more: &[(PAGE + 1, INVALID)], ..IN_PAGES },
    Number { calls: &[Range(kvm_set_memory_attributes)], name: "attributes", one: INVALID,
        below: NONE, above: INVALID, most: INVALID, more: &[(8, INVALID), (1 << 63, INVALID)],
        ..ALL_WORK },
    Number { calls: &[Range(kvm_unmap_range)], name: "guest_phys_addr", zero: OTHERS,
        above: WORKS, more: &[(KERNEL_MEMORY, OTHERS), (TOP, INVALID)], ..IN_PAGES },
    Number { calls: &[Range(kvm_unmap_range)], name: "size", limit: Is(TOP - FREE),
        zero: INVALID, more: &[(PAGE + 1, INVALID), (TOP, INVALID)], ..IN_PAGES },
    Number { calls: &[Range(kvm_get_dirty_range), Range(kvm_clear_dirty_range)],
        name: "guest_phys_addr", limit: Is(MEMORY as u64 - PAGE), above: NOT_MAPPED,
        more: &[(KERNEL_MEMORY, WORKS), (TOP, INVALID)], ..IN_PAGES },
    Number { calls: &[Range(kvm_get_dirty_range), Range(kvm_clear_dirty_range)], name: "size",
        limit: Is(MEMORY as u64), zero: INVALID, above: NOT_MAPPED, more: &[(PAGE + 1, INVALID),
        (MOST_PAGES, NOT_MAPPED), (MOST_PAGES + PAGE, INVALID), (TOP, INVALID)], ..IN_PAGES },
];

/// The numbers that a call takes, by either route, and their size.
pub fn numbers(call: TestedCall) -> Vec<(&'static str, usize)> {
    arguments_of(call, |kind| match kind {
        Kind::Number(bytes) => Some(bytes),
        Kind::Fd | Kind::Pointer(_) => None,
    })
}

/// A case for each number and each point, and one for the upper half of a
/// register.
pub fn cases() -> Vec<Misuse> {
    let mut cases = Vec::new();
    for call in TestedCall::all() {
        let numbers = numbers(call);
        if numbers.is_empty() {
            cases.push(Misuse::none(call, "a number", "it has no numbers"));
        }
        for (name, bytes) in numbers {
            let mut rows = NUMBERS.iter();
            let row = rows.find(|it| it.calls.contains(&call) && it.name == name);
            let row = row.unwrap_or_else(|| panic!("no expected result for {}: {name}", call.name));
            cases.extend(points(call, row, bytes));
            if bytes == 4 {
                cases.push(garbage(call, name));
            }
        }
    }
    cases
}

fn points(call: TestedCall, row: &'static Number, bytes: usize) -> Vec<Misuse> {
    let Number {
        name, limit, step, ..
    } = *row;
    let most = u64::MAX >> (64 - 8 * bytes);
    let text = limit.text();
    // A number is the limit, and what is added to it.
    let points = [
        ("0".into(), row.zero, (Is(0), 0)),
        ("1".into(), row.one, (Is(1), 0)),
        (
            format!("the limit ({text}), less {step:#x}"),
            row.below,
            (limit, step.wrapping_neg()),
        ),
        (format!("the limit ({text})"), row.at, (limit, 0)),
        (
            format!("the limit ({text}), and {step:#x}"),
            row.above,
            (limit, step),
        ),
        (format!("{most:#x}"), row.most, (Is(most), 0)),
    ];
    let more = row
        .more
        .iter()
        .map(|&(number, expected)| (format!("{number:#x}"), expected, (Is(number), 0)));
    let case = |(text, expected, (limit, add)): (String, Expected, (Limit, u64))| {
        let misuse = format!("`{name}` {text}");
        Misuse::new(call, misuse, expected, move |testbed, mut it| {
            it.set(name, limit.find(&testbed.facts).wrapping_add(add));
            Ok(Made::of(&it, testbed))
        })
    };
    points.into_iter().chain(more).map(case).collect()
}

/// The kernel takes the lower half of the register for a number of four bytes.
fn garbage(call: TestedCall, name: &'static str) -> Misuse {
    let mut expected = both(Works);
    for route in Route::ALL {
        let mut arguments = arguments(call, route).into_iter();
        let in_register = arguments.any(|it| it.name == name && matches!(it.place, Place::Word(_)));
        if !in_register || route == Route::Ioctl && call.by_library() {
            expected = expected.but_for(route, "it has no register");
        }
    }
    let misuse = format!("`{name}`, the register's upper half not 0");
    Misuse::new(call, misuse, expected, move |testbed, mut it| {
        let good = it.get(name).expect("the call has the argument");
        it.set(name, good | 0xdead_beef << 32);
        Ok(Made::of(&it, testbed))
    })
}
