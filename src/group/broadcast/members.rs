//! The other members, and the ports to them.

use crate::error::{
    BroadcastError, CloseReason, Corruption, LoopError, MessageError, PostError, RecvError,
};
use crate::front::port_set::PortSet;
use crate::group::broadcast::presence::{BroadcastPeer, Change};
use crate::group::broadcast::{SHARE, order};
use crate::link::endpoint::PeerCredentials;
use crate::port::MessagePort;
use crate::port::event::MessageEvent;
use crate::port::id::PortId;
use crate::port::message::Message;
use crate::port::sender::Sender;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

/// The other members that are open.
///
/// There may be two ports to one member, if both joined at the same moment. Posts go through the
/// port that was known first, and messages are received through both. The other member does the
/// same, so that nothing is duplicated and each sender's order is kept.
pub(super) struct Members {
    ports: PortSet,
    /// Ports that can be posted to, by member, oldest member first; the ports of one member in the
    /// order in which they became known.
    open: BTreeMap<Who, Vec<PortId>>,
    /// What each port is, including ports that can only be received from.
    lines: BTreeMap<PortId, Line>,
    /// The next message of each port that has one, oldest first, and what had been taken out when
    /// it became known.
    heads: BTreeMap<Key, (u64, Head)>,
    /// The same in the order in which they became known, with some that have gone.
    waiting: VecDeque<(u64, Key)>,
    /// How many messages have been taken out; each 4 KiB of one counts as one more.
    taken: u64,
    /// Every message that was posted on this thread before that time is known.
    horizon: u64,
    /// Members that have come or gone and were not reported yet; `None` if none shall be.
    changes: Option<VecDeque<Change>>,
}

/// What tells members apart: what one calls itself, and the kernel's word, as a hostile one can
/// call itself as another process's member does.
type Who = (u128, Option<(u32, u32, u32)>);

/// When a message was posted, by its sender's word, and the port that it came through.
type Key = (u64, PortId);

/// A message, or what is wrong with it.
type Head = Result<Message, MessageError>;

/// A port to a member.
struct Line {
    peer: BroadcastPeer,
    /// Whether it is a member of this process.
    is_resident: bool,
    /// The latest stamp of its messages. A later message with an earlier stamp is given this one.
    latest: u64,
    has_head: bool,
    /// How the port has ended. It stays here until its last message was taken out.
    ended: Option<CloseReason>,
}

impl Members {
    pub(super) fn new() -> Result<Members, LoopError> {
        Ok(Members {
            ports: PortSet::new()?,
            open: BTreeMap::new(),
            lines: BTreeMap::new(),
            heads: BTreeMap::new(),
            waiting: VecDeque::new(),
            taken: 0,
            horizon: 0,
            changes: None,
        })
    }

    /// Adds a port to a member.
    pub(super) fn add(&mut self, member: u128, port: MessagePort) -> Result<(), BroadcastError> {
        let peer = BroadcastPeer { id: member, credentials: port.peer_credentials() };
        // No member has a third port: a process that claims so is not a member.
        if self.open.get(&who(&peer)).is_some_and(|ports| ports.len() == 2) {
            return Ok(());
        }
        let id = self.ports.add(port).map_err(LoopError::from)?;
        // Another process's member may call itself as one of this process does.
        let is_ours = peer.credentials.is_some_and(|found| found.pid == std::process::id());
        let is_resident = is_ours && order::is_resident(member);
        if self.changes.is_some() && !self.is_known(&peer) {
            self.note(Change::Joined(peer));
        }
        let line = Line { peer, is_resident, latest: 0, has_head: false, ended: None };
        self.lines.insert(id, line);
        self.open.entry(who(&peer)).or_default().push(id);
        Ok(())
    }

    /// Whether there is a port to that member.
    pub(super) fn knows(&self, peer: &BroadcastPeer) -> bool {
        self.open.contains_key(&who(peer))
    }

    /// Whether there is a port to a member that calls itself that.
    pub(super) fn knows_name(&self, member: u128) -> bool {
        self.open.range((member, None)..).next().is_some_and(|((known, _), _)| *known == member)
    }

    /// Posts to each member, oldest first. Returns how many have it, and why others do not.
    ///
    /// A port ends only when its member closes or dies, and then all of its ports do. A port that
    /// ended otherwise met something that no member does; the next port of that member is good.
    pub(super) fn post_all(
        &mut self,
        post: impl Fn(&Sender) -> Result<(), PostError>,
    ) -> (usize, Vec<PostError>) {
        let (mut posted, mut missed, mut ended) = (0, Vec::new(), Vec::new());
        for ports in self.open.values() {
            for id in ports {
                let port = self.ports.get(*id).expect("a port of a member");
                match post(port.sender()) {
                    Ok(()) => posted += 1,
                    Err(PostError::Closed { .. }) => {
                        ended.push(*id);
                        continue;
                    }
                    Err(error) => missed.push(error),
                }
                break;
            }
        }
        ended.into_iter().for_each(|id| self.has_ended(id));
        (posted, missed)
    }

    /// When the oldest known message was posted.
    pub(super) fn first(&self) -> Option<u64> {
        self.heads.first_key_value().map(|((stamp, _), _)| *stamp)
    }

    /// Whether every message that was posted on this thread before `stamp` is known.
    pub(super) fn is_known_until(&self, stamp: u64) -> bool {
        self.horizon >= stamp || (!self.heads.is_empty() && self.heads.len() == self.lines.len())
    }

    /// Whether more is there, or may be, that no descriptor reports.
    pub(super) fn has_more(&self) -> bool {
        !self.heads.is_empty() || self.ports.has_queued()
    }

    /// Takes out a message of another process that has waited too long for others. It needs no look
    /// at the ports, so a caller that tries this first makes the message wait for no further copy.
    ///
    /// Each port has at most one such message, so the ports are still looked at soon.
    pub(super) fn pop_overdue(&mut self) -> Option<(BroadcastPeer, Head)> {
        let key = self.overdue()?;
        if self.is_resident(&key) { None } else { self.take_out(key) }
    }

    /// Takes out the oldest known message, or one that has waited too long for others.
    pub(super) fn pop(&mut self) -> Option<(BroadcastPeer, Head)> {
        let oldest = *self.heads.first_key_value()?.0;
        let key = match self.overdue() {
            // Members of this process keep their order among themselves.
            Some(key) if self.is_resident(&key) => {
                self.heads.keys().copied().find(|key| self.is_resident(key))
            }
            overdue => overdue,
        };
        self.take_out(key.unwrap_or(oldest))
    }

    fn take_out(&mut self, key: Key) -> Option<(BroadcastPeer, Head)> {
        let (_, head) = self.heads.remove(&key)?;
        let (_, id) = key;
        let line = self.lines.get_mut(&id).expect("a port with a message is kept");
        line.has_head = false;
        let (peer, ended) = (line.peer, line.ended);
        self.taken += head.as_ref().map_or(1, |message| u64::from(message.cost()));
        match ended {
            Some(reason) => self.forget(id, reason),
            None => self.ports.look_again(id),
        }
        Some((peer, head))
    }

    /// From now on, has who comes and goes reported, beginning with those who are there.
    pub(super) fn report_changes(&mut self) {
        if self.changes.is_none() {
            let mut known: Vec<_> = self.lines.values().map(|line| line.peer).collect();
            known.sort_unstable_by_key(who);
            known.dedup();
            self.changes = Some(known.into_iter().map(Change::Joined).collect());
        }
    }

    pub(super) fn next_change(&mut self) -> Option<Change> {
        self.changes.as_mut()?.pop_front()
    }

    pub(super) fn has_changes(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| !changes.is_empty())
    }

    fn note(&mut self, change: Change) {
        let Some(changes) = &mut self.changes else { return };
        if let Change::Left(peer, _) = change
            && changes.len() >= MOST_CHANGES
            && let Some(joined) = changes.iter().rposition(|known| known.is_join_of(&peer))
        {
            // The program has not heard of it. So what waits is bounded, as members are.
            changes.remove(joined);
            return;
        }
        changes.push_back(change);
    }

    /// The members that can be posted to, oldest first.
    pub(super) fn open_peers(&self) -> Vec<BroadcastPeer> {
        let first = |ports: &Vec<PortId>| self.lines.get(ports.first()?).map(|line| line.peer);
        self.open.values().filter_map(first).collect()
    }

    /// The message that has waited longest, if it has waited for more than a share of others: some
    /// of their senders have much to say, or lie about the time.
    fn overdue(&mut self) -> Option<Key> {
        let (since, key) = loop {
            let (since, key) = *self.waiting.front()?;
            if self.heads.get(&key).is_some_and(|(other, _)| *other == since) {
                break (since, key);
            }
            self.waiting.pop_front();
        };
        // With more ports than that, one message of each is a share.
        let share = u64::from(SHARE).max(self.lines.len() as u64);
        (self.taken - since > share).then_some(key)
    }

    fn is_resident(&self, (_, id): &Key) -> bool {
        self.lines.get(id).is_some_and(|line| line.is_resident)
    }

    /// Looks at every port that may have something. With `is_thorough` it also asks the kernel,
    /// which alone reports dead members. After that, everything posted before `now` is known.
    pub(super) fn look_everywhere(
        &mut self,
        now: u64,
        is_thorough: bool,
    ) -> Result<(), BroadcastError> {
        if is_thorough || self.ports.len() > MOST_WALKED {
            self.ports.ask_all()?;
        }
        if self.ports.len() <= MOST_WALKED {
            self.ports.queue_news();
        }
        self.fill()?;
        self.horizon = now;
        Ok(())
    }

    /// Takes the next message of each port that is known to have one.
    pub(super) fn fill(&mut self) -> Result<(), BroadcastError> {
        loop {
            let lines = &self.lines;
            let has_head = |id: PortId| lines.get(&id).is_some_and(|line| line.has_head);
            let Some((id, event)) = self.ports.look_once(has_head) else { return Ok(()) };
            match event.map(MessageEvent::into_message) {
                Ok(mut message) => {
                    match message.split_off_end().map(u64::from_le_bytes) {
                        Some(stamp) => self.set_head(id, stamp, Ok(message)),
                        // No member has sent it. So it is with what brought something along, which
                        // its port has refused.
                        None => {
                            let (len, least) = (message.bytes().len(), order::STAMP_LEN);
                            let what = "the length of a broadcast message";
                            let flaw = Corruption::too_small(what, len as u64, least as u64);
                            self.remove(id, CloseReason::Corrupt(flaw));
                        }
                    }
                }
                Err(RecvError::Closed { reason }) => self.remove(id, reason),
                // What can never be received must not block what comes after it.
                Err(RecvError::OutOfMemory { len }) => {
                    self.step_over(id);
                    let len = len.saturating_sub(order::STAMP_LEN as u64);
                    self.set_head(id, 0, Err(MessageError::OutOfMemory { len }));
                }
                Err(RecvError::Io(error)) => return Err(error.into()),
                Err(
                    RecvError::Timeout
                    | RecvError::Cancelled
                    | RecvError::Started
                    | RecvError::OutOfDescriptors { .. },
                ) => {
                    unreachable!("a port that refuses transfers, and is only asked what is there")
                }
            }
        }
    }

    /// Notes the next message of a port. The sender claims its stamp: a later message with an
    /// earlier one is given that of the message before it.
    fn set_head(&mut self, id: PortId, stamp: u64, head: Head) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.latest = stamp.max(line.latest);
        line.has_head = true;
        let key = (line.latest, id);
        self.heads.insert(key, (self.taken, head));
        self.waiting.push_back((self.taken, key));
    }

    /// How many members can be posted to.
    pub(super) fn count_open(&mut self) -> usize {
        let closed = |id: &&PortId| self.ports.get(**id).is_none_or(MessagePort::is_closed);
        let ended: Vec<_> = self.open.values().flatten().filter(closed).copied().collect();
        ended.into_iter().for_each(|id| self.has_ended(id));
        self.open.len()
    }

    /// A port that takes no more posts: what its member has posted is still received.
    fn has_ended(&mut self, id: PortId) {
        self.post_no_more(id);
        let port = self.ports.get(id).expect("a port of a member");
        match port.receiver().prepare_wait_for_end() {
            Err(RecvError::Closed { reason }) => self.remove(id, reason),
            // The question has drained the doorbell.
            _ => self.ports.look_again(id),
        }
    }

    fn post_no_more(&mut self, id: PortId) {
        let Some(Line { peer, .. }) = self.lines.get(&id) else { return };
        let who = who(peer);
        if let Some(ports) = self.open.get_mut(&who) {
            ports.retain(|known| *known != id);
            if ports.is_empty() {
                self.open.remove(&who);
            }
        }
    }

    /// Removes a port that has ended. What was read of it is still taken out.
    fn remove(&mut self, id: PortId, reason: CloseReason) {
        self.post_no_more(id);
        drop(self.ports.remove(id));
        match self.lines.get_mut(&id) {
            Some(line) if line.has_head => line.ended = Some(reason),
            _ => self.forget(id, reason),
        }
    }

    fn forget(&mut self, id: PortId, reason: CloseReason) {
        let Some(Line { peer, .. }) = self.lines.remove(&id) else { return };
        if self.changes.is_some() && !self.is_known(&peer) {
            self.note(Change::Left(peer, reason));
        }
    }

    /// Whether there is a port to that member, perhaps only with messages to be received.
    fn is_known(&self, member: &BroadcastPeer) -> bool {
        self.lines.values().any(|line| line.peer == *member)
    }

    fn step_over(&mut self, id: PortId) {
        if let Some(port) = self.ports.get(id) {
            let _ = port.discard_next();
        }
    }
}

impl AsFd for Members {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ports.level_triggered_fd()
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.open.keys().map(|(id, _)| format!("{id:032x}"));
        f.debug_struct("Members")
            .field("open", &ids.collect::<Vec<_>>())
            .field("ports", &self.ports.len())
            .finish()
    }
}

fn who(peer: &BroadcastPeer) -> Who {
    (peer.id, peer.credentials.map(|PeerCredentials { pid, uid, gid }| (pid, uid, gid)))
}

/// Changes that wait before members that came and went meanwhile are left out.
const MOST_CHANGES: usize = 1024;
/// The number of ports up to which each one is looked at rather than asking the kernel, which takes
/// as long.
const MOST_WALKED: usize = 64;
