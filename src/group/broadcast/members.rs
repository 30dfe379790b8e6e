//! The other members, and the ports to them.

use crate::error::{BroadcastError, LoopError, MessageError, PostError, RecvError};
use crate::front::event_loop::PortId;
use crate::front::port_set::PortSet;
use crate::port::MessagePort;
use crate::port::event::MessageEvent;
use crate::port::message::Message;
use crate::port::sender::Sender;
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

/// Who is there.
///
/// There may be two ports to one member, if both joined at the same moment. It is posted to through
/// the one that was known first, and received from through both: it does likewise, so that nothing
/// is doubled and each sender's order is kept.
pub(super) struct Members {
    ports: PortSet,
    /// Ports that can be posted to, by their members, oldest member first; the ports in the order
    /// in which they came to be known.
    open: BTreeMap<u128, Vec<PortId>>,
    /// Whose each port is, also those that can be received from alone.
    whose: BTreeMap<PortId, u128>,
}

impl Members {
    pub(super) fn new() -> Result<Members, LoopError> {
        Ok(Members { ports: PortSet::new()?, open: BTreeMap::new(), whose: BTreeMap::new() })
    }

    /// Takes in a port to a member.
    pub(super) fn add(&mut self, member: u128, port: MessagePort) -> Result<(), BroadcastError> {
        // No member has a third one: whoever says so is none.
        if self.open.get(&member).is_some_and(|ports| ports.len() == 2) {
            return Ok(());
        }
        let id = self.ports.add(port).map_err(LoopError::from)?;
        self.whose.insert(id, member);
        self.open.entry(member).or_default().push(id);
        Ok(())
    }

    /// Whether there is a port to that member.
    pub(super) fn knows(&self, member: u128) -> bool {
        self.open.contains_key(&member)
    }

    /// Posts to each member, oldest first. How many have it, and why others have not.
    ///
    /// A port ends only when its member closes or dies, and then all of its ports do. One that
    /// ended otherwise has met what is no member's doing; the next port of that member is good.
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

    /// The next message of any of them.
    pub(super) fn next(&mut self) -> Result<Option<Result<Message, MessageError>>, BroadcastError> {
        loop {
            let Some((id, said)) = self.ports.try_recv()? else { return Ok(None) };
            match said.map(MessageEvent::into_message) {
                Ok(mut message) => {
                    // No member sends anything along; what came all the same is not kept for it.
                    message.abandon_parcel();
                    return Ok(Some(Ok(message)));
                }
                Err(RecvError::Closed { .. }) => self.forget(id),
                // What can never be had must not stand before what comes after it.
                Err(RecvError::OutOfMemory { len }) => {
                    self.step_over(id);
                    return Ok(Some(Err(MessageError::OutOfMemory { len })));
                }
                Err(RecvError::OutOfDescriptors { needed }) => {
                    self.step_over(id);
                    return Ok(Some(Err(MessageError::Lost { descriptors: needed })));
                }
                Err(RecvError::Io { call, source }) => {
                    return Err(BroadcastError::Io { call, source });
                }
                Err(RecvError::Timeout | RecvError::Cancelled | RecvError::Started) => {
                    unreachable!("a port of our own that is only asked what is there")
                }
            }
        }
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
            Err(RecvError::Closed { .. }) => self.forget(id),
            // The question has silenced the doorbell.
            _ => self.ports.look_again(id),
        }
    }

    fn post_no_more(&mut self, id: PortId) {
        let Some(member) = self.whose.get(&id) else { return };
        if let Some(ports) = self.open.get_mut(member) {
            ports.retain(|known| *known != id);
            if ports.is_empty() {
                self.open.remove(member);
            }
        }
    }

    fn forget(&mut self, id: PortId) {
        self.post_no_more(id);
        self.whose.remove(&id);
        drop(self.ports.remove(id));
    }

    fn step_over(&mut self, id: PortId) {
        if let Some(port) = self.ports.get(id) {
            let _ = port.discard_next();
        }
    }
}

impl AsFd for Members {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ports.as_fd()
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.open.keys().map(|id| format!("{id:032x}"));
        f.debug_struct("Members")
            .field("open", &ids.collect::<Vec<_>>())
            .field("ports", &self.ports.len())
            .finish()
    }
}
