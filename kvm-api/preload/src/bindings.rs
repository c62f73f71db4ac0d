//! How often vCPUs were bound and unbound.

use std::fmt::{self, Display, Formatter};

/// What happens to a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// A thread has bound a vCPU.
    Bound,
    /// It has unbound it at a run, because another thread had asked for it.
    Asked,
    /// The same by a signal.
    Signalled,
    /// It has unbound it, because the descriptor changes, or a child of `vfork` begins.
    Changed,
    /// It has unbound it to run another one.
    OtherVcpu,
    /// A request has waited for a thread that had bound the vCPU.
    Waited,
}

impl Event {
    pub(crate) const COUNT: usize = 6;
}

/// How often each event happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bindings(pub(crate) [u64; Event::COUNT]);

impl Bindings {
    /// How often this happened.
    #[must_use]
    pub fn count(&self, event: Event) -> u64 {
        self.0[event as usize]
    }
}

/// Two lines of the report; nothing if no vCPU was bound.
impl Display for Bindings {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [bound, asked, signalled, changed, other, waited] = self.0;
        if bound == 0 {
            return Ok(());
        }
        let ended = asked + signalled + changed + other;
        writeln!(
            f,
            "kvm-preload: {bound} times a thread bound its vCPU; {waited} requests of other \
             threads waited for one"
        )?;
        writeln!(
            f,
            "kvm-preload: {ended} times it was unbound: {asked} at a run and {signalled} by a \
             signal for another thread, {changed} for a change of the descriptor, {other} to \
             run another vCPU"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_places_of_their_numbers() {
        assert_eq!(Event::Waited as usize, Event::COUNT - 1);
        let bindings = Bindings([1, 2, 3, 4, 5, 6]);
        assert_eq!(bindings.count(Event::Signalled), 3);
    }

    #[test]
    fn a_program_without_bindings_has_no_line() {
        assert_eq!(Bindings::default().to_string(), "");
        let lines = Bindings([7, 1, 2, 3, 4, 9]).to_string();
        assert!(lines.contains("7 times a thread bound"), "{lines}");
        assert!(
            lines.contains("9 requests of other threads waited"),
            "{lines}"
        );
        assert!(lines.contains("10 times it was unbound"), "{lines}");
    }
}
