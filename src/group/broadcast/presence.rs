//! Who the other members are, and that they join and leave.

use crate::error::{BroadcastError, CloseReason};
use crate::group::broadcast::BroadcastChannel;
use crate::group::broadcast::members::Members;
use crate::link::endpoint::PeerCredentials;
use crate::os::clock::Deadline;
use crate::port::message::Message;
use std::time::Duration;

/// Another member of a broadcast channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct BroadcastPeer {
    /// What the member calls itself: the same at every other member, and never used again. A
    /// hostile member can call itself anything, also what a member of another process is called.
    /// The credentials then differ, and the two are different members in every event and post.
    pub id: u128,
    /// The process and user that the kernel named when the two members met; `None` if it did not.
    pub credentials: Option<PeerCredentials>,
}

/// What [`BroadcastChannel::recv_event`](crate::BroadcastChannel::recv_event) returns.
#[derive(Debug)]
#[non_exhaustive]
pub enum BroadcastEvent {
    /// A member was there when events were first received, or has joined since. It comes before the
    /// member's first message.
    Joined(BroadcastPeer),
    /// A message.
    Message {
        /// Its sender.
        sender: BroadcastPeer,
        /// The message.
        message: Message,
    },
    /// A member has left or died. It comes after the member's last message.
    Left {
        /// The member.
        peer: BroadcastPeer,
        /// How it ended: [`CloseReason::PeerDied`] if its process did, without leaving.
        reason: CloseReason,
    },
}

impl BroadcastChannel {
    /// The other members that are open and known, oldest first. Costs as [`others`](Self::others).
    ///
    /// # Errors
    /// As [`others`](Self::others).
    pub fn peers(&self) -> Result<Vec<BroadcastPeer>, BroadcastError> {
        self.shared.with_membership(|membership| {
            membership.take_in(&self.shared.epoll)?;
            membership.members.count_open();
            membership.tell_changes();
            Ok(membership.members.open_peers())
        })
    }

    /// Waits for the next message, with its sender, or until a member joins, leaves or dies.
    ///
    /// The first of these calls begins to keep note of members: [`Joined`](BroadcastEvent::Joined)
    /// for each that is there, and later for each that joins; [`Left`](BroadcastEvent::Left) for
    /// each that leaves or dies. Between the two come its messages. A member that was killed is
    /// noticed as a port's peer is. While 1,024 changes wait to be received, a member that comes
    /// and goes is not reported. [`recv`](Self::recv) and [`dispatch`](Self::dispatch) take
    /// messages only, so do not mix them with this.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    ///
    /// ```
    /// use messageport::{BroadcastChannel, BroadcastEvent};
    ///
    /// # let name = format!("doc-event-{}", std::process::id());
    /// let room = BroadcastChannel::open(&name)?;
    /// let guest = BroadcastChannel::open(&name)?;
    /// let guest_id = guest.id();
    /// guest.post_text("hello")?;
    /// drop(guest);
    ///
    /// let BroadcastEvent::Joined(peer) = room.recv_event()? else { panic!("it is there") };
    /// assert_eq!(peer.id, guest_id);
    /// let BroadcastEvent::Message { sender, message } = room.recv_event()? else {
    ///     panic!("it has posted");
    /// };
    /// assert_eq!((sender, message.text()?), (peer, "hello"));
    /// assert!(matches!(room.recv_event()?, BroadcastEvent::Left { peer, .. } if peer == sender));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recv_event(&self) -> Result<BroadcastEvent, BroadcastError> {
        self.until(Deadline::NEVER, Self::try_recv_event)
    }

    /// The same, waiting at most for `timeout`.
    ///
    /// # Errors
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn recv_event_timeout(&self, timeout: Duration) -> Result<BroadcastEvent, BroadcastError> {
        self.until(Deadline::after(timeout), Self::try_recv_event)
    }

    /// Takes the next message, with its sender, or the next change of members, if there is one. See
    /// [`recv_event`](Self::recv_event).
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv_event(&self) -> Result<Option<BroadcastEvent>, BroadcastError> {
        self.shared.seat().leave();
        self.shared.with_membership(|membership| {
            membership.members.report_changes();
            Ok(())
        })?;
        Ok(match self.look(Members::next_change)? {
            None => None,
            Some(Found::Change(change)) => Some(change.into()),
            Some(Found::Message(sender, message)) => {
                let message = self.validated(message).map_err(BroadcastError::Message)?;
                Some(BroadcastEvent::Message { sender, message })
            }
        })
    }
}

/// What is there next.
pub(super) enum Found<H> {
    Change(Change),
    Message(BroadcastPeer, H),
}

/// A member that has come or gone.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Joined(BroadcastPeer),
    Left(BroadcastPeer, CloseReason),
}

impl Change {
    pub(super) fn is_join_of(&self, peer: &BroadcastPeer) -> bool {
        matches!(self, Change::Joined(other) if other == peer)
    }
}

impl From<Change> for BroadcastEvent {
    fn from(change: Change) -> BroadcastEvent {
        match change {
            Change::Joined(peer) => BroadcastEvent::Joined(peer),
            Change::Left(peer, reason) => BroadcastEvent::Left { peer, reason },
        }
    }
}
