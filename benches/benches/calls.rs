//! Every call and kind of exit by criterion, on the machine that this runs on;
//! ids are `case/interface`.
//!
//! Natively that is `cargo bench`, in the patched machine
//! `cargo run -p kernel-patch -- cargo -- bench`.

use std::process::ExitCode;

use benches::counter;
use benches::estimate::Criteria;
use benches::{Interfaces, cases};

fn main() -> ExitCode {
    // `cargo test` only builds and starts benches.
    if !std::env::args().any(|arg| arg == "--bench") {
        return ExitCode::SUCCESS;
    }
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> anyhow::Result<()> {
    let interfaces = Interfaces::open()?;
    if let Some(why) = &interfaces.no_syscalls {
        eprintln!("Without the system calls: {why}");
    }
    if !interfaces.long_mode {
        eprintln!("Without guests in 64-bit mode, which this KVM does not run");
    }
    if interfaces.processors < 2 {
        eprintln!("Without the cases that need another processor, which this machine lacks");
    }
    let mut criteria = Criteria::from_args(counter::detect());
    let mut failures = 0;
    for case in cases::all().filter(|case| interfaces.can(case)) {
        let workloads = interfaces.workloads(case);
        let workloads = workloads.filter_map(|(interface, prepared)| match prepared {
            Ok(workload) => Some((interface, workload)),
            Err(error) => {
                eprintln!("error: {} by {interface}: {error:#}", case.name);
                failures += 1;
                None
            }
        });
        criteria.measure(case.name, workloads);
    }
    criteria.finish();
    anyhow::ensure!(failures == 0, "{failures} workloads were not measured");
    Ok(())
}
