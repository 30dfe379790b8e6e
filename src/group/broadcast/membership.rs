//! What a member has while it is open, and what members of one process see of each other.

use crate::error::BroadcastError;
use crate::group::broadcast::acceptor::Acceptor;
use crate::group::broadcast::members::Members;
use crate::group::broadcast::order::{self, Resident, Seat};
use crate::os::epoll::Epoll;
use crate::os::eventfd::Bell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What other members of this process use: those that deliver on one thread look at each other's
/// messages.
pub(super) struct Shared {
    pub name: String,
    /// This member's.
    pub id: u128,
    /// The membership's descriptors.
    pub epoll: Epoll,
    /// `None` once closed. While it is locked, no code of the program runs, and no other membership
    /// is locked.
    pub membership: Mutex<Option<Membership>>,
    /// In which order members were opened.
    pub number: u64,
    pub seat: Mutex<Seat>,
}

/// What a member has while it is open. Dropped in this order: the name goes first.
pub(super) struct Membership {
    pub acceptor: Acceptor,
    pub members: Members,
    pub _resident: Resident,
    /// Members of this process that had joined when joiners were last accepted.
    pub joined: u64,
    /// Rings while something is left that no other descriptor reports.
    pub bell: Bell,
    pub rings: bool,
}

impl Shared {
    pub(super) fn membership(&self) -> MutexGuard<'_, Option<Membership>> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn with_membership<T>(
        &self,
        act: impl FnOnce(&mut Membership) -> Result<T, BroadcastError>,
    ) -> Result<T, BroadcastError> {
        match &mut *self.membership() {
            Some(membership) => act(membership),
            None => Err(BroadcastError::Closed { name: self.name.clone() }),
        }
    }

    pub(super) fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the oldest message that is there was posted. It considers every message posted on this
    /// thread before `bound`. What cannot be looked at now is left to the member's own call.
    fn first(&self, bound: Option<u64>) -> Option<u64> {
        let settle = |membership: &mut Membership| membership.settle(&self.epoll, bound, false);
        self.with_membership(settle).ok().flatten()
    }

    /// Whether another member that delivers on this thread comes first: it has an older message, or
    /// the same one and was opened before. That member is called before this one is called again.
    pub(super) fn gives_way(&self, rivals: &[Arc<Shared>]) -> bool {
        if rivals.is_empty() {
            return false;
        }
        let Some(own) = self.first(None) else { return false };
        rivals.iter().any(|rival| {
            let first = rival.first(Some(own));
            // A look has drained what would have reported it.
            rival.come_back();
            let is_older = first.is_some_and(|other| (other, rival.number) < (own, self.number));
            is_older && rival.seat().wait_for(rivals.len())
        })
    }

    /// Makes the descriptor readable if something is left that no other descriptor reports.
    pub(super) fn come_back(&self) {
        if let Some(membership) = &mut *self.membership()
            && membership.members.has_more()
            && !std::mem::replace(&mut membership.rings, true)
        {
            membership.bell.ring();
        }
    }

    pub(super) fn lacks_descriptors(&self) -> bool {
        let membership = self.membership();
        membership.as_ref().is_some_and(|membership| membership.acceptor.lacks_descriptors())
    }
}

impl Membership {
    /// When the oldest message that is there was posted. It considers every message posted on this
    /// thread before that, or before `bound`.
    pub(super) fn settle(
        &mut self,
        epoll: &Epoll,
        bound: Option<u64>,
        is_thorough: bool,
    ) -> Result<Option<u64>, BroadcastError> {
        self.members.fill()?;
        let first = self.members.first();
        let joined = order::joined();
        let until = first.into_iter().chain(bound).min();
        let is_settled = until.is_some_and(|until| self.members.is_known_until(until));
        if is_settled && joined == self.joined && !is_thorough {
            return Ok(first);
        }
        // Read before the poll.
        let now = order::stamp();
        let is_thorough = is_thorough || until.is_none();
        let mut taken_in = Ok(());
        if is_thorough || joined != self.joined {
            self.joined = joined;
            taken_in = self.take_in(epoll);
        }
        self.members.look_everywhere(now, is_thorough)?;
        match self.members.first() {
            Some(first) => Ok(Some(first)),
            None => taken_in.map(|()| None),
        }
    }

    pub(super) fn drain(&mut self) {
        if std::mem::take(&mut self.rings) {
            self.bell.drain();
        }
    }

    /// Has a member come back that waits for changes which no descriptor reports.
    pub(super) fn tell_changes(&mut self) {
        if self.members.has_changes() && !std::mem::replace(&mut self.rings, true) {
            self.bell.ring();
        }
    }

    /// Accepts all joiners. Makes one system call if there are none.
    pub(super) fn take_in(&mut self, epoll: &Epoll) -> Result<(), BroadcastError> {
        let Membership { acceptor, members, .. } = self;
        acceptor.take_in(epoll, |member, port| members.add(member, port))
    }
}
