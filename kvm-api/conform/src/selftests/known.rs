//! The arguments and limits of single tests, and the expected verdicts of tests
//! that do not pass. Other tests are started without arguments, and pass.

use std::time::Duration;

use kernel_patch::Base;

use super::result::Verdict;
use super::suites::SelfTest;

/// The release on which these are the results.
pub const BASE: Base = Base::V7_3;

/// How a test is started.
#[derive(Clone, Copy)]
pub struct Start {
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

/// A test with arguments, settings, or another time limit, and why.
pub struct Special(pub &'static str, pub Start, pub &'static str);

/// The verdict of tests that do not pass, why, and their names.
pub struct Known(pub Verdict, pub &'static str, pub &'static [&'static str]);

/// How to start a test, and the reason if it is special.
pub fn start(test: &str) -> (Start, &'static str) {
    let special = SPECIALS.iter().find(|Special(name, ..)| *name == test);
    special.map_or((BARE, ""), |Special(_, start, why)| (*start, *why))
}

/// The expected verdict of a test, and the reason if the test is not expected to pass.
pub fn expected(test: &str) -> (Verdict, &'static str) {
    let known = KNOWN.iter().find(|Known(.., tests)| tests.contains(&test));
    known.map_or((Verdict::Pass, ""), |Known(verdict, why, _)| {
        (*verdict, *why)
    })
}

/// The names in these lists of which there is no test.
pub fn unknown(tests: &[SelfTest]) -> Vec<&'static str> {
    let known = KNOWN.iter().flat_map(|Known(.., tests)| *tests).copied();
    let special = SPECIALS.iter().map(|Special(name, ..)| *name);
    let is_unknown = |name: &&str| !tests.iter().any(|it| it.name == *name);
    known.chain(special).filter(is_unknown).collect()
}

const LESS_MEMORY: Start = args(&["-b", "8M"]);
const BY_DEFAULT: &str = "1 GiB for each vCPU by default";
const FORCED_EMULATION: Start = Start {
    settings: &[("/sys/module/kvm/parameters/force_emulation_prefix", "1")],
    ..BARE
};
const SKIPS_WITHOUT: &str = "it skips without this setting";
const NO_ARGUMENT: &str = "it takes minutes, and has no option to shorten it";

pub const SPECIALS: &[Special] = &[
    Special("access_tracking_perf_test", LESS_MEMORY, BY_DEFAULT),
    Special("demand_paging_test", LESS_MEMORY, BY_DEFAULT),
    Special("dirty_log_perf_test", LESS_MEMORY, BY_DEFAULT),
    Special(
        "dirty_log_test",
        args(&["-i", "3", "-I", "5", "-M", "dirty-log"]),
        "32 iterations of 10 ms in three modes by default; this mode's ioctl has a call",
    ),
    Special("hardware_disable_test", no_longer_than(1000), NO_ARGUMENT),
    Special(
        "irq_test",
        args(&["-i", "10"]),
        "1000 interrupts by default, each up to a tick on one processor",
    ),
    Special("kvm_page_table_test", LESS_MEMORY, BY_DEFAULT),
    Special(
        "memslot_modification_stress_test",
        args(&["-b", "8M", "-i", "10"]),
        BY_DEFAULT,
    ),
    Special(
        "memslot_perf_test",
        Start {
            args: &["-l", "1", "-s", "512"],
            ..no_longer_than(1000)
        },
        "10 s and 32764 slots for each of its parts by default",
    ),
    Special(
        "mmu_stress_test",
        args(&["-c", "1", "-m", "1", "-s", "1"]),
        "a vCPU for each processor but one, and 128 GiB, by default",
    ),
    Special("set_memory_region_test", no_longer_than(1000), NO_ARGUMENT),
    Special(
        "x86/dirty_log_page_splitting_test",
        Start {
            settings: &[("/proc/sys/vm/nr_hugepages", "64")],
            ..LESS_MEMORY
        },
        "1 GiB for each vCPU by default; the test needs huge pages",
    ),
    Special("x86/fastops_test", FORCED_EMULATION, SKIPS_WITHOUT),
    Special("x86/hyperv_tlb_flush", no_longer_than(100), NO_ARGUMENT),
    Special("x86/nested_emulation_test", FORCED_EMULATION, SKIPS_WITHOUT),
    Special(
        "x86/nx_huge_pages_test",
        Start {
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
        "what nx_huge_pages_test.sh does",
    ),
    Special(
        "x86/save_restore_pf_stress_test",
        no_longer_than(1000),
        NO_ARGUMENT,
    ),
    Special("x86/sync_regs_test", no_longer_than(200), NO_ARGUMENT),
    Special("x86/xapic_ipi_test", args(&["-s", "1"]), "3 s by default"),
];

pub const KNOWN: &[Known] = &[
    Known(
        Verdict::Skip,
        "requires an Intel processor",
        &[
            "x86/evmcs_smm_controls_test",
            "x86/hyperv_evmcs",
            "x86/smaller_maxphyaddr_emulation_test",
            "x86/ucna_injection_test",
            "x86/vmx_apic_access_test",
            "x86/vmx_apicv_updates_test",
            "x86/vmx_exception_with_invalid_guest_state",
            "x86/vmx_invalid_nested_guest_state",
            "x86/vmx_msrs_test",
            "x86/vmx_nested_la57_state_test",
            "x86/vmx_preemption_timer_test",
        ],
    ),
    Known(
        Verdict::Skip,
        "requires performance counters, which the emulated processor lacks",
        &[
            "x86/pmu_counters_test",
            "x86/pmu_event_filter_test",
            "x86/svm_pmu_host_guest_test",
            "x86/vmx_pmu_caps_test",
        ],
    ),
    Known(
        Verdict::Skip,
        "requires SEV, which the emulated processor lacks",
        &[
            "x86/sev_dbg_test",
            "x86/sev_init2_tests",
            "x86/sev_migrate_tests",
            "x86/sev_smoke_test",
        ],
    ),
    Known(
        Verdict::Skip,
        "requires AMX, XSAVES, scaling of the TSC, APERF and MPERF, exits on bus locks, virtual \
         VMSAVE and VMLOAD, or virtual LBRs, which the emulated processor lacks",
        &[
            "x86/amx_test",
            "x86/aperfmperf_test",
            "x86/kvm_buslock_test",
            "x86/nested_tsc_scaling_test",
            "x86/nested_vmsave_vmload_test",
            "x86/svm_lbr_nested_state",
            "x86/tsc_scaling_sync",
            "x86/xss_msr_test",
        ],
    ),
    Known(Verdict::Skip, "requires a second processor", &["rseq_test"]),
    Known(
        Verdict::Fail,
        "the emulated processor does not exit on a guest's breakpoint",
        &["x86/debug_regs"],
    ),
    Known(
        Verdict::Fail,
        "the emulated processor does not save the next instruction's address (NRIPS)",
        &[
            "x86/nested_emulation_test",
            "x86/svm_nested_soft_inject_test",
        ],
    ),
    Known(
        Verdict::Fail,
        "the emulated processor keeps bits 63:32 of the MSRs of SYSENTER, which AMD's drop",
        &["x86/msrs_test"],
    ),
    Known(
        Verdict::Fail,
        "the emulated processor gives the wrong error code for a vector beyond the IDT: 16 times the vector, not 8 times",
        &["x86/nested_exceptions_test"],
    ),
    Known(
        Verdict::Fail,
        "requires SEV, which the emulated processor lacks",
        &[
            "kvm_ioctls::ioctls::vm::tests::test_encrypt_op_sev",
            "kvm_ioctls::ioctls::vm::tests::test_register_unregister_enc_memory_region",
        ],
    ),
    Known(
        Verdict::Fail,
        "requires four processors",
        &["kvm_ioctls::ioctls::system::tests::test_kvm_getters"],
    ),
    Known(
        Verdict::Fail,
        "requires scaling of the TSC, which the emulated processor lacks: the test then expects \
         an error for 0 kHz, which KVM takes for the frequency of the host",
        &["kvm_ioctls::ioctls::vcpu::tests::test_set_tsc_khz"],
    ),
    Known(
        Verdict::CutOff,
        "too slow in emulation; nothing had failed until then",
        &[
            "hardware_disable_test",
            "memslot_perf_test",
            "set_memory_region_test",
            "x86/hyperv_tlb_flush",
            "x86/save_restore_pf_stress_test",
            "x86/sync_regs_test",
        ],
    ),
];
