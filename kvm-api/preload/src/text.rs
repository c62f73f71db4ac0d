//! Text without the heap.

use std::fmt::{self, Write};

use kvm_sys::instruction::syscall6;

/// Text in memory of its own.
pub(crate) struct Text {
    memory: &'static mut [u8],
    length: usize,
}

impl Text {
    /// Room for a text of this size.
    pub(crate) fn new(size: usize) -> Option<Self> {
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
        let (anywhere, no_fd) = (0, usize::MAX);
        // SAFETY: a new mapping, wherever there is room.
        let start =
            unsafe { syscall6(libc::SYS_mmap, anywhere, size, protection, flags, no_fd, 0) };
        let start = usize::try_from(start).ok()?;
        let start = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: the whole of the mapping, which stays, and which nobody else knows.
        let memory = unsafe { std::slice::from_raw_parts_mut(start, size) };
        Some(Self { memory, length: 0 })
    }

    /// The text.
    pub(crate) fn done(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl Write for Text {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let end = self.length + more.len();
        let place = self.memory.get_mut(self.length..end).ok_or(fmt::Error)?;
        place.copy_from_slice(more.as_bytes());
        self.length = end;
        Ok(())
    }
}
