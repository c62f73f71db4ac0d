//! The work of a VMM that migrates a guest, or changes its memory: dirty logs and slots.

use anyhow::{Context, Result, bail, ensure};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_regs};
use kvm_ioctls::VcpuExit;
use vm_memory::GuestAddress;

use crate::guest::{self, DONE, programs};
use crate::vm::Vm;

/// The memory of the guest, without what the second slot has.
const MEMORY: usize = 0x10_0000;
/// The first page that a round writes.
const FIRST: usize = 0x20;
/// The number of pages that it writes.
const PAGES: usize = 64;
/// The memory of the second slot.
const SECOND: usize = 0x4_0000;

programs! {
    /// Writes to each of the pages, in rounds.
    write_pages =
        "1: mov $0x2000,%ax; mov $64,%cx"
        "2: mov %ax,%es; incb %es:0; add $0x100,%ax; loop 2b"
        "out %eax,$0x12; jmp 1b";
}

/// In each round runs the guest, reads its dirty log, and fills and empties another slot.
pub fn log(rounds: u32) -> Result<()> {
    let mut vm = Vm::new(MEMORY, KVM_MEM_LOG_DIRTY_PAGES)?;
    guest::load(&vm, write_pages(), 0, kvm_regs::default())?;
    let (at, from) = (GuestAddress(0x100_0000), GuestAddress(0));
    for round in 0..rounds {
        match vm.vcpu.run()? {
            VcpuExit::IoOut(DONE, _) => {}
            exit => bail!("the guest ended with {exit:?}"),
        }
        let log = vm.vm.get_dirty_log(0, MEMORY).context("the dirty log")?;
        let is_dirty = |page: &usize| log[page / 64] & 1 << (page % 64) != 0;
        let dirty = (FIRST..FIRST + PAGES).filter(is_dirty).count();
        ensure!(
            dirty == PAGES,
            "{dirty} pages are dirty in round {round}, not {PAGES}"
        );
        vm.map(1, at, from, SECOND, 0)?;
        vm.map(1, at, from, 0, 0)?;
    }
    println!("{rounds} rounds, {PAGES} pages each");
    Ok(())
}
