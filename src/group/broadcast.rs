//! One to many by a name, without a daemon: every member has a port to every other one.
//!
//! ```text
//! directory of the name, the user's own; its lock is held while somebody joins or leaves
//!   3f2a…   a packet socket of each member: whoever joins leaves a port there
//! ```
//!
//! Joining is one step among all members: the joiner binds a socket of its own, makes a channel for
//! each socket that it finds, and leaves one end there. A socket at which nobody listens is of a
//! member that died; it is removed. Each member takes in what was left at its socket before it posts
//! and before it waits. So there is one channel between any two, and what is posted after somebody
//! has joined reaches it.

use crate::error::{BroadcastError, PostError, RecvError, SystemError};
use crate::front::port_set::PortSet;
use crate::link::payload::{self, Post};
use crate::link::transfer;
use crate::os::name::{self, Connected, Hold};
use crate::os::socket::{self, Received};
use crate::os::{poll, random_number};
use crate::port::MessagePort;
use crate::port::channel::{ChannelBuilder, MessageChannel};
use crate::port::message::Message;
use crate::port::sender::Sender;
use crate::wire::frame::CAPSULE_LEN;
use std::fmt;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// A member of a broadcast channel: what it posts reaches every other open member of that name, in
/// any process of this user, once and in its order; never itself.
///
/// Members come and go at will, and may be killed: the others go on. A message is serialised once,
/// and copied to each member. A member that does not receive has its messages kept up to the
/// channel's limit, and misses what is posted beyond; the poster is told.
///
/// HTML: [`BroadcastChannel`](https://html.spec.whatwg.org/#broadcasting-to-other-browsing-contexts).
///
/// ```
/// use messageport::BroadcastChannel;
///
/// # let name = format!("doc-{}", std::process::id());
/// let mut prices = BroadcastChannel::open(&name)?;
/// let mut screen = BroadcastChannel::open(&name)?;
/// prices.post_message(&("lamp".to_string(), 12u32))?;
/// assert_eq!(screen.recv()?.data::<(String, u32)>()?.0, "lamp");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct BroadcastChannel {
    /// None once it is closed.
    membership: Option<Membership>,
    name: String,
    members: PortSet,
}

struct Membership {
    directory: PathBuf,
    path: PathBuf,
    socket: OwnedFd,
}

impl BroadcastChannel {
    /// Joins the channel of that name; makes it, if this is its first member.
    ///
    /// # Errors
    /// [`BroadcastError`]; nothing is left behind.
    pub fn open(name: &str) -> Result<BroadcastChannel, BroadcastError> {
        BroadcastChannel::open_with(name, MessageChannel::builder())
    }

    /// Joins, with channels to those who are there as `builder` makes them.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        name: &str,
        builder: ChannelBuilder,
    ) -> Result<BroadcastChannel, BroadcastError> {
        if !name::is_name(name) {
            return Err(BroadcastError::BadName { name: name.to_owned() });
        }
        let parent =
            name::directory().map_err(|(path, what)| BroadcastError::Directory { path, what })?;
        let directory = parent.join(format!("broadcast.{name}"));
        let members = PortSet::new().map_err(BroadcastError::of_loop)?;
        let mut this = BroadcastChannel { membership: None, name: name.to_owned(), members };
        this.join(directory, builder)?;
        Ok(this)
    }

    /// The channel's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many other members this one knows of at the moment. Their ends are noticed when something
    /// is posted to them or received.
    pub fn others(&mut self) -> Result<usize, BroadcastError> {
        self.take_in()?;
        Ok(self.members.len())
    }

    /// Posts a value to every other member.
    ///
    /// # Errors
    /// [`BroadcastError::Closed`] after [`close`](Self::close); [`BroadcastError::Serialize`];
    /// [`BroadcastError::Missed`] if some members have no room: the others have it.
    pub fn post_message<T: Post>(&mut self, value: &T) -> Result<(), BroadcastError> {
        let archive = payload::archive(value).map_err(BroadcastError::Serialize)?;
        self.post_all(|sender| sender.post_archive(&archive))
    }

    /// Posts bytes to every other member.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message), but for `Serialize`.
    pub fn post_bytes(&mut self, bytes: &[u8]) -> Result<(), BroadcastError> {
        self.post_all(|sender| sender.post_bytes(bytes))
    }

    /// Posts text to every other member.
    ///
    /// # Errors
    /// As [`post_bytes`](Self::post_bytes).
    pub fn post_text(&mut self, text: &str) -> Result<(), BroadcastError> {
        self.post_all(|sender| sender.post_text(text))
    }

    /// Waits for the next message of any member.
    ///
    /// # Errors
    /// [`BroadcastError::Closed`]; [`BroadcastError::Io`].
    pub fn recv(&mut self) -> Result<Message, BroadcastError> {
        self.recv_until(None)
    }

    /// Waits for the next message of any member, at most for `timeout`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`BroadcastError::Timeout`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Message, BroadcastError> {
        self.recv_until(Instant::now().checked_add(timeout))
    }

    /// The next message of any member, if one is there.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<Message>, BroadcastError> {
        match self.recv_until(Some(Instant::now())) {
            Err(BroadcastError::Timeout) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Leaves. What was posted before reaches the others; what was not received is gone. The second
    /// time it does nothing.
    pub fn close(&mut self) {
        let Some(Membership { directory, path, socket }) = self.membership.take() else { return };
        // Without the lock a joiner may leave a port at a socket that nobody reads: it is closed then.
        let lock = hold(&directory, Duration::from_secs(1));
        drop(socket);
        let _ = fs::remove_file(path);
        if let Ok(members) = PortSet::new() {
            self.members = members;
        }
        // Fails while others are members.
        let _ = fs::remove_dir(&directory);
        drop(lock);
    }

    fn join(&mut self, directory: PathBuf, builder: ChannelBuilder) -> Result<(), BroadcastError> {
        let lock = hold(&directory, PATIENCE)?;
        let found: Vec<PathBuf> = fs::read_dir(&directory)
            .map_err(|source| SystemError { call: "readdir", source })?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        let path = directory.join(format!("{:016x}", random_number()));
        let socket = name::listen_at(&path)?;
        // From here on a failure takes the socket away again.
        self.membership = Some(Membership { directory, path, socket });
        for other in found {
            if let Some(port) = leave_port(&other, builder)? {
                self.members.add(port).map_err(BroadcastError::of_loop)?;
            }
        }
        drop(lock);
        Ok(())
    }

    /// Takes in the ports that joiners have left.
    fn take_in(&mut self) -> Result<(), BroadcastError> {
        let Some(membership) = &self.membership else {
            return Err(BroadcastError::Closed { name: self.name.clone() });
        };
        while let Some(socket) = name::accept(membership.socket.as_fd())? {
            if name::credentials(socket.as_fd())?.1 != name::user() {
                continue;
            }
            let mut bytes = [0; CAPSULE_LEN + 1];
            // It was sent before the joiner let go of the lock, or the joiner has died.
            let Received::Packet(len, descriptors) =
                socket::receive(socket.as_fd(), &mut bytes, 3)?
            else {
                continue;
            };
            if let Ok(halves) = transfer::from_packet(&bytes[..len], descriptors) {
                self.members.add(MessagePort::new(halves)).map_err(BroadcastError::of_loop)?;
            }
        }
        Ok(())
    }

    fn post_all(
        &mut self,
        post: impl Fn(&Sender) -> Result<(), PostError>,
    ) -> Result<(), BroadcastError> {
        self.take_in()?;
        let (mut missed, mut gone) = (Vec::new(), Vec::new());
        for (id, port) in self.members.iter() {
            match post(port.sender()) {
                Ok(()) => {}
                Err(PostError::Closed { .. }) => gone.push(id),
                Err(error) => missed.push(error),
            }
        }
        // One that has left may have posted before; then it says its end when that was received.
        gone.retain(|id| {
            let lane = self.members.get(*id).map(|port| port.stats().received);
            lane.is_none_or(|lane| lane.messages == lane.received)
        });
        gone.into_iter().for_each(|id| drop(self.members.remove(id)));
        match missed.pop() {
            None => Ok(()),
            Some(first) => {
                let count = missed.len() + 1;
                Err(BroadcastError::Missed { count, first: Box::new(first) })
            }
        }
    }

    fn recv_until(&mut self, deadline: Option<Instant>) -> Result<Message, BroadcastError> {
        loop {
            self.take_in()?;
            let mut gone = Vec::new();
            let next = loop {
                match self.members.try_recv().map_err(BroadcastError::of_loop)? {
                    Some((id, Err(RecvError::Closed { .. }))) => gone.push(id),
                    // It stays with that member, and can be had later.
                    Some((_, Err(error))) => break Some(Err(BroadcastError::Recv(error))),
                    Some((_, Ok(event))) => break Some(Ok(event.into_message())),
                    None => break None,
                }
            };
            gone.into_iter().for_each(|id| drop(self.members.remove(id)));
            if let Some(answer) = next {
                return answer;
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(BroadcastError::Timeout);
            }
            let membership = self.membership.as_ref().expect("it was there above");
            poll::wait_readable(&[self.members.as_fd(), membership.socket.as_fd()], left)?;
        }
    }
}

/// The lock of a name's directory, which is made if it is not there.
fn hold(directory: &Path, patience: Duration) -> Result<Hold, BroadcastError> {
    let deadline = Instant::now() + patience;
    loop {
        name::make_directory(directory)
            .map_err(|what| BroadcastError::Directory { path: directory.to_owned(), what })?;
        match Hold::directory(directory)? {
            Some(lock) => return Ok(lock),
            None if Instant::now() >= deadline => return Err(BroadcastError::Timeout),
            None => thread::sleep(Duration::from_micros(300)),
        }
    }
}

/// Makes a channel to a member, and leaves one end at its socket. `None` if that member has died.
fn leave_port(
    other: &Path,
    builder: ChannelBuilder,
) -> Result<Option<MessagePort>, BroadcastError> {
    let deadline = Instant::now() + PATIENCE;
    let socket = loop {
        match name::connect_to(other)? {
            Connected::Yes(socket) => break socket,
            Connected::Nobody => {
                // Its member died: nobody else has this name, and nobody joins meanwhile.
                let _ = fs::remove_file(other);
                return Ok(None);
            }
            // So many have joined since it last looked; it may look again.
            Connected::Busy if Instant::now() >= deadline => return Ok(None),
            Connected::Busy => thread::sleep(Duration::from_millis(1)),
        }
    };
    let MessageChannel { port1, mut port2 } = builder.build()?;
    let (sending, receiving) = port2.halves();
    match transfer::send(socket.as_fd(), sending, receiving) {
        Ok(()) => Ok(Some(port1)),
        Err(PostError::Io { call, source }) => match source.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET) => Ok(None),
            _ => Err(BroadcastError::Io { call, source }),
        },
        Err(other) => unreachable!("a fresh port is open: {other}"),
    }
}

impl Drop for BroadcastChannel {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for BroadcastChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BroadcastChannel")
            .field("name", &self.name)
            .field("is_open", &self.membership.is_some())
            .field("members", &self.members)
            .finish()
    }
}

/// How long a joiner waits for others that join or leave, and for a member that is slow.
const PATIENCE: Duration = Duration::from_secs(30);
