//! The instruction itself, for each number of arguments: the kernel takes the
//! call's number in `rax`, the arguments in `rdi`, `rsi`, `rdx`, `r10`, `r8` and
//! `r9`, and returns the result in `rax`. The instruction overwrites `rcx` and `r11`.

use std::arch::asm;

use libc::c_long;

macro_rules! syscalls {
    ($( $(#[doc = $doc:literal])* $name:ident($($arg:ident in $register:tt),*); )*) => {$(
        $(#[doc = $doc])*
        ///
        /// # Safety
        ///
        /// The call must do nothing that is unsound in Rust.
        #[inline(always)]
        pub unsafe fn $name(number: c_long $(, $arg: usize)*) -> isize {
            let answer: isize;
            // SAFETY: the caller answers for the call. The operands below list the
            // registers that the instruction changes. It keeps the flags and the red zone.
            unsafe {
                asm!(
                    "syscall",
                    inlateout("rax") number as isize => answer,
                    $(in($register) $arg,)*
                    lateout("rcx") _,
                    lateout("r11") _,
                    options(nostack, preserves_flags),
                );
            }
            answer
        }
    )*};
}

syscalls! {
    /// A system call without arguments.
    syscall0();
    /// A system call with one argument.
    syscall1(a in "rdi");
    /// A system call with two arguments.
    syscall2(a in "rdi", b in "rsi");
    /// A system call with three arguments.
    syscall3(a in "rdi", b in "rsi", c in "rdx");
    /// A system call with four arguments.
    syscall4(a in "rdi", b in "rsi", c in "rdx", d in "r10");
    /// A system call with five arguments.
    syscall5(a in "rdi", b in "rsi", c in "rdx", d in "r10", e in "r8");
    /// A system call with six arguments.
    syscall6(a in "rdi", b in "rsi", c in "rdx", d in "r10", e in "r8", f in "r9");
}
