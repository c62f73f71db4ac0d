//! Hands the ioctls of a program to KVM's system calls.
//!
//! Preloaded, this library takes the place of `ioctl` of the C library. It makes the
//! system call that replaces a request if both have the same effect: see [`ROUTES`]. All
//! other requests go to the kernel as ioctls. The program sees no difference. The library
//! counts the requests: see [`COUNTS_VARIABLE`] and [`REPORT_VARIABLE`]. It allocates no
//! memory, and takes no lock of the C library.
//!
//! # Why a wrong guess cannot be seen
//!
//! Which call replaces a request depends on the kind of file of the descriptor. The kernel
//! tells the kind, at the price of up to three system calls. So the library asks once for
//! each descriptor, and remembers the kind. The memory is only a hint. It may be wrong, in
//! many ways: a program closes a descriptor by `fclose`, by its own `syscall` instruction
//! or in another thread; it gets a descriptor by `SCM_RIGHTS` or `pidfd_getfd`; a child of
//! `vfork`, and a thread after `unshare(CLONE_FILES)`, have descriptors of their own and
//! the same memory. The library watches none of this, because it need not:
//!
//! - A call looks up its descriptor once, in the kernel, and there refuses a file that is
//!   not of its kind, before it does anything. So a call that the memory has chosen acts
//!   on the file that the descriptor is at that moment, and has the effect that the ioctl
//!   would have on the same file; or it has no effect, and one of the errors `EBADF`,
//!   `EINVAL`, `ENOTTY` and `ENOSYS`.
//! - After one of these errors the library makes the ioctl, whose answer the program gets,
//!   and forgets the kind. The call does not return `EBADF`, `ENOTTY` and `ENOSYS` on a
//!   file of the right kind. It may return `EINVAL`; then it has changed nothing, so that
//!   the ioctl does what it would have done alone. A filter of system calls that refuses
//!   the call, by `ENOSYS` or `EPERM`, is treated in the same way.
//! - `KVM_RUN` is the exception, since a run that ends with `EINVAL` may have had an
//!   effect. Only two kinds of file give this error: a vCPU, and `/dev/kvm`, on which the
//!   ioctl gives it too. So the answer stands.
//! - A kind of which the memory knows nothing is asked for, and a file that is not KVM's is
//!   not remembered.
//!
//! The memory is of no use where the kernel would not refuse a wrong guess.
//! `KVM_GET_MSR_INDEX_LIST` and `KVM_GET_VCPU_MMAP_SIZE` are ioctls of `/dev/kvm`, while
//! the calls also take a VM. `kvm_create_vm` takes no descriptor, and `kvm_create_vcpu` no
//! id. The library asks the kernel at each of these requests, which programs make once or
//! twice for a VM or a vCPU. [`Route::asks_each_time`] follows from the kinds that a call
//! and its ioctl take.
//!
//! One guess remains: the id of a new vCPU. The open file of the VM has the number of its
//! vCPUs, so that it does not matter by which descriptor, thread or process they were made.
//! A program that makes vCPUs both by `ioctl` and by an instruction of its own would get a
//! vCPU with another id. The library compares the id of each new vCPU, and ends the program
//! with a message if it is another.
//!
//! # Why a bound vCPU cannot be seen
//!
//! With [`BIND_VARIABLE`] a thread binds its vCPU at its first `KVM_RUN`. While the vCPU is
//! bound, the kernel refuses it to all other threads with `EBUSY`, and takes it from the
//! thread by calls that name no descriptor. Neither may be seen:
//!
//! - *No wrong vCPU.* With [`WITH_FD`], the calls go on naming the descriptor. The kernel
//!   lets the thread use its bound vCPU by a descriptor too, and what is said above holds
//!   unchanged: a call acts on the file that the descriptor is, whether that is the bound
//!   vCPU or not. With [`WITHOUT_FD`], nothing in the kernel compares the descriptor with
//!   the bound vCPU. A call that would compare them costs more than the descriptor saves. So
//!   the library has to know each change of a descriptor, and watches the functions of the C
//!   library that change one. Before the change, it unbinds the vCPU; a call without a
//!   descriptor then fails with `ENXIO`, without an effect, and the library makes the
//!   request by the descriptor. A thread binds by one number only, so that a call that a
//!   signal handler has interrupted does not reach the vCPU of another number. A change by
//!   an instruction of the program's own, by `io_uring`, or by another process that shares
//!   the descriptors is not seen: such a program needs [`WITH_FD`].
//! - *No wrong `EBUSY`.* Another thread that gets `EBUSY` asks the thread for the vCPU, and
//!   makes the request again, as an ioctl. A thread in a run gives the vCPU at the end of
//!   the run, for which the ioctl would have waited, too. Another thread gets a signal,
//!   whose handler unbinds the vCPU. `EBUSY` stays the answer of a request that gives it by
//!   itself.
//! - *No wrong `EINTR`.* A run never gets this signal: the two threads agree on who comes
//!   first. System calls that the kernel does not restart after a handler, such as `poll`
//!   and `nanosleep`, may. This can be seen, but only by a program that asks a thread for a
//!   vCPU while the thread waits in one of them. The kernel has no call by which one thread
//!   unbinds the vCPU of another, so that nothing but a signal serves the request at once.
//! - *No VM that stays.* A binding keeps its VM alive. The library unbinds the vCPU when the
//!   descriptor is closed, if it sees that.
//! - The kernel unbinds the vCPU of a thread that ends or executes another program. A child
//!   of `fork` has none. Before `vfork`, the thread unbinds its vCPU, because it waits for
//!   the child, which may use it.
//!
//! Other requests of the program on the vCPU must go by this library too: an ioctl by an
//! instruction of the program's own, or a read of one of the vCPU's files, gets `EBUSY` while
//! another thread has the vCPU bound. A thread that blocks the signal, after it has bound a
//! vCPU, and waits, keeps the vCPU from others. The library then ends the program with a
//! message, as it does if the program handles the signal itself, or if a filter of system
//! calls refuses `kvm_unbind`. The modules in `bind` have the details of the argument.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod bind;
mod bindings;
mod counts;
mod fields;
mod file;
#[cfg(feature = "interpose")]
mod interpose;
mod kinds;
mod make;
mod make_bound;
mod message;
mod outcome;
mod plain;
mod report;
mod request;
mod route;
mod start;
mod table;
mod target;
mod text;
mod totals;
mod vcpus;

pub use bind::watch::{Change, before_vfork};
pub use bind::{BIND_VARIABLE, WITH_FD, WITHOUT_FD};
pub use bindings::{Bindings, Event};
pub use counts::COUNTS_VARIABLE;
pub use outcome::Outcome;
pub use report::{REPORT_VARIABLE, finish};
pub use request::hand_over;
pub use route::Route;
pub use start::start;
pub use table::ROUTES;
pub use totals::{Counts, Line};
