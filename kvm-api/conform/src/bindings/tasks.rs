//! Threads that execute functions on request.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::unistd::{Pid, gettid};

use super::host_state::HostState;

/// The time limit of a function.
const PATIENCE: Duration = Duration::from_secs(60);

type Work = Box<dyn FnOnce(&HostState) + Send>;

/// A thread with its own host state.
pub struct Task {
    work: Option<Sender<Work>>,
    handle: Option<JoinHandle<()>>,
    id: Pid,
}

/// A function that a task is executing.
pub struct Pending<T>(Receiver<T>);

impl Task {
    pub fn new(number: u64) -> Self {
        let (work, todo) = channel::<Work>();
        let (tell, told) = channel();
        let handle = thread::spawn(move || {
            let state = HostState::settle(number);
            tell.send(gettid()).expect("the receiver waits");
            for work in todo {
                work(&state);
            }
        });
        Self {
            work: Some(work),
            handle: Some(handle),
            id: told.recv_timeout(PATIENCE).expect("the thread starts"),
        }
    }

    pub fn id(&self) -> Pid {
        self.id
    }

    /// Starts a function in the task.
    pub fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce(&HostState) -> T + Send + 'static,
    ) -> Pending<T> {
        let (tell, told) = channel();
        let work: Work = Box::new(move |state| {
            // After a failed step, nobody waits for the result.
            let _ = tell.send(work(state));
        });
        let todo = self.work.as_ref().expect("it is not dropped");
        todo.send(work).expect("the task is there");
        Pending(told)
    }

    pub fn execute<T: Send + 'static>(
        &self,
        work: impl FnOnce(&HostState) -> T + Send + 'static,
    ) -> T {
        self.start(work).end()
    }
}

impl<T> Pending<T> {
    /// Waits for the result.
    pub fn end(self) -> T {
        self.0.recv_timeout(PATIENCE).expect("a task answers")
    }

    /// Waits a little, and returns the result if it is there.
    pub fn try_end(&self) -> Option<T> {
        match self.0.recv_timeout(Duration::from_millis(5)) {
            Ok(end) => Some(end),
            Err(RecvTimeoutError::Timeout) => None,
            Err(error) => panic!("a task has failed: {error}"),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.work = None;
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}
