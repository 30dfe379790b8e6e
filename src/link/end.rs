//! How a port ends: one pure state machine that both halves ask.
//!
//! The [`Endpoint`](crate::link::endpoint::Endpoint) stores the [`State`] in one word. Each call of
//! a half reads that word first, and everything that a half learns about the end is an [`Event`].
//! The machine returns the next state and what the half has to do. It makes no system call and
//! loads nothing.
//!
//! # The rule
//!
//! - **Once a call has returned that its direction ended, every later call of that direction
//!   returns the same reason.** Nothing that happens afterwards changes it.
//! - **An announced end of the peer (a close or a drop) ends one direction.** A peer whose port is
//!   split may end the two directions at different times, with different reasons.
//! - **A death and a corruption end both directions.** A direction that has not ended yet then
//!   gives the reason that the other one has given, whatever is found later.
//! - **A half that was closed here returns `Local`**, unless the port gave another reason before.
//! - **Receiving returns the end after the last message**, also after its own close. Only a
//!   corruption ends it at once, since nothing can be read after one.
//! - **An end that has moved announces no close**, and does not touch what is in its sockets.
//!
//! So posting and receiving on a port whose peer keeps both halves together differ in one thing
//! only: receiving first delivers what is in the queue.

use crate::wire::record::CloseKind;

/// One of the two halves of a port, and the direction that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Sending,
    Receiving,
}

/// Why a direction has ended. The details of a corruption are kept next to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Local,
    PeerClosed,
    PeerDropped,
    PeerDied,
    Corrupt,
}

/// What a half learns, or has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The kernel says that the peer's sockets are gone.
    HungUp,
    /// The peer wrote something that no producer writes.
    Corrupted,
    /// The sending half looked at what the peer's reader reports.
    LookedForReader(Option<CloseKind>),
    /// The receiving half found the peer's close after the last message.
    FoundClose(CloseKind),
    /// The receiving half found nothing more. `after_hang_up`: it looked after the hang-up was
    /// known, so nothing more can come.
    Drained { after_hang_up: bool },
    /// The program closed or dropped a half.
    Closed(Half),
    /// A half is about to announce its close to the peer.
    AnnouncingClose(Half),
    /// Both halves belong to another owner now.
    Moved,
    /// The receiving half is dropped while the sending half stays.
    StoppedReceiving,
    /// The receiving half is about to report that it has ended.
    Telling,
}

/// What the half has to do, and the next state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Step {
    pub next: State,
    /// Tell the peer that this half is gone.
    pub announces_close: bool,
    /// Close what is in the attachment socket, as it will not be received.
    pub sweeps: bool,
}

/// The end of a port, packed.
///
/// ```text
/// bits 0..3   why posting has ended       bits 3..6   why receiving ends, once it does
/// bit  6      receiving has ended         bit  7      the peer hung up
/// bits 8, 9   a half was closed here      bits 10, 11 it has announced its close, or moved
/// bit  12     moved                         bit  13     the attachment socket was swept
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct State(u32);

impl State {
    pub(crate) const OPEN: State = State(0);

    pub(crate) fn from_word(word: u32) -> State {
        State(word)
    }

    pub(crate) fn word(self) -> u32 {
        self.0
    }

    /// Whether a post has to check more closely: the posting direction has ended, or a hang-up is
    /// known.
    #[inline(always)]
    pub(crate) fn posts_may_fail(self) -> bool {
        self.0 & (SENDING_REASON | HUNG_UP) != 0
    }

    /// Whether the receiving direction has ended.
    #[inline(always)]
    pub(crate) fn has_receiving_ended(self) -> bool {
        self.0 & ENDED != 0
    }

    pub(crate) fn is_hung_up(self) -> bool {
        self.0 & HUNG_UP != 0
    }

    /// Whether a half was closed here, or has moved.
    pub(crate) fn is_closed_here(self, half: Half) -> bool {
        self.0 & half.closed() != 0
    }

    /// Whether another process has this end now, with its sockets.
    pub(crate) fn has_moved(self) -> bool {
        self.0 & MOVED != 0
    }

    /// Whether a half ended because the peer broke the protocol.
    pub(crate) fn is_corrupt(self) -> bool {
        let is_corrupt = |half| self.reason(half) == Some(Reason::Corrupt);
        is_corrupt(Half::Sending) || is_corrupt(Half::Receiving)
    }

    /// Why calls of a half fail, if they do.
    pub(crate) fn told(self, half: Half) -> Option<Reason> {
        match half {
            Half::Receiving if self.0 & ENDED == 0 => None,
            _ => self.reason(half),
        }
    }

    /// The reason that a half gives, or will give once it has drained its queue.
    pub(crate) fn reason(self, half: Half) -> Option<Reason> {
        match (self.0 >> half.shift()) & REASON {
            0 => None,
            1 => Some(Reason::Local),
            2 => Some(Reason::PeerClosed),
            3 => Some(Reason::PeerDropped),
            4 => Some(Reason::PeerDied),
            _ => Some(Reason::Corrupt),
        }
    }

    /// Returns what follows from an event.
    pub(crate) fn on(self, event: Event) -> Step {
        let mut step = Step { next: self, announces_close: false, sweeps: false };
        let next = &mut step.next;
        match event {
            Event::HungUp => next.set(HUNG_UP),
            Event::Corrupted => {
                next.end_both(Reason::Corrupt);
                next.set(ENDED);
            }
            Event::LookedForReader(Some(kind)) => next.end_by(Half::Sending, kind),
            Event::LookedForReader(None) if self.is_hung_up() => {
                next.end(Half::Sending, Reason::PeerDied);
            }
            Event::LookedForReader(None) => {}
            Event::FoundClose(kind) => {
                next.end_by(Half::Receiving, kind);
                next.set(ENDED);
            }
            Event::Drained { after_hang_up } => {
                if self.is_closed_here(Half::Receiving) {
                    next.set(ENDED);
                } else if after_hang_up && self.is_hung_up() {
                    next.end(Half::Receiving, Reason::PeerDied);
                    next.set(ENDED);
                }
            }
            Event::Closed(half) => {
                next.end(half, Reason::Local);
                next.set(half.closed());
            }
            Event::AnnouncingClose(half) => {
                step.announces_close = self.0 & half.announced() == 0;
                next.set(half.announced());
            }
            Event::Moved => {
                for half in [Half::Sending, Half::Receiving] {
                    next.end(half, Reason::Local);
                    next.set(half.closed() | half.announced());
                }
                next.set(MOVED);
            }
            Event::StoppedReceiving => {
                step.sweeps = self.0 & MOVED == 0;
            }
            Event::Telling => {
                step.sweeps = self.has_receiving_ended() && self.0 & (SWEPT | MOVED) == 0;
                if step.sweeps {
                    next.set(SWEPT);
                }
            }
        }
        step
    }

    fn set(&mut self, bits: u32) {
        self.0 |= bits;
    }

    /// Gives a half its reason unless it has one. It is the reason that the other half has given,
    /// if the peer caused that one.
    fn end(&mut self, half: Half, reason: Reason) {
        let given = self.told(half.other()).filter(|given| *given != Reason::Local);
        self.give(half, given.unwrap_or(reason));
    }

    fn end_both(&mut self, reason: Reason) {
        self.end(Half::Sending, reason);
        self.end(Half::Receiving, reason);
    }

    /// The peer's close to a half is the reason, unless the port gave one that ends both halves.
    fn end_by(&mut self, half: Half, kind: CloseKind) {
        let reason = match self.told(half.other()) {
            Some(given @ (Reason::PeerDied | Reason::Corrupt)) => given,
            _ => match kind {
                CloseKind::Closed => Reason::PeerClosed,
                CloseKind::Dropped => Reason::PeerDropped,
            },
        };
        self.give(half, reason);
    }

    fn give(&mut self, half: Half, reason: Reason) {
        if self.reason(half).is_none() {
            let code = match reason {
                Reason::Local => 1,
                Reason::PeerClosed => 2,
                Reason::PeerDropped => 3,
                Reason::PeerDied => 4,
                Reason::Corrupt => 5,
            };
            self.set(code << half.shift());
        }
    }
}

impl Half {
    fn other(self) -> Half {
        match self {
            Half::Sending => Half::Receiving,
            Half::Receiving => Half::Sending,
        }
    }

    fn shift(self) -> u32 {
        match self {
            Half::Sending => 0,
            Half::Receiving => 3,
        }
    }

    fn closed(self) -> u32 {
        match self {
            Half::Sending => 1 << 8,
            Half::Receiving => 1 << 9,
        }
    }

    fn announced(self) -> u32 {
        match self {
            Half::Sending => 1 << 10,
            Half::Receiving => 1 << 11,
        }
    }
}

const REASON: u32 = 0b111;
const SENDING_REASON: u32 = REASON;
const ENDED: u32 = 1 << 6;
const HUNG_UP: u32 = 1 << 7;
const MOVED: u32 = 1 << 12;
const SWEPT: u32 = 1 << 13;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const HALVES: [Half; 2] = [Half::Sending, Half::Receiving];

    fn events() -> Vec<Event> {
        let mut events = vec![
            Event::HungUp,
            Event::Corrupted,
            Event::LookedForReader(None),
            Event::Drained { after_hang_up: false },
            Event::Drained { after_hang_up: true },
            Event::Moved,
            Event::StoppedReceiving,
            Event::Telling,
        ];
        for kind in [CloseKind::Closed, CloseKind::Dropped] {
            events.push(Event::LookedForReader(Some(kind)));
            events.push(Event::FoundClose(kind));
        }
        for half in HALVES {
            events.extend([Event::Closed(half), Event::AnnouncingClose(half)]);
        }
        events
    }

    /// Every state that some order of events leads to.
    fn reachable() -> Vec<State> {
        let (mut seen, mut open) = (BTreeSet::from([0]), vec![State::OPEN]);
        while let Some(state) = open.pop() {
            for event in events() {
                let next = state.on(event).next;
                if seen.insert(next.word()) {
                    open.push(next);
                }
            }
        }
        seen.into_iter().map(State::from_word).collect()
    }

    /// Calls `check` with every reachable state, every event, and what follows.
    fn for_all(check: impl Fn(State, Event, Step)) {
        let states = reachable();
        assert!(states.len() > 500, "{} states", states.len());
        for state in states {
            events().into_iter().for_each(|event| check(state, event, state.on(event)));
        }
    }

    #[test]
    fn what_a_half_said_stays() {
        for_all(|state, event, step| {
            for half in HALVES {
                if let Some(reason) = state.told(half) {
                    assert_eq!(step.next.told(half), Some(reason), "{half:?}: {event:?}");
                }
                if let Some(reason) = state.reason(half) {
                    assert_eq!(step.next.reason(half), Some(reason), "{half:?}: {event:?}");
                }
            }
        });
    }

    #[test]
    fn no_bit_is_ever_taken_back_and_no_half_ends_without_a_reason() {
        for_all(|state, event, step| {
            assert_eq!(step.next.word() & state.word(), state.word(), "{event:?}");
            let next = step.next;
            assert_eq!(next.has_receiving_ended(), next.told(Half::Receiving).is_some());
            let asks = next.told(Half::Sending).is_some() || next.is_hung_up();
            assert_eq!(next.posts_may_fail(), asks);
        });
    }

    #[test]
    fn a_corruption_ends_both_halves_and_is_the_reason_only_if_it_was_first() {
        for_all(|state, _, _| {
            let next = state.on(Event::Corrupted).next;
            for half in HALVES {
                let mut first = HALVES.iter().filter_map(|half| state.told(*half));
                let first = first.find(|reason| *reason != Reason::Local);
                let reason = state.reason(half).or(first).unwrap_or(Reason::Corrupt);
                assert_eq!(next.told(half), Some(reason), "{state:?}");
            }
        });
    }

    #[test]
    fn the_end_is_corrupt_if_one_half_gives_that_reason() {
        for_all(|state, _, _| {
            let gives = HALVES.map(|half| state.reason(half) == Some(Reason::Corrupt));
            assert_eq!(state.is_corrupt(), gives.contains(&true), "{state:?}");
        });
    }

    #[test]
    fn a_look_that_finds_no_close_ends_posting_only_if_the_peer_hung_up() {
        for_all(|state, _, _| {
            let next = state.on(Event::LookedForReader(None)).next;
            if state.is_hung_up() {
                assert!(next.told(Half::Sending).is_some(), "{state:?}");
            } else {
                assert_eq!(next, state);
            }
        });
    }

    #[test]
    fn after_its_own_close_a_half_says_local_unless_the_port_gave_a_reason_before() {
        for_all(|state, _, _| {
            for half in HALVES {
                let next = state.on(Event::Closed(half)).next;
                let given = state.told(half.other()).filter(|given| *given != Reason::Local);
                let expected = state.reason(half).or(given).unwrap_or(Reason::Local);
                assert_eq!(next.reason(half), Some(expected), "{state:?}");
                // Receiving drains first.
                assert_eq!(next.has_receiving_ended(), state.has_receiving_ended());
                let drained = next.on(Event::Drained { after_hang_up: false }).next;
                if half == Half::Receiving {
                    assert_eq!(drained.told(half), Some(expected), "{state:?}");
                }
            }
        });
    }

    #[test]
    fn receiving_ends_only_where_nothing_more_can_be_read() {
        for_all(|state, event, step| {
            if !state.has_receiving_ended() && step.next.has_receiving_ended() {
                let is_last = match event {
                    Event::FoundClose(_) | Event::Corrupted => true,
                    Event::Drained { after_hang_up } => {
                        let is_closed = state.is_closed_here(Half::Receiving);
                        is_closed || (after_hang_up && state.is_hung_up())
                    }
                    _ => false,
                };
                assert!(is_last, "{event:?} ended {state:?}");
            }
        });
    }

    #[test]
    fn a_death_or_corruption_that_one_half_has_told_is_what_the_other_one_tells() {
        for_all(|state, event, step| {
            for half in HALVES {
                let told = state.told(half);
                let ends_both = matches!(told, Some(Reason::PeerDied | Reason::Corrupt));
                let other = half.other();
                if ends_both && state.reason(other).is_none() && step.next.reason(other).is_some() {
                    assert_eq!(step.next.reason(other), told, "{state:?}: {event:?}");
                }
            }
        });
    }

    #[test]
    fn the_close_of_a_whole_peer_is_one_reason_in_either_order() {
        for kind in [CloseKind::Closed, CloseKind::Dropped] {
            let (posts, reads) = (Event::LookedForReader(Some(kind)), Event::FoundClose(kind));
            let looks = Event::LookedForReader(None);
            let drains = Event::Drained { after_hang_up: true };
            for order in [[posts, reads], [reads, posts], [posts, drains], [reads, looks]] {
                let start = State::OPEN.on(Event::HungUp).next;
                let end = order.into_iter().fold(start, |state, event| state.on(event).next);
                let said = HALVES.map(|half| end.told(half));
                assert!(said[0].is_some() && said[0] == said[1], "{order:?}: {said:?}");
            }
        }
    }

    #[test]
    fn a_peer_in_two_halves_ends_each_direction_with_its_own_reason() {
        let closed = State::OPEN.on(Event::LookedForReader(Some(CloseKind::Closed))).next;
        assert_eq!(HALVES.map(|half| closed.reason(half)), [Some(Reason::PeerClosed), None]);
        let both = closed.on(Event::FoundClose(CloseKind::Dropped)).next;
        let reasons = [Some(Reason::PeerClosed), Some(Reason::PeerDropped)];
        assert_eq!(HALVES.map(|half| both.told(half)), reasons);
    }

    #[test]
    fn a_half_announces_its_close_once_and_never_after_it_moved() {
        for_all(|state, event, step| {
            if let Event::AnnouncingClose(half) = event {
                assert_eq!(step.announces_close, state.word() & half.announced() == 0);
                assert!(!step.next.on(event).announces_close);
            } else {
                assert!(!step.announces_close);
            }
            let moved = step.next.on(Event::Moved).next;
            for half in HALVES {
                assert!(!moved.on(Event::AnnouncingClose(half)).announces_close);
                assert!(moved.is_closed_here(half));
            }
            assert!(!moved.on(Event::StoppedReceiving).sweeps && !moved.on(Event::Telling).sweeps);
        });
    }

    #[test]
    fn the_attachment_socket_is_swept_once_when_receiving_has_ended() {
        for_all(|state, event, step| {
            match event {
                Event::Telling => {
                    let is_first = state.word() & (MOVED | SWEPT) == 0;
                    assert_eq!(step.sweeps, state.has_receiving_ended() && is_first);
                }
                Event::StoppedReceiving => assert_eq!(step.sweeps, state.word() & MOVED == 0),
                _ => assert!(!step.sweeps),
            }
            assert!(!step.next.on(Event::Telling).next.on(Event::Telling).sweeps);
        });
    }
}
