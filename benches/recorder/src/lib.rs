//! A QEMU plugin that passes executed instructions and their memory accesses to a
//! [`Recorder`] from the first mark on, and writes the recording when QEMU exits.
//!
//! `-plugin librecorder.so,out=FILE` loads it. Before the first mark it watches only for
//! marks, so that a boot takes no longer than usual.

#![allow(missing_docs)]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use profile::marker::Marker;
use profile::{Code, Recorder};
use qemu_plugin_sys::*;

/// The version of QEMU's plugin interface.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = QEMU_PLUGIN_VERSION as c_int;

/// The recorder, and the name of the file for its recording.
static RECORDER: Mutex<Option<(Recorder, String)>> = Mutex::new(None);
/// Whether the plugin watches all instructions.
static WATCHING: AtomicBool = AtomicBool::new(false);

/// Installs the plugin. QEMU calls this when it loads the plugin.
///
/// # Safety
///
/// `argv` points to `argc` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: qemu_plugin_id_t,
    _info: *const qemu_info_t,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let args = (0..argc as usize).map(|nth| {
        // SAFETY: by the contract of this function.
        unsafe { CStr::from_ptr(*argv.add(nth)) }.to_string_lossy()
    });
    let mut out = args.filter_map(|arg| Some(arg.strip_prefix("out=")?.to_owned()));
    let Some(out) = out.next() else {
        say("recorder: no out=FILE");
        return 1;
    };
    *RECORDER.lock().expect("it is not poisoned") = Some((Recorder::default(), out));
    // SAFETY: the id is this plugin's, and the functions live as long as the plugin.
    unsafe { register(id) };
    0
}

/// # Safety
///
/// `id` is this plugin's.
unsafe extern "C" fn register(id: qemu_plugin_id_t) {
    // SAFETY: the functions live as long as the plugin.
    unsafe {
        qemu_plugin_register_vcpu_tb_trans_cb(id, Some(translate));
        qemu_plugin_register_atexit_cb(id, Some(finish), null_mut());
    }
}

/// Watches the marks of a block and, after the first mark, its other instructions.
///
/// # Safety
///
/// `block` is a block of QEMU that is valid during the call.
unsafe extern "C" fn translate(id: qemu_plugin_id_t, block: *mut qemu_plugin_tb) {
    let watching = WATCHING.load(Ordering::Relaxed);
    // SAFETY: the block and its instructions are valid during the call.
    unsafe {
        for nth in 0..qemu_plugin_tb_n_insns(block) {
            let instruction = qemu_plugin_tb_get_insn(block, nth);
            let pc = qemu_plugin_insn_vaddr(instruction);
            let data = qemu_plugin_insn_data(instruction).cast::<u8>();
            let bytes = std::slice::from_raw_parts(data, qemu_plugin_insn_size(instruction));
            let (call, data): (unsafe extern "C" fn(c_uint, *mut c_void), u64) =
                match Marker::of(bytes) {
                    Some(marker) if watching => (mark, marker as u64),
                    Some(_) => (begin, id),
                    None if watching => (execute, place(pc, bytes)),
                    None => continue,
                };
            qemu_plugin_register_vcpu_insn_exec_cb(
                instruction,
                Some(call),
                qemu_plugin_cb_flags::QEMU_PLUGIN_CB_NO_REGS,
                std::ptr::without_provenance_mut(data as usize),
            );
            if watching {
                qemu_plugin_register_vcpu_mem_cb(
                    instruction,
                    Some(access),
                    qemu_plugin_cb_flags::QEMU_PLUGIN_CB_NO_REGS,
                    qemu_plugin_mem_rw::QEMU_PLUGIN_MEM_RW,
                    null_mut(),
                );
            }
        }
    }
}

/// Watches all instructions from the first mark on. QEMU translates all blocks again, the
/// current block after its end.
unsafe extern "C" fn begin(_processor: c_uint, id: *mut c_void) {
    if !WATCHING.swap(true, Ordering::Relaxed) {
        // SAFETY: the id is this plugin's.
        unsafe { qemu_plugin_reset(id.addr() as u64, Some(register)) };
    }
}

unsafe extern "C" fn mark(processor: c_uint, marker: *mut c_void) {
    let marker = Marker::ALL
        .into_iter()
        .find(|it| *it as usize == marker.addr());
    with_recorder(|it| it.mark(processor as usize, marker.expect("translate() gave it")));
}

unsafe extern "C" fn execute(processor: c_uint, place: *mut c_void) {
    with_recorder(|it| it.execute(processor as usize, place.addr() as u32));
}

unsafe extern "C" fn access(
    processor: c_uint,
    info: qemu_plugin_meminfo_t,
    address: u64,
    _: *mut c_void,
) {
    // SAFETY: the information is valid during the call.
    let (is_store, order) = unsafe {
        (
            qemu_plugin_mem_is_store(info),
            qemu_plugin_mem_size_shift(info),
        )
    };
    with_recorder(|it| it.access(processor as usize, address, 1 << order, is_store));
}

/// Returns the number by which the recorder knows an instruction, or 0 without a recorder.
fn place(pc: u64, bytes: &[u8]) -> u64 {
    let bytes = bytes.to_vec();
    let place = with_recorder(|it| it.place(Code { pc, bytes }));
    place.unwrap_or_default().into()
}

fn with_recorder<T>(f: impl FnOnce(&mut Recorder) -> T) -> Option<T> {
    let mut recorder = RECORDER.lock().expect("it is not poisoned");
    recorder.as_mut().map(|(recorder, _)| f(recorder))
}

unsafe extern "C" fn finish(_id: qemu_plugin_id_t, _: *mut c_void) {
    let recorder = RECORDER.lock().expect("it is not poisoned").take();
    let Some((recorder, out)) = recorder else {
        return;
    };
    let written = File::create(&out).and_then(|file| {
        let mut file = BufWriter::new(file);
        serde_json::to_writer(&mut file, &recorder.finish())?;
        file.flush()
    });
    if let Err(error) = written {
        say(&format!("recorder: cannot write {out}: {error}"));
    }
}

fn say(what: &str) {
    let what = CString::new(format!("{what}\n")).unwrap_or_default();
    // SAFETY: the string is valid during the call.
    unsafe { qemu_plugin_outs(what.as_ptr()) };
}
