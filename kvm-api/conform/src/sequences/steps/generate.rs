//! Random steps that are likely to have an effect.

use clap::ValueEnum;
use proptest::prelude::*;
use proptest::sample::select;

use super::{Pointer, Registers, Room, Run, Step, Taken, VcpuStep, Wrong};
use crate::sequences::facts::EXTENSIONS;
use crate::sequences::model::guest::{MSRS, PROGRAM_AT, Program};
use crate::sequences::model::memory::{PAGE, POOL};
use crate::sequences::region::Region;

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

/// A slot, often a slot that is set.
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

fn region(slot: impl Strategy<Value = u32>) -> impl Strategy<Value = Region> {
    (slot, flags(), address(), size()).prop_map(|(slot, flags, address, size)| Region {
        slot,
        flags,
        address,
        size,
    })
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

/// A page, mostly from the list.
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
    let alias_region = region(alias()).prop_map(|alias| Region {
        flags: alias.flags & !3,
        ..alias
    });
    let map = if hints.kernel.is_empty() { 1 } else { 6 };
    prop_oneof![
        1 => prop::bool::weighted(0.2).prop_map(|full| Step::CreateVm { full }),
        3 => prop::bool::weighted(0.2).prop_map(|full| Step::CreateVcpu { full }),
        1 => select(Room::value_variants()).prop_map(Step::MsrIndexList),
        1 => Just(Step::VcpuMmapSize),
        2 => select(&EXTENSIONS).prop_map(Step::CheckExtension),
        8 => region(slot(&hints.slots)).prop_map(Step::SetMemoryRegion),
        8 => (region(slot(&hints.slots)), 0..POOL).prop_map(|(mut region, page)| {
            // Only pages with memory hold programs.
            let offset = page * PAGE;
            let room = POOL * PAGE - offset;
            if (room + 1..=POOL * PAGE).contains(&region.size) {
                region.size = room;
            }
            Step::SetUserMemoryRegion { region, offset }
        }),
        6 => (alias_region, target)
            .prop_map(|(alias, target)| Step::SetMemoryAlias { alias, target }),
        3 => alias().prop_map(Step::GetMemoryAlias),
        map => mapped(&hints.kernel).prop_map(|(address, size)| Step::MapMemory { address, size }),
        6 => slot(&hints.slots).prop_map(Step::GetDirtyLog),
        2 => (select(&VECTORS), backed())
            .prop_map(|(vector, page)| Step::Vector { vector, page }),
        2 => (any::<prop::sample::Index>(), select(Wrong::value_variants()))
            .prop_map(|(call, fd)| Step::WrongFd { call: call.index(1 << 16), fd }),
    ]
    .boxed()
}

/// A step on one of the vCPUs.
fn of_vcpu(hints: &Hints) -> BoxedStrategy<Step> {
    let backed = || mostly(&hints.backed);
    let number = || prop_oneof![any::<u64>(), 0..4_u64];
    let pointer = select(Pointer::value_variants());
    let registers = select(Registers::value_variants());
    let vcpus = hints.vcpus;
    prop_oneof![
        14 => on(vcpus, (backed(), program())
            .prop_map(|(page, program)| VcpuStep::Start { page, program })),
        2 => on(vcpus, Just(VcpuStep::GetRegs)),
        4 => on(vcpus, (number(), number(), prop_oneof![any::<u64>(), Just(MSRS.into())], backed())
            .prop_map(|(rax, rbx, rcx, page)| VcpuStep::SetRegs { rax, rbx, rcx, page })),
        2 => on(vcpus, Just(VcpuStep::GetSregs)),
        3 => on(vcpus, (select(vec![0, 0x100, 0x800]), any::<u64>(), rare())
            .prop_map(|(ds, cr2, bad)| VcpuStep::SetSregs { ds, cr2, bad })),
        2 => on(vcpus, any::<u64>().prop_map(VcpuStep::Translate)),
        3 => on(vcpus, select([&VECTORS.map(u32::from)[..], &[256, u32::MAX]].concat())
            .prop_map(VcpuStep::Interrupt)),
        2 => on(vcpus, any::<bool>()
            .prop_map(|single_step| VcpuStep::DebugGuest { single_step })),
        2 => on(vcpus, prop::collection::vec(msr(), 0..4).prop_map(VcpuStep::GetMsrs)),
        2 => on(vcpus, prop::collection::vec((msr(), 0..MOST), 0..4).prop_map(VcpuStep::SetMsrs)),
        1 => on(vcpus, (254..=256_usize).prop_map(VcpuStep::ManyMsrs)),
        2 => on(vcpus, prop::collection::vec(0x4000_0100..0x4000_0104_u32, 0..3)
            .prop_map(VcpuStep::SetCpuid)),
        1 => on(vcpus, (254..=256_usize).prop_map(VcpuStep::ManyCpuid)),
        2 => on(vcpus, any::<Option<bool>>().prop_map(VcpuStep::SetSignalMask)),
        2 => on(vcpus, Just(VcpuStep::GetFpu)),
        2 => on(vcpus, (select(vec![0x37f, 0x27f]), any::<u8>())
            .prop_map(|(fcw, xmm)| VcpuStep::SetFpu { fcw, xmm })),
        4 => on(vcpus, (registers, pointer)
            .prop_map(|(registers, pointer)| VcpuStep::WrongPointer(registers, pointer))),
        2 => on(vcpus, any::<bool>().prop_map(|nested| VcpuStep::Migrate { nested })),
    ]
    .boxed()
}

/// A step on any of so many vCPUs.
fn on(vcpus: usize, step: impl Strategy<Value = VcpuStep>) -> impl Strategy<Value = Step> {
    (0..vcpus, step).prop_map(|(vcpu, step)| Step::OnVcpu(vcpu, step))
}

/// A condition that is rarely true.
fn rare() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.1)
}

fn run(ready: Vec<usize>) -> impl Strategy<Value = Step> {
    (select(ready), any::<u8>(), rare(), rare()).prop_map(|(vcpu, data, signal, immediate_exit)| {
        let run = Run {
            data,
            signal,
            immediate_exit,
        };
        Step::OnVcpu(vcpu, VcpuStep::Run(run))
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
