//! Games with descriptors: what the library remembers of a descriptor is wrong, and the
//! answers are those of the ioctl all the same.

use std::num::NonZero;
use std::os::fd::RawFd;
use std::sync::mpsc::Sender;
use std::thread;

use kvm_api::Errno;
use kvm_preload::{ROUTES, Route};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::files::{Files, NAMES, of_parent};
use super::in_child;
use super::requests::{Argument, good, of_ioctl, of_library, route};
use crate::Stage;

/// Descriptors that no file of a test has.
const FIRST: RawFd = 100;
const COUNT: RawFd = 4;

/// The number of random games, and the maximum number of steps of one.
const GAMES: u32 = 100;
const STEPS: usize = 60;

/// The size of the memory before an unmapped page.
const EDGE: usize = 16;

/// Arguments of requests.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// With which the request succeeds on the right file.
    Good,
    /// Another number; none is the address of anything.
    Number(u64),
    /// The last bytes before an unmapped page.
    Edge(u64),
}

const KINDS: [Kind; 7] = [
    Kind::Good,
    Kind::Number(0),
    Kind::Number(1),
    Kind::Number(2),
    Kind::Number(u64::MAX),
    Kind::Edge(4),
    Kind::Edge(12),
];

/// Makes a request by the library, and again by the ioctl, and compares.
pub struct Game {
    pub files: Files,
    /// The address of memory up to an unmapped page.
    edge: usize,
}

impl Game {
    pub fn new(files: Files) -> Self {
        let two = NonZero::new(0x2000).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: new memory, wherever there is room, of which the second page goes.
        let edge = unsafe {
            let pages = mmap_anonymous(None, two, protection, MapFlags::MAP_PRIVATE).unwrap();
            let second = pages.add(0x1000);
            munmap(second, 0x1000).unwrap();
            second.sub(EDGE)
        };
        let edge = edge.expose_provenance().get();
        Self { files, edge }
    }

    /// Whether the library hands the request over is not seen here, but the answer is.
    fn compare(&self, fd: RawFd, route: &Route, kind: Kind, history: &str) {
        let argument = || match kind {
            Kind::Good => good(route, self.files.named("a vCPU"), self.files.page),
            Kind::Number(number) => Argument::Number(number),
            Kind::Edge(bytes) => {
                let memory = std::ptr::with_exposed_provenance_mut::<[u8; EDGE]>(self.edge);
                // SAFETY: the memory is there, and nobody else uses it.
                unsafe { memory.write([0; _]) };
                Argument::Number((self.edge + EDGE) as u64 - bytes)
            }
        };
        let library = of_library(fd, route, argument());
        let mut ioctl = of_ioctl(fd, route, argument());
        // The id that the first has taken.
        if route.name == "KVM_CREATE_VCPU" && library.0 == Ok(0) {
            assert_eq!(ioctl.0, Err(Errno::EEXIST), "{history}");
            ioctl.0 = Ok(0);
        }
        let name = route.name;
        assert_eq!(library.0, ioctl.0, "{name} with {kind:?}: {history}");
        assert!(library.1 == ioctl.1, "the structure of {name}: {history}");
    }

    /// Has the library take a descriptor for this file.
    fn teach(&self, fd: RawFd, name: &str) {
        self.files.put(fd, name);
        for name in ["KVM_CHECK_EXTENSION", "KVM_GET_REGS"] {
            let argument = good(route(name), self.files.named("a vCPU"), self.files.page);
            let _ = of_library(fd, route(name), argument);
        }
        self.run(fd);
    }

    /// Has a vCPU run, which may bind it to the thread.
    fn run(&self, fd: RawFd) {
        let _ = of_library(fd, route("KVM_RUN"), Argument::Number(0));
    }
}

/// Each request, on each file, after each other file.
pub fn wrong_memories(stage: &Stage) {
    let parents = of_parent(&*stage.kvm);
    in_child(|| Game::new(Files::of_child(&*stage.kvm, parents)).each_after_each());
}

impl Game {
    /// Each request, on each file, after each other file.
    pub fn each_after_each(&self) {
        for route in &ROUTES {
            for remembered in ["a pipe", "/dev/kvm", "a VM", "a vCPU"] {
                for name in NAMES {
                    for kind in KINDS {
                        self.teach(FIRST, remembered);
                        self.files.put(FIRST, name);
                        if self.files.are_watched() {
                            self.run(FIRST);
                        }
                        self.compare(FIRST, route, kind, &format!("{remembered}, then {name}"));
                    }
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
pub enum Step {
    Put(RawFd, &'static str),
    Copy(RawFd, RawFd),
    Request(RawFd, usize, Kind),
    /// Another thread makes requests.
    Ask,
}

/// With this weight for steps that run a vCPU, at which a thread binds it.
fn step(runs: u32) -> impl Strategy<Value = Step> {
    let fd = || FIRST..FIRST + COUNT;
    let vcpu = proptest::sample::select(&["a vCPU", "another vCPU"][..]);
    let run = ROUTES.iter().position(|route| route.name == "KVM_RUN");
    let name = proptest::sample::select(&NAMES[..]);
    let kind = prop_oneof![2 => Just(Kind::Good), 1 => proptest::sample::select(&KINDS[..])];
    prop_oneof![
        3 => (fd(), name).prop_map(|(fd, name)| Step::Put(fd, name)),
        1 => (fd(), fd()).prop_map(|(from, to)| Step::Copy(from, to)),
        runs => Just(Step::Ask),
        runs => (fd(), vcpu).prop_map(|(fd, name)| Step::Put(fd, name)),
        2 * runs => fd().prop_map(move |fd| Step::Request(fd, run.unwrap(), Kind::Good)),
        6 => (fd(), 0..ROUTES.len(), kind).prop_map(|(fd, route, kind)| {
            Step::Request(fd, route, kind)
        }),
    ]
}

/// Random games.
pub fn random(stage: &Stage) {
    let parents = of_parent(&*stage.kvm);
    in_child(|| {
        let game = Game::new(Files::of_child(&*stage.kvm, parents));
        game.at_random(1, |steps| game.play(steps, None));
    });
}

impl Game {
    /// Random games, each of which a function plays.
    pub fn at_random(&self, runs: u32, play: impl Fn(&[Step])) {
        let config = Config {
            cases: GAMES,
            failure_persistence: None,
            ..Config::default()
        };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let games = proptest::collection::vec(step(runs), 1..STEPS);
        let played = TestRunner::new_with_rng(config, rng).run(&games, |steps| {
            play(&steps);
            Ok(())
        });
        played.unwrap();
    }

    /// A game. The other thread gets a message when it is to make requests.
    pub fn play(&self, steps: &[Step], other: Option<&Sender<()>>) {
        let history = format!("{steps:?}");
        for fd in FIRST..FIRST + COUNT {
            self.files.put(fd, "nothing");
        }
        for step in steps {
            match *step {
                Step::Put(fd, name) => self.files.put(fd, name),
                Step::Copy(from, to) => self.files.copy(from, to),
                Step::Ask => {
                    if let Some(other) = other {
                        other.send(()).unwrap();
                        thread::yield_now();
                    }
                }
                Step::Request(fd, index, kind) => {
                    self.compare(fd, &ROUTES[index], kind, &history);
                }
            }
        }
    }
}

/// Each request, while a filter refuses each call of KVM.
pub fn filtered(stage: &Stage) {
    for errno in [libc::ENOSYS, libc::EPERM] {
        let parents = of_parent(&*stage.kvm);
        in_child(|| {
            let game = Game::new(Files::of_child(&*stage.kvm, parents));
            refuse_calls(errno);
            for route in &ROUTES {
                for name in ["/dev/kvm", "a VM", "a vCPU"] {
                    game.teach(FIRST, name);
                    game.compare(FIRST, route, Kind::Good, name);
                    game.compare(FIRST, route, Kind::Good, name);
                }
            }
        });
    }
}

/// Has each call of KVM by this thread return an error without being made.
pub(super) fn refuse_calls(errno: i32) {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let statement = |code, k, jt| libc::sock_filter { code, jt, jf: 0, k };
    let first = kvm_api::kvm_sys::__NR_kvm_create_vm as u32;
    let mut filter = [
        // The number of the call is the first field.
        statement(LOAD, 0, 0),
        statement(AT_LEAST, first, 1),
        statement(RETURN, libc::SECCOMP_RET_ALLOW, 0),
        statement(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the filter is complete, and binds this thread only.
    unsafe {
        let privileges = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        assert_eq!(privileges, 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &program), 0);
    }
}
