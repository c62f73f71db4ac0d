//! A seccomp filter can allow or deny each call by its number alone.

use anyhow::{Result, ensure};
use kvm_api::Errno;
use kvm_api::kvm_sys::{Call, FlatCall};
use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    SECCOMP_SET_MODE_FILTER, sock_filter, sock_fprog,
};
use nix::sys::prctl::set_no_new_privs;

use super::NamedCase;
use super::child;
use crate::arguments::{Arguments, CallResult};

pub const CASES: &[NamedCase] = &[("a filter by number", by_number)];

/// The errno of the filter, which no call returns itself.
const DENIED: Errno = Errno::EXDEV;

fn by_number() -> Result<()> {
    for denied in FlatCall::ALL {
        let answers: Vec<CallResult> = child::run(|| {
            deny(denied.row())?;
            let mut arguments = Arguments::new()?;
            Ok(FlatCall::ALL.map(|call| arguments.flat(call, -1)).to_vec())
        })?;
        for (call, answer) in FlatCall::ALL.into_iter().zip(answers) {
            ensure!(
                (answer == CallResult::refused(DENIED)) == (call.number == denied.number),
                "with {} denied, {} gives {answer:?}",
                denied.name,
                call.name
            );
        }
    }
    Ok(())
}

/// Denies this process one call.
fn deny(call: &Call) -> Result<()> {
    let step = |code: u32, jt, jf, k| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut steps = [
        // The number is the first field of the filter's data.
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, call.number as u32),
        step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | DENIED as u32),
        step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    set_no_new_privs()?;
    // SAFETY: the program is as the call takes it, and is copied.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)
    })?;
    Ok(())
}
