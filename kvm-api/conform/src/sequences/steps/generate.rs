//! Random steps that are likely to have an effect.

use proptest::prelude::*;
use proptest::sample::select;

use super::{Pointer, Registers, Room, Step, Taken, Wrong};
use crate::sequences::facts::EXTENSIONS;
use crate::sequences::model::guest::{MSRS, PROGRAM_AT, Program};
use crate::sequences::model::memory::{PAGE, POOL};

/// The interrupt vectors.
const VECTORS: [u8; 3] = [0x20, 0x21, 0xff];

/// The guest physical pages that programs of real mode reach.
pub const PAGES: u64 = 16;

/// The slots that are set, from 0 on.
pub const SLOTS: u32 = 5;

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        20 => (0..PAGES).prop_map(|page| page * PAGE),
        1 => (0..PAGES).prop_map(|page| page * PAGE + 1),
        1 => Just(PAGE.wrapping_neg()),
    ]
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        12 => (1..=4_u64).prop_map(|pages| pages * PAGE),
        3 => Just(0),
        1 => Just(PAGE + 1),
        1 => select(vec![PAGE << 31, PAGE.wrapping_neg()]),
    ]
}

/// A range to map. Where mmap() itself fails, the two interfaces differ, which
/// the property `errors` tests.
fn mapped(kernel: &[u64]) -> impl Strategy<Value = (u64, u64)> + use<> {
    let address = prop_oneof![
        20 => mostly(kernel).prop_map(|page| page * PAGE),
        1 => (0..PAGES).prop_map(|page| page * PAGE + 1),
    ];
    (address, (0..=4_u64).prop_map(|pages| pages * PAGE))
}

/// A slot, often one that is set.
fn slot(set: &[u32]) -> BoxedStrategy<u32> {
    let any = prop_oneof![
        20 => 0..SLOTS,
        1 => select(vec![0x7fff, 0x8000, 2 << 16, u32::MAX]),
    ];
    match set {
        [] => any.boxed(),
        _ => prop_oneof![1 => any, 1 => select(set.to_vec())].boxed(),
    }
}

fn flags() -> impl Strategy<Value = u32> {
    prop_oneof![16 => 0..4_u32, 1 => select(vec![4, 8, 1 << 31])]
}

fn alias() -> impl Strategy<Value = u32> {
    prop_oneof![16 => 0..4_u32, 1 => select(vec![4, u32::MAX])]
}

/// The address that a program reads or writes: anywhere except at programs.
fn data_address() -> impl Strategy<Value = u16> {
    (0..PAGES, 0..PROGRAM_AT).prop_map(|(page, offset)| (page * PAGE + offset) as u16)
}

fn program() -> impl Strategy<Value = Program> {
    prop_oneof![
        1 => Just(Program::Halt),
        1 => Just(Program::Nops),
        3 => (data_address(), 1..=u8::MAX)
            .prop_map(|(address, value)| Program::Store { address, value }),
        2 => data_address().prop_map(|address| Program::Load { address }),
        2 => Just(Program::In),
        1 => any::<u8>().prop_map(|value| Program::Out { value }),
        2 => Just(Program::Add),
        1 => Just(Program::IncrementMsr),
        1 => Just(Program::Return),
    ]
}

/// The value of an MSR is limited: a processor may keep only the selector of
/// SYSENTER_CS, and the width of the others depends on the vCPU's vendor.
const MOST: u32 = 0xf000;

fn msr() -> impl Strategy<Value = u32> {
    prop_oneof![8 => MSRS..MSRS + 3, 1 => Just(0x1234_5678)]
}

/// The state that makes a step likely to have an effect.
pub struct Hints {
    pub vcpus: usize,
    /// The vCPUs whose RIP is in a program.
    pub ready: Vec<usize>,
    /// The guest physical pages with memory, and those with memory of the
    /// kernel.
    pub backed: Vec<u64>,
    pub kernel: Vec<u64>,
    /// The slots that are set.
    pub slots: Vec<u32>,
}

/// Mostly one of these, if there are any.
fn mostly(these: &[u64]) -> BoxedStrategy<u64> {
    match these {
        [] => (0..PAGES).boxed(),
        _ => prop_oneof![8 => select(these.to_vec()), 1 => 0..PAGES].boxed(),
    }
}

/// A step on memory or on the machine.
fn of_vm(hints: &Hints) -> BoxedStrategy<Step> {
    let backed = || mostly(&hints.backed);
    let target = prop_oneof![6 => backed().prop_map(|page| page * PAGE), 1 => address()];
    let region = (slot(&hints.slots), flags(), address(), size());
    let user = (slot(&hints.slots), flags(), address(), size(), 0..POOL);
    let aliased = (alias(), flags(), address(), size(), target);
    let map = if hints.kernel.is_empty() { 1 } else { 6 };
    prop_oneof![
        1 => prop::bool::weighted(0.2).prop_map(|full| Step::CreateVm { full }),
        3 => prop::bool::weighted(0.2).prop_map(|full| Step::CreateVcpu { full }),
        1 => select(vec![Room::One, Room::OneLess, Room::Enough])
            .prop_map(|room| Step::MsrIndexList { room }),
        1 => Just(Step::VcpuMmapSize),
        2 => select(EXTENSIONS.to_vec()).prop_map(|extension| Step::CheckExtension { extension }),
        8 => region.prop_map(|(slot, flags, address, size)| Step::SetMemoryRegion {
            slot, flags, address, size
        }),
        8 => user.prop_map(|(slot, flags, address, size, page)| {
            // Only pages with memory hold programs.
            let offset = page * PAGE;
            let room = POOL * PAGE - offset;
            let fits = size <= room || size > POOL * PAGE;
            let size = if fits { size } else { room };
            Step::SetUserMemoryRegion { slot, flags, address, size, offset }
        }),
        6 => aliased.prop_map(|(slot, flags, address, size, target)| Step::SetMemoryAlias {
            slot, flags: flags & !3, address, size, target
        }),
        3 => alias().prop_map(|slot| Step::GetMemoryAlias { slot }),
        map => mapped(&hints.kernel).prop_map(|(address, size)| Step::MapMemory { address, size }),
        6 => slot(&hints.slots).prop_map(|slot| Step::GetDirtyLog { slot }),
        2 => (select(VECTORS.to_vec()), backed())
            .prop_map(|(vector, page)| Step::Vector { vector, page }),
        2 => (any::<prop::sample::Index>(), wrong())
            .prop_map(|(call, fd)| Step::WrongFd { call: call.index(1 << 16), fd }),
    ]
    .boxed()
}

fn wrong() -> impl Strategy<Value = Wrong> {
    select(vec![
        Wrong::Closed,
        Wrong::Pipe,
        Wrong::Kind,
        Wrong::Foreign,
    ])
}

/// A step on a vcpu.
fn of_vcpu(hints: &Hints) -> BoxedStrategy<Step> {
    let vcpu = || 0..hints.vcpus;
    let backed = || mostly(&hints.backed);
    let number = || prop_oneof![any::<u64>(), 0..4_u64];
    let pointer = select(vec![
        Pointer::Null,
        Pointer::Unmapped,
        Pointer::ReadOnly,
        Pointer::Straddling,
        Pointer::HalfMapped,
        Pointer::Odd,
    ]);
    let registers = select(vec![
        Registers::GetRegs,
        Registers::SetRegs,
        Registers::GetSregs,
        Registers::SetSregs,
        Registers::GetFpu,
        Registers::SetFpu,
    ]);
    prop_oneof![
        14 => (vcpu(), backed(), program())
            .prop_map(|(vcpu, page, program)| Step::Start { vcpu, page, program }),
        2 => vcpu().prop_map(|vcpu| Step::GetRegs { vcpu }),
        4 => (vcpu(), number(), number(), prop_oneof![any::<u64>(), Just(MSRS.into())], backed())
            .prop_map(|(vcpu, rax, rbx, rcx, page)| Step::SetRegs { vcpu, rax, rbx, rcx, page }),
        2 => vcpu().prop_map(|vcpu| Step::GetSregs { vcpu }),
        3 => (vcpu(), select(vec![0, 0x100, 0x800]), any::<u64>(), rare())
            .prop_map(|(vcpu, ds, cr2, bad)| Step::SetSregs { vcpu, ds, cr2, bad }),
        2 => (vcpu(), any::<u64>()).prop_map(|(vcpu, address)| Step::Translate { vcpu, address }),
        3 => (vcpu(), select([&VECTORS.map(u32::from)[..], &[256, u32::MAX]].concat()))
            .prop_map(|(vcpu, irq)| Step::Interrupt { vcpu, irq }),
        2 => (vcpu(), any::<bool>())
            .prop_map(|(vcpu, single_step)| Step::DebugGuest { vcpu, single_step }),
        2 => (vcpu(), prop::collection::vec(msr(), 0..4))
            .prop_map(|(vcpu, indices)| Step::GetMsrs { vcpu, indices }),
        2 => (vcpu(), prop::collection::vec((msr(), 0..MOST), 0..4))
            .prop_map(|(vcpu, entries)| Step::SetMsrs { vcpu, entries }),
        1 => (vcpu(), 254..=256_usize).prop_map(|(vcpu, count)| Step::ManyMsrs { vcpu, count }),
        2 => (vcpu(), prop::collection::vec(0x4000_0100..0x4000_0104_u32, 0..3))
            .prop_map(|(vcpu, functions)| Step::SetCpuid { vcpu, functions }),
        1 => (vcpu(), 254..=256_usize).prop_map(|(vcpu, count)| Step::ManyCpuid { vcpu, count }),
        2 => (vcpu(), any::<Option<bool>>())
            .prop_map(|(vcpu, mask)| Step::SetSignalMask { vcpu, mask }),
        2 => vcpu().prop_map(|vcpu| Step::GetFpu { vcpu }),
        2 => (vcpu(), select(vec![0x37f, 0x27f]), any::<u8>())
            .prop_map(|(vcpu, fcw, xmm)| Step::SetFpu { vcpu, fcw, xmm }),
        4 => (vcpu(), registers, pointer)
            .prop_map(|(vcpu, call, pointer)| Step::WrongPointer { vcpu, call, pointer }),
    ]
    .boxed()
}

/// A condition that is rarely true.
fn rare() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.1)
}

fn run(ready: Vec<usize>) -> impl Strategy<Value = Step> {
    (select(ready), any::<u8>(), rare(), rare()).prop_map(|(vcpu, data, signal, immediate_exit)| {
        Step::Run {
            vcpu,
            data,
            signal,
            immediate_exit,
        }
    })
}

/// A step that a machine may take.
pub fn any_step(hints: Hints) -> BoxedStrategy<Taken> {
    let (of_vm, of_vcpu) = (of_vm(&hints), of_vcpu(&hints));
    let step = if hints.ready.is_empty() {
        prop_oneof![1 => of_vm, 2 => of_vcpu].boxed()
    } else {
        prop_oneof![1 => of_vm, 2 => of_vcpu, 2 => run(hints.ready)].boxed()
    };
    (step, any::<bool>())
        .prop_map(|(step, flat)| Taken { step, flat })
        .boxed()
}
