//! The state of a vCPU in 64-bit mode.

use kvm_api::kvm_sys::{CpuId, kvm_cpuid_entry2, kvm_segment, kvm_sregs};

/// The linear address of the page that [`PageTables::page`] maps.
pub(crate) const MAPPED: u64 = 0x20_0000;

/// An entry of a page table: its address, and its bytes.
pub(crate) type Entry = (u64, [u8; 8]);

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;

/// Page tables: four pages from an address on.
#[derive(Clone, Copy)]
pub(crate) struct PageTables {
    pub(crate) at: u64,
}

impl PageTables {
    /// Maps the first 2 MiB to themselves. The fourth page remains unused.
    pub(crate) fn identity(self) -> [Entry; 3] {
        let [pml4, pdpt, pd, _] = self.pages();
        [
            (pml4, (pdpt | PRESENT_WRITABLE).to_le_bytes()),
            (pdpt, (pd | PRESENT_WRITABLE).to_le_bytes()),
            (pd, (PRESENT_WRITABLE | LARGE).to_le_bytes()),
        ]
    }

    /// Maps the page at [`MAPPED`] to the page at `address`.
    pub(crate) fn page(self, address: u64) -> [Entry; 2] {
        let [.., pd, pt] = self.pages();
        [
            (pd + 8, (pt | PRESENT_WRITABLE).to_le_bytes()),
            (pt, (address | PRESENT_WRITABLE).to_le_bytes()),
        ]
    }

    fn pages(self) -> [u64; 4] {
        [0, 1, 2, 3].map(|page| self.at + page * 0x1000)
    }
}

/// A leaf of CPUID.
pub(crate) fn leaf(function: u32, eax: u32, edx: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        eax,
        edx,
        ..Default::default()
    }
}

/// A CPUID with the given leaves and long mode: KVM refuses EFER.LME without.
pub(crate) fn cpuid(leaves: &[kvm_cpuid_entry2]) -> CpuId {
    const LONG_MODE: u32 = 1 << 29;
    let extended = [
        leaf(0x8000_0000, 0x8000_0001, 0),
        leaf(0x8000_0001, 0, LONG_MODE),
    ];
    CpuId::from_entries(&[leaves, &extended].concat()).expect("a few leaves fit")
}

/// Puts the registers of a new vCPU into 64-bit mode. `cr0` is added
/// to the bits that the mode needs.
pub(crate) fn enter(sregs: &mut kvm_sregs, tables: PageTables, cr0: u64) {
    const PE_NE_PG: u64 = 1 | 1 << 5 | 1 << 31;
    const PAE: u64 = 1 << 5;
    const LME_LMA: u64 = 1 << 8 | 1 << 10;
    sregs.cr0 = PE_NE_PG | cr0;
    sregs.cr3 = tables.at;
    sregs.cr4 = PAE;
    sregs.efer = LME_LMA;
    let segment = kvm_segment {
        limit: u32::MAX,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: 8,
        type_: 0b1011,
        l: 1,
        ..segment
    };
    let data = kvm_segment {
        selector: 16,
        type_: 0b0011,
        db: 1,
        ..segment
    };
    sregs.ds = data;
    sregs.es = data;
    sregs.ss = data;
}
