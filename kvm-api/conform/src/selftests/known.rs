//! The arguments and limits of single tests, and the expected verdicts of tests
//! that do not pass. Other tests are started without arguments, and pass.

use std::time::Duration;

use super::result::Verdict;

/// How a test is started.
#[derive(Clone, Copy)]
pub struct Start {
    /// Its arguments.
    pub args: &'static [&'static str],
    /// Files of the kernel that have another value while the test runs.
    pub settings: &'static [(&'static str, &'static str)],
    /// The time limit, by the machine's clock.
    pub limit: Duration,
}

const BARE: Start = Start {
    args: &[],
    settings: &[],
    limit: Duration::from_secs(20),
};

const fn args(args: &'static [&'static str]) -> Start {
    Start { args, ..BARE }
}

const fn no_longer_than(milliseconds: u64) -> Start {
    let limit = Duration::from_millis(milliseconds);
    Start { limit, ..BARE }
}

/// A test with arguments, settings, or another time limit.
pub struct Special {
    pub test: &'static str,
    pub start: Start,
    pub why: &'static str,
}

/// Tests that do not pass.
pub struct Known {
    pub tests: &'static [&'static str],
    /// Their verdict.
    pub verdict: Verdict,
    pub why: &'static str,
}

/// How to start a test, and the reason if it is special.
pub fn start(test: &str) -> (Start, &'static str) {
    let special = SPECIALS.iter().find(|it| it.test == test);
    special.map_or((BARE, ""), |it| (it.start, it.why))
}

/// The expected verdict of a test, and the reason if it is not to pass.
pub fn expected(test: &str) -> (Verdict, &'static str) {
    let known = KNOWN.iter().find(|it| it.tests.contains(&test));
    known.map_or((Verdict::Pass, ""), |it| (it.verdict, it.why))
}

/// The names in these lists that are not among `names`.
pub fn unknown(names: &[String]) -> Vec<&'static str> {
    let here = KNOWN.iter().flat_map(|it| it.tests).copied();
    let here = here.chain(SPECIALS.iter().map(|it| it.test));
    here.filter(|name| !names.iter().any(|it| it == name))
        .collect()
}

const LESS_MEMORY: &str = "1 GiB a vcpu by default";
const NO_ARGUMENT: &str = "it takes minutes, and no argument for less";

pub const SPECIALS: &[Special] = &[
    Special {
        test: "access_tracking_perf_test",
        start: args(&["-b", "8M"]),
        why: LESS_MEMORY,
    },
    Special {
        test: "demand_paging_test",
        start: args(&["-b", "8M"]),
        why: LESS_MEMORY,
    },
    Special {
        test: "dirty_log_perf_test",
        start: args(&["-b", "8M"]),
        why: LESS_MEMORY,
    },
    Special {
        test: "dirty_log_test",
        start: args(&["-i", "3", "-I", "5", "-M", "dirty-log"]),
        why: "32 iterations of 10 ms in three modes by default; this mode's ioctl has a call",
    },
    Special {
        test: "hardware_disable_test",
        start: no_longer_than(1000),
        why: NO_ARGUMENT,
    },
    Special {
        test: "kvm_page_table_test",
        start: args(&["-b", "8M"]),
        why: LESS_MEMORY,
    },
    Special {
        test: "memslot_modification_stress_test",
        start: args(&["-b", "8M", "-i", "10"]),
        why: LESS_MEMORY,
    },
    Special {
        test: "memslot_perf_test",
        start: Start {
            args: &["-l", "1", "-s", "512"],
            ..no_longer_than(1000)
        },
        why: "10 s and 32764 slots for each of its parts by default",
    },
    Special {
        test: "set_memory_region_test",
        start: no_longer_than(1000),
        why: NO_ARGUMENT,
    },
    Special {
        test: "x86_64/dirty_log_page_splitting_test",
        start: Start {
            settings: &[("/proc/sys/vm/nr_hugepages", "64")],
            ..args(&["-b", "8M"])
        },
        why: "1 GiB a vcpu by default; huge pages have to be there before",
    },
    Special {
        test: "x86_64/hyperv_tlb_flush",
        start: no_longer_than(100),
        why: NO_ARGUMENT,
    },
    Special {
        test: "x86_64/nx_huge_pages_test",
        start: Start {
            settings: &[
                ("/proc/sys/vm/nr_hugepages", "3"),
                ("/sys/module/kvm/parameters/nx_huge_pages", "1"),
                (
                    "/sys/module/kvm/parameters/nx_huge_pages_recovery_ratio",
                    "1",
                ),
                (
                    "/sys/module/kvm/parameters/nx_huge_pages_recovery_period_ms",
                    "100",
                ),
            ],
            ..args(&["-t", "887563923", "-p", "100", "-r"])
        },
        why: "what nx_huge_pages_test.sh does",
    },
    Special {
        test: "x86_64/sync_regs_test",
        start: no_longer_than(200),
        why: NO_ARGUMENT,
    },
    Special {
        test: "x86_64/xapic_ipi_test",
        start: args(&["-s", "1"]),
        why: "3 s by default",
    },
];

pub const KNOWN: &[Known] = &[
    Known {
        tests: &[
            "x86_64/hyperv_evmcs",
            "x86_64/smaller_maxphyaddr_emulation_test",
            "x86_64/ucna_injection_test",
            "x86_64/vmx_apic_access_test",
            "x86_64/vmx_close_while_nested_test",
            "x86_64/vmx_dirty_log_test",
            "x86_64/vmx_exception_with_invalid_guest_state",
            "x86_64/vmx_invalid_nested_guest_state",
            "x86_64/vmx_msrs_test",
            "x86_64/vmx_nested_tsc_scaling_test",
            "x86_64/vmx_preemption_timer_test",
            "x86_64/vmx_set_nested_state_test",
            "x86_64/vmx_tsc_adjust_test",
        ],
        verdict: Verdict::Skip,
        why: "wants an Intel processor",
    },
    Known {
        tests: &[
            "x86_64/pmu_counters_test",
            "x86_64/pmu_event_filter_test",
            "x86_64/vmx_pmu_caps_test",
        ],
        verdict: Verdict::Skip,
        why: "wants performance counters, which the emulated processor lacks",
    },
    Known {
        tests: &[
            "x86_64/sev_init2_tests",
            "x86_64/sev_migrate_tests",
            "x86_64/sev_smoke_test",
        ],
        verdict: Verdict::Skip,
        why: "wants SEV, which the emulated processor lacks",
    },
    Known {
        tests: &[
            "x86_64/amx_test",
            "x86_64/tsc_scaling_sync",
            "x86_64/xss_msr_test",
        ],
        verdict: Verdict::Skip,
        why: "wants AMX, XSAVES or scaling of the TSC, which the emulated processor lacks",
    },
    Known {
        tests: &["rseq_test"],
        verdict: Verdict::Skip,
        why: "wants a second processor",
    },
    Known {
        tests: &["max_guest_memory_test"],
        verdict: Verdict::Fail,
        why: "counts the processors beside the first, and there is none",
    },
    Known {
        tests: &["x86_64/debug_regs"],
        verdict: Verdict::Fail,
        why: "the emulated processor does not exit on a guest's breakpoint",
    },
    Known {
        tests: &["x86_64/svm_nested_soft_inject_test"],
        verdict: Verdict::Fail,
        why: "the emulated processor does not save the next instruction's address (NRIPS)",
    },
    Known {
        tests: &["x86_64/monitor_mwait_test", "x86_64/nested_exceptions_test"],
        verdict: Verdict::Fail,
        why: "fails here over ioctl, and at the same place with the calls",
    },
    Known {
        tests: &[
            "hardware_disable_test",
            "memslot_perf_test",
            "set_memory_region_test",
            "x86_64/hyperv_tlb_flush",
            "x86_64/sync_regs_test",
        ],
        verdict: Verdict::CutOff,
        why: "too slow in emulation; nothing had failed until then",
    },
];
