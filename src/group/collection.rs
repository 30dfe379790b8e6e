//! One message to many ports.

use crate::error::{AsIoError, PostError, into_io_error};
use crate::link::payload::{self, Post};
use crate::port::MessagePort;
use crate::port::sender::Sender;
use std::collections::BTreeMap;
use std::fmt;

/// A collection of ports to post to together: a message is serialised once and copied to each.
///
/// Members are whole ports or sending halves. With [`new`](Self::new) they are owned or borrowed;
/// with [`owned`](PortCollection::owned) all of them are owned, so that the collection is `Send`.
/// Such a message cannot carry transferables, because a transferable can move to one member only.
///
/// MDN: `PortCollection`, which HTML no longer has.
///
/// ```
/// use messageport::{MessageChannel, PortCollection};
///
/// let (one, other) = (MessageChannel::new()?, MessageChannel::new()?);
/// let mut all = PortCollection::new();
/// all.add(one.port1);
/// let second = all.add(&other.port1);
/// all.post_message(&7u32)?;
/// assert_eq!(*one.port2.recv()?.data::<u32>()?, 7);
///
/// drop(other.port2);
/// let failed = all.post_message(&8u32).unwrap_err();
/// assert_eq!((failed.posted, failed.failures[0].0), (1, second));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PortCollection<M = OwnedMember> {
    members: BTreeMap<MemberId, M>,
    next: u64,
}

/// Identifies a member of a [`PortCollection`]; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(u64);

/// What a [`PortCollection`] that borrows can hold.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // Who takes a port out again wants no box around it.
pub enum Member<'p> {
    /// An owned port.
    Port(MessagePort),
    /// An owned sending half.
    Sender(Sender),
    /// A borrowed sending half.
    Borrowed(&'p Sender),
}

impl From<MessagePort> for Member<'_> {
    fn from(port: MessagePort) -> Self {
        Member::Port(port)
    }
}

impl From<Sender> for Member<'_> {
    fn from(sender: Sender) -> Self {
        Member::Sender(sender)
    }
}

impl<'p> From<&'p MessagePort> for Member<'p> {
    fn from(port: &'p MessagePort) -> Self {
        Member::Borrowed(port.sender())
    }
}

impl<'p> From<&'p Sender> for Member<'p> {
    fn from(sender: &'p Sender) -> Self {
        Member::Borrowed(sender)
    }
}

/// What a [`PortCollection`] that owns its members can hold.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // As `Member`.
pub enum OwnedMember {
    /// A port.
    Port(MessagePort),
    /// A sending half.
    Sender(Sender),
}

impl From<MessagePort> for OwnedMember {
    fn from(port: MessagePort) -> Self {
        OwnedMember::Port(port)
    }
}

impl From<Sender> for OwnedMember {
    fn from(sender: Sender) -> Self {
        OwnedMember::Sender(sender)
    }
}

/// The two kinds of members. Not to be implemented elsewhere.
pub trait CollectionMember: sealed::HasSender {}

impl CollectionMember for Member<'_> {}

impl CollectionMember for OwnedMember {}

mod sealed {
    use crate::port::sender::Sender;

    pub trait HasSender {
        fn sender(&self) -> &Sender;
    }
}

impl sealed::HasSender for Member<'_> {
    fn sender(&self) -> &Sender {
        match self {
            Member::Port(port) => port.sender(),
            Member::Sender(sender) => sender,
            Member::Borrowed(sender) => sender,
        }
    }
}

impl sealed::HasSender for OwnedMember {
    fn sender(&self) -> &Sender {
        match self {
            OwnedMember::Port(port) => port.sender(),
            OwnedMember::Sender(sender) => sender,
        }
    }
}

impl<M> Default for PortCollection<M> {
    fn default() -> PortCollection<M> {
        PortCollection { members: BTreeMap::new(), next: 0 }
    }
}

impl<'p> PortCollection<Member<'p>> {
    /// Creates an empty collection of members that are owned or borrowed.
    pub fn new() -> PortCollection<Member<'p>> {
        PortCollection::default()
    }
}

impl PortCollection {
    /// Creates an empty collection that owns its members, and is `Send`.
    ///
    /// ```
    /// use messageport::{MessageChannel, PortCollection};
    ///
    /// let channel = MessageChannel::new()?;
    /// let mut all = PortCollection::owned();
    /// all.add(channel.port1);
    /// let thread = std::thread::spawn(move || all.post_text("to all").is_ok());
    /// assert!(thread.join().unwrap());
    /// assert_eq!(channel.port2.recv()?.text()?, "to all");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn owned() -> PortCollection {
        PortCollection::default()
    }
}

impl<M: CollectionMember> PortCollection<M> {
    /// Adds a member, after the others.
    pub fn add(&mut self, member: impl Into<M>) -> MemberId {
        let id = MemberId(self.next);
        self.next += 1;
        self.members.insert(id, member.into());
        id
    }

    /// Removes a member, and returns it.
    pub fn remove(&mut self, id: MemberId) -> Option<M> {
        self.members.remove(&id)
    }

    /// Borrows a member.
    pub fn get(&self, id: MemberId) -> Option<&M> {
        self.members.get(&id)
    }

    /// The members, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, &M)> {
        self.members.iter().map(|(id, member)| (*id, member))
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Posts a value to every member, in their order. A member that fails does not delay the
    /// others.
    ///
    /// # Errors
    /// [`CollectionError`] with the members that do not have the message; all others have it.
    pub fn post_message<T: Post>(&self, value: &T) -> Result<(), CollectionError> {
        let archive = payload::archive(value).map_err(|error| CollectionError {
            posted: 0,
            failures: Vec::new(),
            serialize: Some(PostError::Serialize(error)),
        })?;
        self.post_all(|sender| sender.post_archive(&archive))
    }

    /// Posts bytes to every member.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message).
    pub fn post_bytes(&self, bytes: &[u8]) -> Result<(), CollectionError> {
        self.post_all(|sender| sender.post_bytes(bytes))
    }

    /// Posts text to every member.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message).
    pub fn post_text(&self, text: &str) -> Result<(), CollectionError> {
        self.post_all(|sender| sender.post_text(text))
    }

    /// Removes and returns the members that were closed or whose peers are gone.
    pub fn remove_closed(&mut self) -> Vec<(MemberId, M)> {
        let closed: Vec<_> = self
            .iter()
            .filter(|(_, member)| member.sender().is_closed())
            .map(|(id, _)| id)
            .collect();
        closed.into_iter().filter_map(|id| Some((id, self.members.remove(&id)?))).collect()
    }

    pub(super) fn post_all(
        &self,
        post: impl Fn(&Sender) -> Result<(), PostError>,
    ) -> Result<(), CollectionError> {
        let mut failures = Vec::new();
        for (id, member) in &self.members {
            if let Err(error) = post(member.sender()) {
                failures.push((*id, error));
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        let posted = self.members.len() - failures.len();
        Err(CollectionError { posted, failures, serialize: None })
    }
}

impl<M> fmt::Debug for PortCollection<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortCollection")
            .field("members", &self.members.keys())
            .finish_non_exhaustive()
    }
}

/// A message did not reach every member of a [`PortCollection`].
#[derive(Debug)]
#[non_exhaustive]
pub struct CollectionError {
    /// The number of members that have the message.
    pub posted: usize,
    /// The members that do not have it, and why, in their order.
    pub failures: Vec<(MemberId, PostError)>,
    /// Why it was posted to no member: the value could not be serialised.
    pub serialize: Option<PostError>,
}

impl fmt::Display for CollectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.serialize, self.failures.first()) {
            (Some(_), _) => f.write_str(
                "posted to no member: the source of this error says why, and what helps",
            ),
            (None, Some(_)) => {
                let (failed, posted) = (self.failures.len(), self.posted);
                write!(
                    f,
                    "posted to {posted} members and not to {failed}: the source of this error says "
                )?;
                f.write_str("why the first one has not got it, and what helps")
            }
            (None, None) => write!(f, "posted to {} members", self.posted),
        }
    }
}

impl std::error::Error for CollectionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let first = self.failures.first().map(|(_, error)| error);
        self.serialize.as_ref().or(first).map(|error| error as _)
    }
}

impl AsIoError for CollectionError {
    fn kind(&self) -> std::io::ErrorKind {
        let first = self.failures.first().map(|(_, error)| error);
        let error = self.serialize.as_ref().or(first);
        error.map_or(std::io::ErrorKind::Other, AsIoError::kind)
    }
}

into_io_error!(CollectionError);
