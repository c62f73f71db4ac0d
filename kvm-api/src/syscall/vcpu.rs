//! The calls on a vCPU, written once. A flat or merged call takes the descriptor of the
//! vCPU as its first argument. The same call on a bound vCPU takes none, and has another
//! number.

use kvm_sys::Call;
use libc::c_long;

/// The number of a call that takes the descriptor of a vCPU.
pub const fn flat(call: &Call) -> c_long {
    call.number
}

/// The number of the same call on the bound vCPU.
pub const fn bound(call: &Call) -> c_long {
    match call.bound {
        Some(number) => number,
        None => panic!("the call takes no vCPU"),
    }
}

/// Makes a system call with up to six arguments. Its number is a constant.
macro_rules! syscall {
    (@ $syscall:ident $number:expr $(, $argument:expr)*) => {
        $syscall(const { $number } $(, $argument)*)
    };
    ($number:expr) => { syscall!(@ syscall0 $number) };
    ($number:expr, $a:expr) => { syscall!(@ syscall1 $number, $a) };
    ($number:expr, $a:expr, $b:expr) => { syscall!(@ syscall2 $number, $a, $b) };
    ($number:expr, $a:expr, $b:expr, $c:expr) => { syscall!(@ syscall3 $number, $a, $b, $c) };
    ($number:expr, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr $(,)?) => {
        syscall!(@ syscall5 $number, $a, $b, $c, $d, $e)
    };
    ($number:expr, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr, $f:expr $(,)?) => {
        syscall!(@ syscall6 $number, $a, $b, $c, $d, $e, $f)
    };
}

/// The methods for the calls on a vCPU. `$number` gives the number of a call. `$vcpu` is
/// the parameter for the descriptor, if the calls take one.
macro_rules! vcpu_calls {
    ($number:ident $(, $vcpu:ident)?) => {
        #[inline]
        fn kvm_run<'r>(
            &self,
            $($vcpu: BorrowedFd<'_>,)?
            run: &'r mut RunMapping,
        ) -> Result<Exit<'r>> {
            // SAFETY: the kernel writes the vCPU's run mapping, which is only ever
            // copied from, and memory that the guest was given.
            done(unsafe {
                syscall!($number(FlatCall::kvm_run.row()) $(, fd($vcpu))?)
            }).map(|()| run.exit())
        }

        #[inline]
        fn kvm_get_regs(&self $(, $vcpu: BorrowedFd<'_>)?, regs: &mut kvm_regs) -> Result<()> {
            // SAFETY: the kernel writes one such structure.
            done(unsafe {
                syscall!($number(FlatCall::kvm_get_regs.row()) $(, fd($vcpu))?, output(regs))
            })
        }

        #[inline]
        fn kvm_set_regs(&self $(, $vcpu: BorrowedFd<'_>)?, regs: &kvm_regs) -> Result<()> {
            // SAFETY: the kernel reads one such structure.
            done(unsafe {
                syscall!($number(FlatCall::kvm_set_regs.row()) $(, fd($vcpu))?, input(regs))
            })
        }

        #[inline]
        fn kvm_get_sregs(&self $(, $vcpu: BorrowedFd<'_>)?, sregs: &mut kvm_sregs) -> Result<()> {
            // SAFETY: the kernel writes one such structure.
            done(unsafe {
                syscall!($number(FlatCall::kvm_get_sregs.row()) $(, fd($vcpu))?, output(sregs))
            })
        }

        #[inline]
        fn kvm_set_sregs(&self $(, $vcpu: BorrowedFd<'_>)?, sregs: &kvm_sregs) -> Result<()> {
            // SAFETY: the kernel reads one such structure.
            done(unsafe {
                syscall!($number(FlatCall::kvm_set_sregs.row()) $(, fd($vcpu))?, input(sregs))
            })
        }

        #[inline]
        fn kvm_translate(
            &self,
            $($vcpu: BorrowedFd<'_>,)?
            linear_address: u64,
            physical_address: &mut u64,
            valid: &mut u8,
            writeable: &mut u8,
            usermode: &mut u8,
        ) -> Result<()> {
            // SAFETY: the kernel writes one word and three bytes.
            done(unsafe {
                syscall!(
                    $number(FlatCall::kvm_translate.row()),
                    $(fd($vcpu),)?
                    linear_address as usize,
                    output(physical_address),
                    output(valid),
                    output(writeable),
                    output(usermode),
                )
            })
        }

        #[inline]
        fn kvm_interrupt(&self $(, $vcpu: BorrowedFd<'_>)?, irq: u32) -> Result<()> {
            // SAFETY: the call touches no memory.
            done(unsafe {
                syscall!($number(FlatCall::kvm_interrupt.row()) $(, fd($vcpu))?, irq as usize)
            })
        }

        #[inline]
        fn kvm_debug_guest(
            &self,
            $($vcpu: BorrowedFd<'_>,)?
            debug: &kvm_guest_debug,
        ) -> Result<()> {
            // SAFETY: the kernel reads one such structure.
            done(unsafe {
                syscall!($number(FlatCall::kvm_debug_guest.row()) $(, fd($vcpu))?, input(debug))
            })
        }

        #[inline]
        fn kvm_get_msrs(&self $(, $vcpu: BorrowedFd<'_>)?, msrs: &mut Msrs) -> Result<usize> {
            let msrs = msrs.as_mut_fam_struct_ptr();
            // SAFETY: the kernel reads the header, and reads and writes as many
            // elements as it says that there are.
            number(unsafe {
                syscall!($number(FlatCall::kvm_get_msrs.row()) $(, fd($vcpu))?, output(msrs))
            })
        }

        #[inline]
        fn kvm_set_msrs(&self $(, $vcpu: BorrowedFd<'_>)?, msrs: &Msrs) -> Result<usize> {
            let msrs = msrs.as_fam_struct_ptr();
            // SAFETY: the kernel reads the header, and as many elements as it says
            // that there are.
            number(unsafe {
                syscall!($number(FlatCall::kvm_set_msrs.row()) $(, fd($vcpu))?, input(msrs))
            })
        }

        #[inline]
        fn kvm_set_cpuid(&self $(, $vcpu: BorrowedFd<'_>)?, cpuid: &CpuId) -> Result<()> {
            let cpuid = cpuid.as_fam_struct_ptr();
            // SAFETY: the kernel reads the header, and as many elements as it says
            // that there are.
            done(unsafe {
                syscall!($number(FlatCall::kvm_set_cpuid.row()) $(, fd($vcpu))?, input(cpuid))
            })
        }

        #[inline]
        fn kvm_set_signal_mask(
            &self,
            $($vcpu: BorrowedFd<'_>,)?
            mask: Option<&SigSet>,
        ) -> Result<()> {
            let mask = mask.map(signal_mask);
            let mask = mask.as_ref().map_or(ptr::null(), ptr::from_ref);
            // SAFETY: the kernel reads one such structure, or takes NULL for none.
            done(unsafe {
                syscall!($number(FlatCall::kvm_set_signal_mask.row()) $(, fd($vcpu))?, input(mask))
            })
        }

        #[inline]
        fn kvm_get_fpu(&self $(, $vcpu: BorrowedFd<'_>)?, fpu: &mut kvm_fpu) -> Result<()> {
            // SAFETY: the kernel writes one such structure.
            done(unsafe {
                syscall!($number(FlatCall::kvm_get_fpu.row()) $(, fd($vcpu))?, output(fpu))
            })
        }

        #[inline]
        fn kvm_set_fpu(&self $(, $vcpu: BorrowedFd<'_>)?, fpu: &kvm_fpu) -> Result<()> {
            // SAFETY: the kernel reads one such structure.
            done(unsafe {
                syscall!($number(FlatCall::kvm_set_fpu.row()) $(, fd($vcpu))?, input(fpu))
            })
        }
    };
}

/// The methods for the merged calls. `$fd` makes the argument for the descriptor, if the
/// calls take one.
macro_rules! state_calls {
    ($number:ident $(, $fd:ident)?) => {
        #[inline]
        fn kvm_get_state(&self, state: &mut GetState<'_>) -> Result<usize> {
            let (state, size) = (input(state.raw()), size_of::<kvm_vcpu_state>());
            // SAFETY: the kernel reads one such structure, and writes the parts that it
            // names, which `state` borrows for that.
            number(unsafe {
                syscall!(
                    $number(MergedCall::kvm_get_state.row()) $(, $fd(self.as_fd()))?, state, size
                )
            })
        }

        #[inline]
        fn kvm_set_state(&self, state: &SetState<'_>) -> Result<usize> {
            let (state, size) = (input(state.raw()), size_of::<kvm_vcpu_state>());
            // SAFETY: the kernel reads one such structure, and the parts that it names,
            // which `state` borrows for that.
            number(unsafe {
                syscall!(
                    $number(MergedCall::kvm_set_state.row()) $(, $fd(self.as_fd()))?, state, size
                )
            })
        }
    };
}

pub(crate) use {state_calls, syscall, vcpu_calls};
