//! A seccomp filter can allow or deny each call by its number alone.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use kvm_api::Errno;
use kvm_api::kvm_sys::{Call, FlatCall};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::NamedCase;
use crate::arguments::{Arguments, CallResult};
use crate::child;

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
    let denied = BTreeMap::from([(call.number, Vec::new())]);
    let (others, this) = (SeccompAction::Allow, SeccompAction::Errno(DENIED as u32));
    let filter = SeccompFilter::new(denied, others, this, TargetArch::x86_64)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}
