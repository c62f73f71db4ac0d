//! A QEMU plugin that passes executed instructions to a [`Recorder`] from the first mark on,
//! and writes the recording when QEMU exits.
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

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl};
use profile::Recorder;
use profile::marker::Marker;
use profile::stream::{Instruction, Kind};
use qemu_plugin_sys::*;

/// The version of QEMU's plugin interface.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = QEMU_PLUGIN_VERSION as c_int;

static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);
static OUT: Mutex<String> = Mutex::new(String::new());
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
    *OUT.lock().expect("it is not poisoned") = out;
    *RECORDER.lock().expect("it is not poisoned") = Some(Recorder::default());
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
                    None if watching => (execute, pack(pc, bytes)),
                    None => continue,
                };
            qemu_plugin_register_vcpu_insn_exec_cb(
                instruction,
                Some(call),
                qemu_plugin_cb_flags::QEMU_PLUGIN_CB_NO_REGS,
                std::ptr::without_provenance_mut(data as usize),
            );
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

unsafe extern "C" fn execute(processor: c_uint, packed: *mut c_void) {
    with_recorder(|it| it.execute(processor as usize, unpack(packed.addr() as u64)));
}

fn with_recorder(f: impl FnOnce(&mut Recorder)) {
    if let Some(recorder) = &mut *RECORDER.lock().expect("it is not poisoned") {
        f(recorder);
    }
}

const KINDS: [Kind; 7] = [
    Kind::Plain,
    Kind::Call,
    Kind::Return,
    Kind::Jump,
    Kind::SystemCall,
    Kind::Leave,
    Kind::Vmrun,
];

/// Packs an instruction into a word, because allocated memory would never be freed. An
/// address has 48 significant bits.
fn pack(pc: u64, bytes: &[u8]) -> u64 {
    pc << 16 | (kind(pc, bytes) as u64) << 8 | bytes.len() as u64
}

fn unpack(packed: u64) -> Instruction {
    Instruction {
        pc: (packed as i64 >> 16) as u64,
        len: packed as u8,
        kind: KINDS[usize::from((packed >> 8) as u8)],
    }
}

fn kind(pc: u64, bytes: &[u8]) -> Kind {
    let mut decoder = Decoder::with_ip(64, bytes, pc, DecoderOptions::NONE);
    let instruction = decoder.decode();
    match instruction.code() {
        Code::Syscall | Code::Sysenter => return Kind::SystemCall,
        Code::Sysretd | Code::Sysretq | Code::Iretq | Code::Iretd | Code::Iretw => {
            return Kind::Leave;
        }
        Code::Vmrunq | Code::Vmrund | Code::Vmlaunch | Code::Vmresume => return Kind::Vmrun,
        _ => {}
    }
    match instruction.flow_control() {
        FlowControl::Call | FlowControl::IndirectCall => Kind::Call,
        FlowControl::Return => Kind::Return,
        FlowControl::UnconditionalBranch
        | FlowControl::IndirectBranch
        | FlowControl::ConditionalBranch => Kind::Jump,
        _ => Kind::Plain,
    }
}

unsafe extern "C" fn finish(_id: qemu_plugin_id_t, _: *mut c_void) {
    let recorder = RECORDER.lock().expect("it is not poisoned").take();
    let out = OUT.lock().expect("it is not poisoned");
    let sections = recorder.map(Recorder::finish).unwrap_or_default();
    let written = File::create(&*out).and_then(|file| {
        let mut file = BufWriter::new(file);
        serde_json::to_writer(&mut file, &sections)?;
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
