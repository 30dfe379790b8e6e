//! One to many by a name, without a daemon: any two members have a port to each other.
//!
//! ```text
//! broadcast.prices/          the directory of the name, the user's own
//!   00012f…-2-…-0            a packet socket of each member; each joiner leaves a port there
//! ```
//!
//! A joiner publishes its own socket first and then reads the directory, so of two that join at the
//! same time at least one finds the other. No lock is taken, and no member waits for another: a
//! port that was left at a socket keeps what is posted to it until the member takes it in, which it
//! does in each of its calls.
//!
//! Each message is followed by eight bytes that say when it was posted: see [`order`].

mod acceptor;
mod events;
mod join;
mod members;
mod membership;
mod order;
pub(crate) mod presence;
mod signature;

use crate::error::{
    BROADCAST_PREFIX, BroadcastError, MessageError, PostError, SystemError, flaw_of_name,
};
use crate::link::archive::Receive;
use crate::link::endpoint::LOOK_AGAIN;
use crate::link::payload::{self, Post};
use crate::os::backoff::PAUSE;
use crate::os::clock::Deadline;
use crate::os::epoll::Epoll;
use crate::os::eventfd::Bell;
use crate::os::{name, poll};
use crate::port::channel::{ChannelBuilder, MessageChannel};
use crate::port::message::Message;
use crate::port::sender::Sender;
use crate::port::target::Listeners;
use crate::wire::frame::Hello;
use crate::wire::layout::{VERSION, payload_format};
use crate::wire::record::Format;
use members::Members;
use membership::{Membership, Shared};
use order::{Resident, STAMP_LEN};
use presence::{Change, Found};
use std::cell::Cell;
use std::fmt;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A member of a named broadcast channel. Each message reaches every other open member once.
///
/// Members of one name may be in any process of this user; there is no daemon. They can join, leave
/// and be killed at any time without harm to the others. A member receives every message whose post
/// began after its [`open`](Self::open) returned, and never its own. Messages of a member that has
/// closed or died are still received. A sender that is killed inside a post may have reached some
/// members and not others.
///
/// Messages of one sender arrive in the order in which they were posted. Messages of several
/// members that post on one thread arrive in the order of the posts, too. On different threads or
/// in different processes, two conditions must hold for this. The second post must begin after the
/// first one has returned. And no more than 64 messages (or one of each other member, if there are
/// more members) may wait to be received; each 4 KiB of a message count as one additional message.
///
/// A message is serialised once and copied to each member; a post does not wait. If a member does
/// not receive, its queue fills up to the limit. It misses the messages that do not fit, and the
/// sender gets [`BroadcastError::Missed`]. A message cannot carry transferables.
///
/// # What it costs
///
/// Each member has a channel to every other member, made by the one that joined later. So with *n*
/// members, each has *n - 1* channels, or up to twice as many after joins at the same moment. Each
/// channel takes three descriptors, 8 MiB of address space and 15 KiB of memory at each end, and a
/// member itself takes seven descriptors. So the usual limit of 1024 descriptors allows about 300
/// members; a higher `RLIMIT_NOFILE` allows more. A post makes one system call to check for
/// joiners, one copy of the message, and another copy for each member. For each member that sleeps
/// it makes one more system call. Receiving a message that is there costs no system call with up to
/// 64 channels to other members; with more, a call asks the kernel which of them have messages.
///
/// # Members that do not answer
///
/// A killed member is noticed like a port's peer, and the next joiner removes its socket's file. A
/// member that lives but makes no call accepts no joiners. Their ports wait at its socket. Two
/// limits bound their number: `net.core.somaxconn` (4096), and the user's `RLIMIT_NOFILE`, which
/// bounds the descriptors in flight; each port has three. A joiner beyond these limits waits for
/// five seconds and then gets [`BroadcastError::Busy`].
///
/// # Trust
///
/// Only processes of the same user can join, and what they write is checked, as with any port. A
/// member that breaks the protocol loses only its own channel. A channel that would hold more than
/// 64 MiB, or more than this member's limit if that is higher, is refused. But a member's identity
/// is not verified: a process that lies about it can keep messages from another member. The joiner
/// makes the channel, so it can also block calls on the channel's sockets, as any former owner of a
/// port can. Use broadcasting only between processes that trust each other.
///
/// HTML:
/// [`BroadcastChannel`](https://html.spec.whatwg.org/#broadcasting-to-other-browsing-contexts).
///
/// ```
/// use messageport::BroadcastChannel;
///
/// # let name = format!("doc-{}", std::process::id());
/// let prices = BroadcastChannel::open(&name)?;
/// let screen = BroadcastChannel::open(&name)?;
/// prices.post_message(&("lamp".to_string(), 12u32))?;
/// assert_eq!(screen.recv()?.data::<(String, u32)>()?.0, "lamp");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a member that is dropped leaves the channel"]
pub struct BroadcastChannel {
    shared: Arc<Shared>,
    /// Messages received since joiners were last looked for.
    given: Cell<u32>,
    events: Listeners,
    validator: Cell<Option<Validator>>,
}

/// Returns what is wrong with a message.
type Validator = fn(&Message) -> Result<(), MessageError>;

impl BroadcastChannel {
    /// Joins the channel of that name; the first member creates it.
    ///
    /// Costs about forty system calls per existing member. It does not wait, except for members
    /// whose sockets are full: up to five seconds for each.
    ///
    /// # Errors
    /// [`BadName`](BroadcastError::BadName); [`Directory`](BroadcastError::Directory) if the
    /// directory of names is not the user's alone; [`Attach`](BroadcastError::Attach) if a member's
    /// program uses another layout, format or schema; [`Busy`](BroadcastError::Busy);
    /// [`File`](BroadcastError::File), for example where `/proc` is not mounted, through which
    /// members are reached; [`Channel`](BroadcastError::Channel) and [`Io`](BroadcastError::Io),
    /// usually when out of descriptors. Nothing is left behind.
    pub fn open(name: &str) -> Result<BroadcastChannel, BroadcastError> {
        BroadcastChannel::open_with(name, BroadcastChannel::builder())
    }

    /// Joins, and makes the channels to existing members with `builder`.
    ///
    /// Later joiners make their own channels, so use the same sizes in all members. The schema must
    /// be the same.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// ```
    /// use messageport::{BroadcastChannel, BroadcastError};
    ///
    /// # let name = format!("doc-schema-{}", std::process::id());
    /// let builder = BroadcastChannel::builder().limit(1 << 20).schema(7);
    /// let channel = BroadcastChannel::open_with(&name, builder)?;
    /// let error = BroadcastChannel::open_with(&name, builder.schema(8)).unwrap_err();
    /// assert!(matches!(error, BroadcastError::Attach(_)), "{error}");
    /// # Ok::<(), messageport::BroadcastError>(())
    /// ```
    pub fn open_with(
        name: &str,
        builder: ChannelBuilder,
    ) -> Result<BroadcastChannel, BroadcastError> {
        if flaw_of_name(name).is_some() {
            return Err(BroadcastError::BadName { name: name.to_owned() });
        }
        name::check_user()?;
        let parent = name::names_directory()?;
        let hello = Hello {
            version: u64::from(VERSION) | order::FRAME_VERSION << 32,
            format: payload_format(),
            schema: builder.schema_id(),
        };
        let directory = parent.path().join(format!("{BROADCAST_PREFIX}{name}"));
        let epoll = Epoll::new()?;
        let (_, limit) = builder.sizes()?;
        let (rendezvous, mut acceptor) = join::publish(directory, hello, &epoll)?;
        acceptor.refuse_above(limit as usize);
        // From here on dropping it undoes everything.
        let (bell, members) = (Bell::new()?, Members::new()?);
        epoll.add(acceptor.as_fd(), 0)?;
        epoll.add(members.as_fd(), 0)?;
        epoll.add(bell.as_fd(), 0)?;
        let id = acceptor.signature().member;
        let resident = Resident::new(id);
        let mut membership = Membership {
            acceptor,
            members,
            _resident: resident,
            joined: order::joined(),
            bell,
            rings: false,
        };
        join::meet_all(&rendezvous, builder, &mut membership, &epoll)?;
        order::has_joined();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            id,
            epoll,
            membership: Mutex::new(Some(membership)),
            number: order::number(),
            seat: Mutex::default(),
        });
        order::sit(&shared);
        Ok(BroadcastChannel {
            shared,
            given: Cell::new(0),
            events: Listeners::default(),
            validator: Cell::new(None),
        })
    }

    /// The default sizes for [`open_with`](Self::open_with): a capacity of 16 KiB and a limit of 4
    /// MiB, as there are many channels. So a message has at most 2 MiB - 40 bytes.
    pub fn builder() -> ChannelBuilder {
        MessageChannel::builder().capacity(CAPACITY).limit(LIMIT)
    }

    /// The channel's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What this member is called at the others: their
    /// [`BroadcastPeer::id`](crate::BroadcastPeer::id).
    pub fn id(&self) -> u128 {
        self.shared.id
    }

    /// Whether [`close`](Self::close) was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.membership().is_none()
    }

    /// Counts the other members that are open and known; makes one system call for each. Every
    /// member whose `open` has returned is known.
    ///
    /// # Errors
    /// [`Closed`](BroadcastError::Closed); [`Io`](BroadcastError::Io) if a joiner could not be
    /// accepted.
    pub fn others(&self) -> Result<usize, BroadcastError> {
        self.shared.with_membership(|membership| {
            membership.take_in(&self.shared.epoll)?;
            let count = membership.members.count_open();
            membership.tell_changes();
            Ok(count)
        })
    }

    /// Posts a value to every other member; never blocks.
    ///
    /// Serialises it once. `Ok` means that the message is in the memory of every member, which
    /// receives it whatever happens to this process. Members that have ended are skipped silently.
    ///
    /// HTML: [`postMessage()`](https://html.spec.whatwg.org/#dom-broadcastchannel-postmessage).
    ///
    /// # Errors
    /// [`Closed`](BroadcastError::Closed) after [`close`](Self::close);
    /// [`Serialize`](BroadcastError::Serialize) if the value could not be serialised or memory has
    /// run out; then it was posted to no member. [`Missed`](BroadcastError::Missed) if it did not
    /// fit at some members, or a joiner could not be accepted; all other members have it.
    pub fn post_message<T: Post>(&self, value: &T) -> Result<(), BroadcastError> {
        self.shared.with_membership(|_| Ok(()))?;
        let archive = payload::archive(value).map_err(BroadcastError::Serialize)?;
        self.post_all(archive, Format::Archive)
    }

    /// Posts bytes to every other member; never blocks.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message), with [`Io`](BroadcastError::Io) instead of
    /// `Serialize` if memory for a copy cannot be allocated.
    pub fn post_bytes(&self, bytes: &[u8]) -> Result<(), BroadcastError> {
        self.post_all(copy_of(bytes)?, Format::Bytes)
    }

    /// Posts text to every other member; never blocks.
    ///
    /// # Errors
    /// As [`post_bytes`](Self::post_bytes).
    pub fn post_text(&self, text: &str) -> Result<(), BroadcastError> {
        self.post_all(copy_of(text.as_bytes())?, Format::Text)
    }

    /// Waits for the next message of any member, even if there is no other member: one may join.
    ///
    /// It is fair: after a message of one member, the others that have messages get their turn.
    ///
    /// # Errors
    /// [`Closed`](BroadcastError::Closed) after [`close`](Self::close);
    /// [`Message`](BroadcastError::Message) for a message that [`require_type`](Self::require_type)
    /// refuses, or that does not fit in memory; [`Io`](BroadcastError::Io), also if a joiner could
    /// not be accepted because the process was out of descriptors for 50 ms.
    pub fn recv(&self) -> Result<Message, BroadcastError> {
        self.until(Deadline::NEVER, Self::try_recv)
    }

    /// Waits for the next message of any member for at most `timeout`. While the process has too
    /// few descriptors to accept a joiner, the call retries every 50 ms; it returns that error when
    /// the time is up.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`Timeout`](BroadcastError::Timeout).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Message, BroadcastError> {
        self.until(Deadline::after(timeout), Self::try_recv)
    }

    /// Takes the next message of any member, if there is one.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Option<Message>, BroadcastError> {
        self.shared.seat().leave();
        match self.next()? {
            Some(Err(error)) => Err(BroadcastError::Message(error)),
            Some(Ok(message)) => Ok(Some(message)),
            None => Ok(None),
        }
    }

    /// From now on, refuses messages that are not a valid archive of a `T`, for this member alone.
    ///
    /// Such a message is a [`BroadcastError::Message`] where it is received, and a `messageerror`
    /// where it is delivered as an event. Each message is checked when it is received, and again by
    /// [`data`](Message::data).
    ///
    /// ```
    /// use messageport::{BroadcastChannel, BroadcastError};
    ///
    /// # let name = format!("doc-type-{}", std::process::id());
    /// let (one, other) = (BroadcastChannel::open(&name)?, BroadcastChannel::open(&name)?);
    /// other.require_type::<u32>();
    /// one.post_text("no number")?;
    /// one.post_message(&7u32)?;
    /// assert!(matches!(other.recv(), Err(BroadcastError::Message(_))));
    /// assert_eq!(*other.recv()?.data::<u32>()?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn require_type<T: Receive>(&self) {
        self.validator.set(Some(|message| message.data::<T>().map(drop)));
    }

    /// Leaves the channel; does nothing the second time. Dropping does the same.
    ///
    /// What this member posted before reaches the others. What it has not received is lost.
    ///
    /// HTML: [`close()`](https://html.spec.whatwg.org/#dom-broadcastchannel-close).
    pub fn close(&self) {
        let membership = self.shared.membership().take();
        match membership {
            Some(membership) if !membership.acceptor.is_ours() => {
                // A forked copy: the name is another process's, and the ports' memory is not here.
                mem::forget(membership);
            }
            membership => drop(membership),
        }
    }

    pub(super) fn post_all(
        &self,
        mut frame: Vec<u8>,
        format: Format,
    ) -> Result<(), BroadcastError> {
        self.shared.with_membership(|membership| {
            let taken_in = membership.take_in(&self.shared.epoll);
            frame.try_reserve(STAMP_LEN).map_err(|_| no_memory())?;
            frame.extend(order::stamp().to_le_bytes());
            let post = |sender: &Sender| sender.post_framed(&frame, format).map_err(without_stamp);
            let (posted, mut missed) = membership.members.post_all(post);
            membership.tell_changes();
            if let Err(error) = taken_in {
                // A member is there that could not be posted to.
                missed.insert(0, error.into_post_error());
            }
            let count = missed.len();
            match missed.into_iter().next() {
                None => Ok(()),
                Some(first) => {
                    Err(BroadcastError::Missed { missed: count, posted, first: Box::new(first) })
                }
            }
        })
    }

    /// The next message, or what is wrong with it.
    fn next(&self) -> Result<Option<Result<Message, MessageError>>, BroadcastError> {
        // The check runs code of the program, which may come back here, so it is not part of the
        // look.
        Ok(match self.look(|_| None)? {
            Some(Found::Message(_, message)) => Some(self.validated(message)),
            Some(Found::Change(_)) | None => None,
        })
    }

    /// The next message, or the change of members that comes before it. Changes are asked for
    /// first: who has joined is reported before what it says, and who has left has said all.
    fn look(
        &self,
        next_change: fn(&mut Members) -> Option<Change>,
    ) -> Result<Option<Found<Result<Message, MessageError>>>, BroadcastError> {
        let message = |(peer, head)| Found::Message(peer, head);
        self.shared.with_membership(|membership| {
            membership.drain();
            if let Some(change) = next_change(&mut membership.members) {
                return Ok(Some(Found::Change(change)));
            }
            if let Some(overdue) = membership.members.pop_overdue() {
                return Ok(Some(message(overdue)));
            }
            let is_thorough = self.given.get() >= SHARE;
            let first = membership.settle(&self.shared.epoll, None, is_thorough)?;
            let is_restart = is_thorough || first.is_none();
            self.given.set(if is_restart { 0 } else { self.given.get() + 1 });
            if let Some(change) = next_change(&mut membership.members) {
                return Ok(Some(Found::Change(change)));
            }
            Ok(membership.members.pop().map(message))
        })
    }

    fn validated(&self, message: Result<Message, MessageError>) -> Result<Message, MessageError> {
        let message = message?;
        self.validator.get().map_or(Ok(()), |validate| validate(&message))?;
        Ok(message)
    }

    /// Whether the error is a lack of descriptors, so that this member waits for some.
    pub(crate) fn waits_for_descriptors(&self, error: &BroadcastError) -> bool {
        error.is_lack() && self.shared.lacks_descriptors()
    }

    fn until<T>(
        &self,
        deadline: Deadline,
        look: impl Fn(&Self) -> Result<Option<T>, BroadcastError>,
    ) -> Result<T, BroadcastError> {
        let mut shortage_until = None;
        loop {
            let shortage = match look(self) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => None,
                Err(error) if self.waits_for_descriptors(&error) => Some(error),
                Err(error) => return Err(error),
            };
            let mut until = deadline;
            if shortage.is_some() {
                // Reported after one pause, so that a caller who retries does not spin.
                let pause = || *shortage_until.get_or_insert_with(|| Deadline::after(PAUSE));
                until = deadline.or_else(pause);
            }
            if until.is_over() {
                return Err(shortage.unwrap_or(BroadcastError::Timeout));
            }
            let slice = until.left_at_most(LOOK_AGAIN);
            poll::wait_readable(&[self.shared.epoll.as_fd()], Some(slice))?;
        }
    }
}

impl BroadcastError {
    /// Whether this process or the system is out of something.
    fn is_lack(&self) -> bool {
        matches!(self, BroadcastError::Io(error) if error.is_lack())
    }

    /// Why a joiner could not be posted to.
    fn into_post_error(self) -> PostError {
        PostError::Io(match self {
            BroadcastError::Io(error) => error,
            other => {
                SystemError { call: "taking in a member", source: std::io::Error::other(other) }
            }
        })
    }
}

/// Readable when a message or a joiner may be there. Wait for it only after
/// [`try_recv`](BroadcastChannel::try_recv) has returned `None`, or after
/// [`dispatch`](BroadcastChannel::dispatch), and then call one of these again. After an
/// out-of-descriptors error it is not readable for 50 ms, unless a message comes.
impl AsFd for BroadcastChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.epoll.as_fd()
    }
}

/// As `AsFd`.
impl AsRawFd for BroadcastChannel {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Drop for BroadcastChannel {
    fn drop(&mut self) {
        // Another member of this thread may be looking at what is shared for a moment more.
        self.close();
    }
}

impl fmt::Debug for BroadcastChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("BroadcastChannel");
        out.field("name", &self.shared.name);
        match self.shared.membership.try_lock().as_deref() {
            Ok(Some(Membership { acceptor, members, .. })) => {
                out.field("acceptor", acceptor).field("members", members)
            }
            Ok(None) => out.field("closed", &true),
            Err(_) => out.field("busy", &true),
        };
        out.finish_non_exhaustive()
    }
}

/// Copies bytes, with room after them for a stamp.
pub(super) fn copy_of(bytes: &[u8]) -> Result<Vec<u8>, BroadcastError> {
    let mut frame = Vec::new();
    frame.try_reserve_exact(bytes.len() + STAMP_LEN).map_err(|_| no_memory())?;
    frame.extend_from_slice(bytes);
    Ok(frame)
}

fn no_memory() -> BroadcastError {
    SystemError { call: "alloc", source: std::io::ErrorKind::OutOfMemory.into() }.into()
}

/// The lengths in an error are those of the caller's message.
fn without_stamp(error: PostError) -> PostError {
    match error {
        PostError::TooLarge { len, max } => {
            PostError::TooLarge { len: len - STAMP_LEN as u64, max: max - STAMP_LEN as u64 }
        }
        PostError::QueueFull { len, unread, limit, is_socket } => {
            PostError::QueueFull { len: len - STAMP_LEN as u64, unread, limit, is_socket }
        }
        other => other,
    }
}

const CAPACITY: usize = 16 << 10;
const LIMIT: usize = 4 << 20;
/// Messages that are received, or delivered as events, before others have their turn.
const SHARE: u32 = 64;
