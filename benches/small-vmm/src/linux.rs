//! Linux in a VM with a serial port, by the 64-bit boot protocol.

use std::fs::{self, File};
use std::io::{self, Stdout};
use std::path::Path;

use anyhow::{Context, Result, bail};
use kvm_bindings::{kvm_fpu, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuExit;
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{BzImage, Cmdline, KernelLoader, load_cmdline};
use vm_memory::{Bytes, GuestAddress};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::vm::Vm;

const MEMORY: usize = 128 << 20;
/// The first address that is not memory of a PC.
const LOW_END: u64 = 0x9_fc00;
/// The address of the memory above.
const HIGH: u64 = 0x10_0000;

/// Where the VMM puts what the kernel reads.
const GDT: GuestAddress = GuestAddress(0x500);
const BOOT_PARAMS: GuestAddress = GuestAddress(0x7000);
const TABLES: u64 = 0x9000;
const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
const CMDLINE_SIZE: usize = 2048;
const INITRD: GuestAddress = GuestAddress(0x400_0000);

/// The offset of the 64-bit entry.
const ENTRY: u64 = 0x200;

/// The serial port, and its interrupt.
const SERIAL: u16 = 0x3f8;
const SERIAL_END: u16 = SERIAL + 7;
const SERIAL_GSI: u32 = 4;

/// The interrupt of a device, as an eventfd that KVM reads.
struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

type Console = Serial<Interrupt, NoEvents, Stdout>;

/// Boots a kernel, and returns when it resets the machine.
pub fn boot(kernel: &Path, initrd: &Path, cmdline: &str) -> Result<()> {
    let mut vm = Vm::new(MEMORY, 0)?;
    let entry = load(&vm, kernel, initrd, cmdline)?;
    enter(&vm, entry)?;
    let interrupt = EventFd::new(EFD_NONBLOCK).context("eventfd")?;
    vm.vm
        .register_irqfd(&interrupt, SERIAL_GSI)
        .context("KVM_IRQFD")?;
    run(&mut vm, Serial::new(Interrupt(interrupt), io::stdout()))
}

/// Puts everything into memory. Returns the address of the entry.
fn load(vm: &Vm, kernel: &Path, initrd: &Path, cmdline: &str) -> Result<u64> {
    let memory = &vm.memory;
    let mut image = File::open(kernel).with_context(|| kernel.display().to_string())?;
    let loaded = BzImage::load(memory, None, &mut image, Some(GuestAddress(HIGH)))?;
    let disk = fs::read(initrd).with_context(|| initrd.display().to_string())?;
    memory.write_slice(&disk, INITRD).context("the RAM disk")?;
    let cmdline = Cmdline::try_from(cmdline, CMDLINE_SIZE)?;
    load_cmdline(memory, CMDLINE, &cmdline)?;

    let mut params = boot_params {
        hdr: loaded.setup_header.context("the kernel has no header")?,
        ..Default::default()
    };
    // The loader has no number of its own.
    params.hdr.type_of_loader = 0xff;
    params.hdr.cmd_line_ptr = CMDLINE.0 as u32;
    params.hdr.ramdisk_image = INITRD.0 as u32;
    params.hdr.ramdisk_size = disk.len().try_into().context("the RAM disk is too large")?;
    let usable = |addr, end: u64| boot_e820_entry {
        addr,
        size: end - addr,
        r#type: 1,
    };
    params.e820_table[0] = usable(0, LOW_END);
    params.e820_table[1] = usable(HIGH, MEMORY as u64);
    params.e820_entries = 2;
    let params = BootParams::new(&params, BOOT_PARAMS);
    LinuxBootConfigurator::write_bootparams(&params, memory)?;
    Ok(loaded.kernel_load.0 + ENTRY)
}

/// Lets the vCPU begin at the 64-bit entry, with the first GiB mapped to itself.
fn enter(vm: &Vm, entry: u64) -> Result<()> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let [pml4, pdpt, pd] = [0, 1, 2].map(|page| TABLES + page * 0x1000);
    let put = |value: u64, at: u64| vm.memory.write_obj(value, GuestAddress(at));
    put(pdpt | PRESENT_WRITABLE, pml4)?;
    put(pd | PRESENT_WRITABLE, pdpt)?;
    for nth in 0..512 {
        put(nth << 21 | PRESENT_WRITABLE | LARGE, pd + 8 * nth)?;
    }

    let flat = kvm_segment {
        limit: u32::MAX,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    // The boot protocol names these selectors.
    let code = kvm_segment {
        selector: 0x10,
        type_: 0b1011,
        l: 1,
        ..flat
    };
    let data = kvm_segment {
        selector: 0x18,
        type_: 0b0011,
        db: 1,
        ..flat
    };
    let gdt = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff_u64];
    vm.memory.write_obj(gdt, GDT)?;
    let mut sregs = vm.vcpu.get_sregs().context("KVM_GET_SREGS")?;
    sregs.gdt.base = GDT.0;
    sregs.gdt.limit = size_of_val(&gdt) as u16 - 1;
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.cr3 = pml4;
    // PAE; long mode, enabled and active; protection and paging.
    sregs.cr4 |= 1 << 5;
    sregs.efer |= 1 << 8 | 1 << 10;
    sregs.cr0 |= 1 | 1 << 31;
    vm.vcpu.set_sregs(&sregs).context("KVM_SET_SREGS")?;
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    vm.vcpu.set_fpu(&fpu).context("KVM_SET_FPU")?;
    let regs = kvm_regs {
        rip: entry,
        rsi: BOOT_PARAMS.0,
        rflags: 2,
        ..Default::default()
    };
    vm.vcpu.set_regs(&regs).context("KVM_SET_REGS")
}

fn run(vm: &mut Vm, mut console: Console) -> Result<()> {
    loop {
        match vm.vcpu.run()? {
            VcpuExit::IoOut(port @ SERIAL..=SERIAL_END, &[value]) => {
                let written = console.write((port - SERIAL) as u8, value);
                written.map_err(|error| anyhow::anyhow!("the console: {error:?}"))?;
            }
            VcpuExit::IoIn(port @ SERIAL..=SERIAL_END, [value]) => {
                *value = console.read((port - SERIAL) as u8);
            }
            // Nothing is there.
            VcpuExit::IoIn(_, data) | VcpuExit::MmioRead(_, data) => data.fill(0xff),
            VcpuExit::IoOut(..) | VcpuExit::MmioWrite(..) => {}
            VcpuExit::Shutdown => return Ok(()),
            exit => bail!("the guest ended with {exit:?}"),
        }
    }
}
