//! Pointers to memory that cannot be read or written.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use anyhow::{Context, Result};
use kvm_sys::FlatCall::kvm_set_signal_mask;
use nix::errno::Errno::EFAULT;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use self::Bad::*;
use super::expected::Expectation::{Fails, Works};
use super::expected::{Expectation, Expected, Route};
use super::invocation::Invocation;
use super::misuse::{Made, Misuse};
use super::signature::{Kind, Place, Use, arguments, arguments_of};
use super::testbed::{PAGE, Testbed};
use crate::tested_call::TestedCall;

/// An error of a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    Null,
    Unmapped,
    NoAccess,
    ReadOnly,
    Kernel,
    NotCanonical,
    LastOfUser,
    Wraps,
    Straddles,
    Misaligned,
}

pub const ALL_BAD: [(Bad, &str); 10] = [
    (Null, "NULL"),
    (Unmapped, "where nothing is mapped"),
    (NoAccess, "to memory without access"),
    (ReadOnly, "to read-only memory"),
    (Kernel, "to the kernel's memory"),
    (NotCanonical, "to an address that is not canonical"),
    (LastOfUser, "to the last bytes of user space, and beyond"),
    (
        Wraps,
        "to the last bytes of the address space, wrapping around",
    ),
    (Straddles, "to the end of a page before an unmapped one"),
    (Misaligned, "to memory, at an odd address"),
];

/// The expected results for a pointer to data that the kernel reads, or writes.
fn rule(usage: Use, bad: Bad) -> Expectation {
    match (bad, usage) {
        (Misaligned, _) | (ReadOnly, Use::Read) => Works,
        _ => Fails(EFAULT),
    }
}

const NULL_CLEARS: &str = "NULL removes the mask, by either route";
const ONE_BYTE: &str = "it points to one byte";
const WITHIN: &str = "the ioctl has it in the structure";
const REFERENCES: &str = "the library takes references";
const NO_POINTER: &str = "the call takes its numbers in registers";

/// The expected result by one route, and why if it is special; or why there is none.
fn of_route(
    call: TestedCall,
    name: &str,
    bad: Bad,
    route: Route,
) -> Result<(Expectation, &'static str), &'static str> {
    if route == Route::Ioctl && call.by_library() && call.has_ioctl() {
        return Err(REFERENCES);
    }
    let arguments = arguments(call, route);
    let Some(argument) = arguments.iter().find(|it| it.name == name) else {
        return Err(match route {
            Route::Ioctl => WITHIN,
            Route::Flat => NO_POINTER,
        });
    };
    let Kind::Pointer(usage) = argument.kind else {
        unreachable!("{name} is no pointer");
    };
    if matches!(bad, LastOfUser | Wraps | Straddles | Misaligned) && is_byte(name) {
        return Err(ONE_BYTE);
    }
    if bad == Null && call == TestedCall::Flat(kvm_set_signal_mask) {
        return Ok((Works, NULL_CLEARS));
    }
    Ok((rule(usage, bad), ""))
}

fn is_byte(name: &str) -> bool {
    ["valid", "writeable", "usermode"].contains(&name)
}

/// The expected results for a pointer of a call.
pub fn expected(call: TestedCall, name: &str, bad: Bad) -> Expected {
    let [ioctl, flat] = Route::ALL.map(|route| of_route(call, name, bad, route));
    let ((Err(why), _) | (_, Err(why)) | (_, Ok((_, why)))) = (ioctl, flat);
    Expected {
        ioctl: ioctl.ok().map(|(answer, _)| answer),
        flat: flat.ok().map(|(answer, _)| answer),
        why,
    }
}

/// A case for each pointer and each error. A call without pointers also has a row,
/// which says so.
pub fn cases() -> Vec<Misuse> {
    let mut cases = Vec::new();
    for call in TestedCall::all() {
        let pointers = arguments_of(call, |kind| matches!(kind, Kind::Pointer(_)).then_some(()));
        if pointers.is_empty() {
            cases.push(Misuse::none(call, "a pointer", "it has no pointers"));
        }
        for (name, ()) in pointers {
            for (bad, what) in ALL_BAD {
                let expected = expected(call, name, bad);
                let misuse = format!("`{name}` {what}");
                cases.push(Misuse::new(call, misuse, expected, move |testbed, it| {
                    attempt(testbed, it, name, bad)
                }));
            }
        }
    }
    cases
}

fn attempt(
    testbed: &mut Testbed<'_>,
    mut invocation: Invocation,
    name: &'static str,
    bad: Bad,
) -> Result<Made> {
    let argument = invocation.argument(name).context("no such argument")?;
    // The pointer to the structure, or to other data in the arena.
    let whole = argument.place == Place::Word(1) && !invocation.object().is_empty();
    let mut object = match (whole, name) {
        (true, _) => invocation.object().to_vec(),
        (false, name) if is_byte(name) => vec![0; 1],
        (false, "state->mp_state" | "state->tsc_khz") => vec![0; 4],
        (false, _) => vec![0; 8],
    };
    if argument.kind == Kind::Pointer(Use::Written) {
        object.fill(FILL);
    }
    let size = object.len() as u64;
    let field = Field::new(bad, &object)?;
    let half = size / 2;
    invocation.set(
        name,
        match bad {
            Null => 0,
            Unmapped | NoAccess | ReadOnly => field.page(),
            Kernel => 0xffff_ffff_8100_0000,
            NotCanonical => 1 << 47,
            // The last page is never mapped.
            LastOfUser => (1 << 47) - PAGE - half,
            Wraps => half.wrapping_neg(),
            Straddles => field.page() + PAGE - half,
            Misaligned => field.page() + 1,
        },
    );
    let made = Made::of(&invocation, testbed);
    let written = match argument.kind {
        Kind::Pointer(Use::Written) if bad == Straddles => {
            let first = &field.bytes()[(PAGE - half) as usize..];
            let untouched = first == &object[..half as usize];
            (untouched != by_one_store(name)).then(|| match untouched {
                true => "nothing was written to the first page".to_owned(),
                false => "the first page was written to".to_owned(),
            })
        }
        _ => None,
    };
    Ok(made.but(written))
}

/// put_user() writes all or nothing, whereas a structure is copied up to the
/// bad address.
fn by_one_store(name: &str) -> bool {
    let names = [
        "physical_address",
        "state->regs",
        "state->tsc_khz",
        "state->tsc_offset",
    ];
    names.contains(&name)
}

/// A page that is followed by an unmapped one.
struct Field {
    start: NonNull<u8>,
    mapped: usize,
}

/// The content of memory before the call.
const FILL: u8 = 0x5a;

impl Field {
    /// Copies the object to the target of the pointer.
    fn new(bad: Bad, object: &[u8]) -> Result<Self> {
        let page = PAGE as usize;
        let twice = NonZeroUsize::new(2 * page).context("a page has a size")?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: no address is given, so no memory in use is replaced.
        let start = unsafe { mmap_anonymous(None, twice, access, MapFlags::MAP_PRIVATE) }?;
        // SAFETY: it is the second of the two pages that have just been mapped.
        unsafe { munmap(start.byte_add(page), page) }?;
        let mut field = Self {
            start: start.cast(),
            mapped: page,
        };
        let at = match bad {
            Misaligned => 1,
            Straddles => page - object.len() / 2,
            _ => 0,
        };
        let length = object.len().min(page - at);
        // SAFETY: the page is mapped, writable and this value's own; the object
        // is cut where the page ends.
        unsafe {
            field
                .start
                .byte_add(at)
                .copy_from_nonoverlapping(NonNull::from(object).cast(), length);
        }
        match bad {
            // SAFETY: the page is this value's own, and nothing refers to it.
            NoAccess => unsafe { mprotect(start, page, ProtFlags::PROT_NONE) }?,
            // SAFETY: as above.
            ReadOnly => unsafe { mprotect(start, page, ProtFlags::PROT_READ) }?,
            Unmapped => {
                // SAFETY: as above.
                unsafe { munmap(start, page) }?;
                field.mapped = 0;
            }
            _ => {}
        }
        Ok(field)
    }

    fn page(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    /// A copy of the page.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FILL; self.mapped];
        // SAFETY: these bytes are mapped. The callers can read them.
        unsafe {
            bytes
                .as_mut_ptr()
                .copy_from(self.start.as_ptr(), self.mapped)
        };
        bytes
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        if self.mapped != 0 {
            // SAFETY: the page is this value's own, and nothing refers to it.
            let _ = unsafe { munmap(self.start.cast(), self.mapped) };
        }
    }
}
