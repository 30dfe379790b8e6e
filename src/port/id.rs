//! The identity of a port inside its process.

use crate::port::MessagePort;

/// Identifies a port of this process; made by [`MessagePort::id`]. It is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(u64);

impl PortId {
    pub(crate) fn new(number: u64) -> PortId {
        PortId(number)
    }

    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

impl MessagePort {
    /// The identity of this port for as long as this process holds it.
    ///
    /// It stays the same when the port is added to an [`EventLoop`](crate::EventLoop) or a
    /// [`PortSet`](crate::PortSet) and taken out again, when it gets types, and when it is split
    /// and joined. When it moves to another process, or in a message to this one, the port that
    /// arrives has a new id; after a post that fails, the port that comes back has the old one. The
    /// ids of a process grow: a port that was made later has a larger one. Programs that fork
    /// should not compare ids across processes.
    ///
    /// ```
    /// use messageport::{EventLoop, MessageChannel, PortSet};
    ///
    /// let port = MessageChannel::new()?.port1;
    /// let id = port.id();
    /// let mut event_loop = EventLoop::new()?;
    /// assert_eq!(event_loop.add(port)?, id);
    /// let port = event_loop.take(id).expect("it was just added");
    /// assert_eq!(PortSet::new()?.add(port)?, id);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn id(&self) -> PortId {
        PortId(self.endpoint().number())
    }
}
