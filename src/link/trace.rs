//! Rare events of ports, for the crate `tracing`, with the feature of that name. Nothing here is on
//! the path of a message that is posted and received without an obstacle.
//!
//! Without the feature every function here is empty.

use crate::link::end::{Half, State};
use crate::link::endpoint::Endpoint;

#[cfg(feature = "tracing")]
const TARGET: &str = "messageport";

/// An event about an end, with its pair and side.
#[cfg(feature = "tracing")]
macro_rules! tell {
    ($level:ident, $end:expr, $($fields:tt)+) => {
        {
            let labels = $end.labels();
            tracing::event!(
                target: TARGET,
                tracing::Level::$level,
                pair = format_args!("{:032x}", $end.region().pair_id()),
                side = $end.outgoing() as u64,
                channel = shown(labels.channel()),
                label = shown(labels.end()),
                $($fields)+
            )
        }
    };
}

/// A label, if there is one.
#[cfg(feature = "tracing")]
fn shown(label: &str) -> Option<&str> {
    Some(label).filter(|label| !label.is_empty())
}

/// Without the feature: its arguments are used, and nothing happens.
#[cfg(not(feature = "tracing"))]
macro_rules! tell {
    ($level:ident, $end:expr, $($name:ident = $value:expr,)* $text:literal) => {
        let _ = ($end, $($value),*);
    };
}

/// An end came to this process from another one, or from another port of this one.
pub(crate) fn attached(end: &Endpoint) {
    tell!(DEBUG, end, epoch = end.epoch(), "a port has arrived");
}

/// What was learnt about an end: it has moved, or a direction has ended.
#[inline]
pub(crate) fn learned(end: &Endpoint, before: State, now: State) {
    if cfg!(feature = "tracing") && before != now {
        tell_changes(end, before, now);
    }
}

#[cold]
fn tell_changes(end: &Endpoint, before: State, now: State) {
    if now.has_moved() && !before.has_moved() {
        tell!(DEBUG, end, "a port has moved away");
        return;
    }
    for (half, direction) in [(Half::Sending, "sending"), (Half::Receiving, "receiving")] {
        if let (None, Some(_)) = (before.told(half), now.told(half)) {
            let reason = end.told(half).map(tell_reason);
            tell!(DEBUG, end, direction = direction, reason = reason, "a direction has ended");
        }
    }
    if let Some(corruption) = end.corruption().filter(|_| !before.is_corrupt() && now.is_corrupt())
    {
        let corruption = corruption.to_string();
        tell!(WARN, end, corruption = corruption.as_str(), "the peer has broken the protocol");
    }
}

/// A reason in one word, by which events can be filtered.
fn tell_reason(reason: crate::error::CloseReason) -> &'static str {
    use crate::error::CloseReason;
    match reason {
        CloseReason::Local => "closed here",
        CloseReason::PeerClosed => "closed by the peer",
        CloseReason::PeerDropped => "dropped by the peer",
        CloseReason::PeerDied => "the peer has died",
        CloseReason::Corrupt(_) => "corrupt",
    }
}

/// A message found no room.
#[cold]
pub(crate) fn queue_full(end: &Endpoint, len: u64, unread: u64, limit: u64) {
    tell!(TRACE, end, len = len, unread = unread, limit = limit, "the queue is full");
}

/// A lane goes on in another segment, of so many bytes.
#[cold]
pub(crate) fn changed_segment(end: &Endpoint, from: u64, to: u64) {
    tell!(DEBUG, end, from = from, to = to, "a queue has changed its size");
}
