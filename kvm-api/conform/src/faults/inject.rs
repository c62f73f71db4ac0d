//! The kernel's fault injection: the nth allocation or copy in a call fails.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};

const DEBUGFS: &str = "/sys/kernel/debug";
const NTH: &str = "/proc/thread-self/fail-nth";

/// The operations that fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Copies from and to user space.
    Copies,
    /// Copies, and allocations of slab objects and pages.
    All,
}

/// The faults of this thread: the file that arms them.
pub struct Faults(File);

impl Faults {
    /// Prepares for faults of this kind.
    pub fn new(kind: Kind) -> Result<Self> {
        // By default, the kernel excepts allocations that may wait, and single
        // pages.
        let (excepted, order) = match kind {
            Kind::Copies => ("Y", "32"),
            Kind::All => ("N", "0"),
        };
        set("failslab/ignore-gfp-wait", excepted)?;
        set("fail_page_alloc/ignore-gfp-wait", excepted)?;
        set("fail_page_alloc/ignore-gfp-highmem", excepted)?;
        set("fail_page_alloc/min-order", order)?;
        for what in ["failslab", "fail_page_alloc", "fail_usercopy"] {
            // Do not print a stack for each fault.
            set(&format!("{what}/verbose"), "0")?;
        }
        let nth = File::options().read(true).write(true).open(NTH);
        Ok(Self(nth.context(NTH)?))
    }

    /// Makes `call` with a fault at its `n`th chance, and returns whether the
    /// fault occurred.
    pub fn during<T>(&self, n: u32, call: impl FnOnce() -> T) -> Result<(T, bool)> {
        let armed = self.0.write_at(n.to_string().as_bytes(), 0);
        armed.context(NTH)?;
        let result = call();
        let mut text = [0; 16];
        // If the fault has not occurred yet, it may hit this read.
        let injected = matches!(self.0.read_at(&mut text, 0), Ok(1..) if text[0] == b'0');
        self.disarm()?;
        Ok((result, injected))
    }

    fn disarm(&self) -> Result<()> {
        // A pending fault may hit this call, and is then used up.
        for _ in 0..3 {
            if self.0.write_at(b"0", 0).is_ok() {
                return Ok(());
            }
        }
        bail!("{NTH} cannot be written");
    }
}

fn set(knob: &str, value: &str) -> Result<()> {
    let path = format!("{DEBUGFS}/{knob}");
    fs::write(&path, value).context(path)
}
