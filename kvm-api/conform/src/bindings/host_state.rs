//! The state of a task in the processor, which must be the same when a call
//! returns, whatever the state of the guest is.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::cell::Cell;

use kvm_api::Errno;
use libc::c_long;

use super::watch::Watch;

const ARCH_SET_GS: c_long = 0x1001;

/// The selector of a segment that all of user space may have in DS and ES.
const USER_DS: u16 = 0x2b;

#[derive(Debug)]
pub struct HostState {
    registers: Registers,
    /// PKRU, which differs at each call: user space changes it without the
    /// kernel's knowledge. Not all processors have it.
    pkru: Option<Cell<u32>>,
    watch: Watch,
}

#[derive(Clone, Debug, PartialEq)]
struct Registers {
    /// Four of the vector registers.
    vectors: [[u64; 2]; 4],
    /// The control register of the vector unit, with a rounding other than the
    /// default.
    mxcsr: u32,
    /// The control word of the x87, with another rounding, too.
    control: u16,
    segments: Segments,
}

/// The segments' selectors, DS, ES, FS and GS, and the bases of the last two.
#[derive(Clone, Debug, Default, PartialEq)]
struct Segments {
    selectors: [u16; 4],
    bases: [u64; 2],
}

impl HostState {
    /// Sets the state of the calling task that does not change between calls.
    /// `task` is unique to it.
    pub fn settle(task: u64) -> Self {
        let word = |n: u64| (task + 1) << 32 | n;
        let data = USER_DS * (task % 2) as u16;
        // SAFETY: nothing that is compiled uses the segment that Rust leaves
        // alone, or the selectors of the others.
        unsafe {
            let set = libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, word(8));
            assert_eq!(set, 0);
            asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) data);
        }
        let segments = Segments::now();
        assert_eq!(
            (segments.selectors, segments.bases[1]),
            ([data, data, 0, 0], word(8))
        );
        Self {
            registers: Registers {
                vectors: [0, 2, 4, 6].map(|n| [word(n), word(n + 1)]),
                mxcsr: 0x1f80 | 0x2000 << (task % 2),
                control: 0x37f | 0x400 << (task % 2),
                segments,
            },
            pkru: has_pkru().then(|| Cell::new((task as u32 + 1) << 24)),
            watch: Watch::set(),
        }
    }

    /// Makes a call with this state, and checks it afterwards.
    ///
    /// # Safety
    ///
    /// The call must be sound to make.
    pub unsafe fn call3(
        &self,
        number: c_long,
        a: usize,
        b: usize,
        c: usize,
    ) -> Result<isize, Errno> {
        if let Some(pkru) = &self.pkru {
            // The first key, which all memory has, allows everything.
            pkru.set(pkru.get().wrapping_add(4));
            write_pkru(pkru.get());
        }
        // SAFETY: the caller answers for the call.
        let around = || unsafe { self.registers.around(number, [a, b, c]) };
        let (answer, mut after) = self.watch.around(around);
        if let Some(pkru) = &self.pkru {
            assert_eq!(read_pkru(), pkru.get(), "PKRU, after call {number}");
        }
        // Exceptions set flags there.
        after.mxcsr &= !0x3f;
        let before = &self.registers;
        assert_eq!(*before, after, "the host's state, after call {number}");
        check_tsc_aux();
        if answer < 0 {
            return Err(Errno::from_raw(-answer as i32));
        }
        Ok(answer)
    }
}

impl Registers {
    /// Makes a call with these registers, and returns their values after it.
    ///
    /// # Safety
    ///
    /// The call must be sound to make.
    unsafe fn around(&self, number: c_long, [a, b, c]: [usize; 3]) -> (isize, Self) {
        let mut after = self.clone();
        let answer: isize;
        // SAFETY: the block names all registers that it overwrites, except the control
        // words, to which it gives the values that functions expect.
        unsafe {
            asm!(
                "movups xmm12, [{before}]",
                "movups xmm13, [{before} + 16]",
                "movups xmm14, [{before} + 32]",
                "movups xmm15, [{before} + 48]",
                "ldmxcsr [{mxcsr}]",
                "fldcw [{control}]",
                "syscall",
                "movups [{vectors}], xmm12",
                "movups [{vectors} + 16], xmm13",
                "movups [{vectors} + 32], xmm14",
                "movups [{vectors} + 48], xmm15",
                "stmxcsr [{mxcsr}]",
                "fnstcw [{control}]",
                "push 0x1f80",
                "ldmxcsr [rsp]",
                "mov qword ptr [rsp], 0x37f",
                "fldcw [rsp]",
                "add rsp, 8",
                before = in(reg) &raw const self.vectors,
                vectors = in(reg) &raw mut after.vectors,
                mxcsr = in(reg) &raw mut after.mxcsr,
                control = in(reg) &raw mut after.control,
                inout("rax") number as isize => answer,
                in("rdi") a,
                in("rsi") b,
                in("rdx") c,
                out("rcx") _,
                out("r11") _,
                out("xmm12") _,
                out("xmm13") _,
                out("xmm14") _,
                out("xmm15") _,
            );
        }
        after.segments = Segments::now();
        (answer, after)
    }
}

impl Segments {
    /// The segments of the calling task. They are read without a system call:
    /// the kernel would report its saved values, and no function can be called
    /// with a wrong base of FS.
    fn now() -> Self {
        let [ds, es, fs, gs]: [u16; 4];
        let [fs_base, gs_base]: [u64; 2];
        // SAFETY: reading them changes nothing. The machine's processor has the
        // instructions, and its kernel allows them.
        unsafe {
            asm!(
                "mov {0:x}, ds",
                "mov {1:x}, es",
                "mov {2:x}, fs",
                "mov {3:x}, gs",
                "rdfsbase {4}",
                "rdgsbase {5}",
                out(reg) ds,
                out(reg) es,
                out(reg) fs,
                out(reg) gs,
                out(reg) fs_base,
                out(reg) gs_base,
                options(nomem, nostack, preserves_flags),
            );
        }
        Self {
            selectors: [ds, es, fs, gs],
            bases: [fs_base, gs_base],
        }
    }
}

/// Whether the processor has protection keys, and the kernel uses them.
pub fn has_pkru() -> bool {
    const OSPKE: u32 = 1 << 4;
    __cpuid_count(7, 0).ecx & OSPKE != 0
}

fn read_pkru() -> u32 {
    let pkru;
    // SAFETY: reading it changes nothing. The callers know that the processor has it.
    unsafe { asm!("rdpkru", in("ecx") 0, out("eax") pkru, out("edx") _) };
    pkru
}

fn write_pkru(pkru: u32) {
    // SAFETY: it allows all that is done with memory of the first key.
    unsafe { asm!("wrpkru", in("eax") pkru, in("ecx") 0, in("edx") 0) };
}

/// The kernel keeps the processor's number in TSC_AUX, which programs read with
/// the time.
fn check_tsc_aux() {
    loop {
        // SAFETY: reading them changes nothing.
        let (before, aux, after) = unsafe {
            let mut aux = 0;
            let before = libc::sched_getcpu();
            std::arch::x86_64::__rdtscp(&raw mut aux);
            (before, aux, libc::sched_getcpu())
        };
        // Otherwise the task has moved meanwhile.
        if before == after {
            assert_eq!(aux & 0xfff, before as u32, "TSC_AUX");
            return;
        }
    }
}
