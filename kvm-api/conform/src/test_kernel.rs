//! The kernel under test, and machines that run it.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use kernel_patch::{BootError, COUNTS, Captured, Kernel, KernelBuilder, Machine, Mutation};

use crate::cli::Options;
use crate::coverage::{Counts, Coverage};
use crate::inside::Input;
use crate::outcome::{OnProgress, Outcome};

/// Data races of Linux without the series, by their functions.
const UPSTREAMS_RACES: &[&str] = &[
    // Sending a signal reads the flags of a task, in which a run of its vCPU sets and
    // clears PF_VCPU.
    "__send_signal_locked / vcpu_run",
    "prepare_signal / vcpu_run",
    // It also sets a flag of the thread, whose flags KVM reads to switch SPEC_CTRL.
    "complete_signal / x86_virt_spec_ctrl",
    // A page fault reads the number of invalidations before it takes the lock under which
    // the number grows, and compares them later.
    "kvm_mmu_faultin_pfn [kvm] / kvm_mmu_invalidate_end",
    // A page fault looks up a mapping without a lock, and tries again if the tree of
    // mappings has changed.
    "mas_topiary_replace / mas_walk",
    // KVM_ENABLE_CAP writes flags of a VM, a byte each, that a vCPU's events depend on. KVM
    // reads each flag once and without a lock. With the series, it does so in a function
    // that KVM_SET_VCPU_EVENTS and kvm_set_state() share.
    "kvm_arch_vcpu_ioctl [kvm] / kvm_vm_ioctl_enable_cap",
    "kvm_vcpu_check_all_events [kvm] / kvm_vm_ioctl_enable_cap",
    "kvm_vcpu_ioctl_x86_set_vcpu_events.part.0 [kvm] / kvm_vm_ioctl_enable_cap",
    // A vCPU compares the generation of the memory slots without a lock, and looks the slot
    // up again if it has changed.
    "kvm_swap_active_memslots [kvm] / kvm_vcpu_gfn_to_memslot",
    "kvm_swap_active_memslots [kvm] / vcpu_is_mmio_gpa",
];

pub struct TestKernel<'a> {
    pub options: &'a Options,
    kernel: Kernel,
    counts: Option<Mutex<Counts>>,
}

impl<'a> TestKernel<'a> {
    /// Builds the kernel, unless it is built.
    ///
    /// # Errors
    ///
    /// The kernel does not build.
    pub fn new(options: &'a Options) -> Result<Self> {
        Ok(Self {
            options,
            kernel: builder(options).build()?,
            counts: options.debug.then(Mutex::default),
        })
    }

    /// Builds the kernel with a mutation. Its lines are not counted.
    ///
    /// # Errors
    ///
    /// The kernel does not build.
    pub fn mutated(options: &'a Options, mutation: &Mutation) -> Result<Self> {
        Ok(Self {
            options,
            kernel: builder(options).mutation(mutation).build()?,
            counts: None,
        })
    }

    /// The kernel that machines boot.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The lines of the new code that the machines have reached so far, if the
    /// kernel counts them.
    pub fn coverage(&self) -> Result<Option<Coverage>> {
        let counts = self.counts.as_ref();
        let counts = counts.map(|it| it.lock().expect("adding counts does not panic"));
        counts.map(|it| it.report(&self.kernel)).transpose()
    }

    /// The machine of a test, unless the test changes it. Its kernel may not complain.
    pub fn machine(&self) -> Machine {
        let machine = Machine::new()
            .strict(true)
            .timeout(Duration::from_secs(self.options.timeout));
        if !self.options.kcsan {
            return machine;
        }
        // A report is also a warning, at which the kernel would panic. KCSAN does not
        // look for races with interrupts.
        let machine = machine
            .cmdline("panic_on_warn=0")
            .cmdline("kcsan.interrupt_watcher=0")
            .cmdline("kcsan.skip_watch=1000");
        UPSTREAMS_RACES.iter().fold(machine, |machine, race| {
            machine.accept(format!("BUG: KCSAN: data-race in {race}"))
        })
    }

    /// Runs a program in `machine`, for the property `what`. `on_progress` receives the
    /// lines of its standard error.
    pub fn run(
        &self,
        what: &str,
        machine: Machine,
        program: &Path,
        args: &[String],
        on_progress: &OnProgress<'_>,
    ) -> Result<Captured> {
        let on_line = &mut |line: &str| on_progress(line);
        self.count(machine, |machine| {
            machine.capture(&self.kernel, what, program, args, on_line)
        })
    }

    /// Tests a property in `machine`, by this program.
    pub fn test(
        &self,
        machine: Machine,
        property: &str,
        on_progress: &OnProgress<'_>,
    ) -> Result<Outcome> {
        let input = Input {
            property: property.into(),
            options: self.options.clone(),
        };
        let on_line = &mut |line: &str| on_progress(line);
        self.count(machine, |machine| {
            machine.call(&self.kernel, property, &input, on_line)
        })
    }

    /// Runs the machine, and adds the counts of lines that it leaves.
    fn count<T>(
        &self,
        machine: Machine,
        run: impl FnOnce(&Machine) -> Result<T, BootError>,
    ) -> Result<T> {
        let scratch = tempfile::tempdir_in(kernel_patch::target_dir()?)?;
        let result = run(&machine.out(scratch.path()));
        let Some(counts) = &self.counts else {
            return Ok(result?);
        };
        // A machine that is cut short leaves no counts.
        if result.is_ok() || scratch.path().join(COUNTS).exists() {
            let mut counts = counts.lock().expect("adding counts does not panic");
            counts.add(&self.kernel, scratch.path())?;
        }
        Ok(result?)
    }
}

fn builder(options: &Options) -> KernelBuilder {
    let builder = Kernel::builder().base(options.base);
    let builder = builder.variant(options.variant()).wait(true);
    match &options.source {
        Some(source) => builder.source(source),
        None => builder,
    }
}
