//! Two programs connect by a name: `Listener` on one side, `connect` on the other, which is in
//! `connect.rs`.

use crate::error::{ChannelError, ListenError, PostError, flaw_of_listener_name};
use crate::link::endpoint::PeerCredentials;
use crate::link::transfer;
use crate::meet::allowed::Allowed;
use crate::meet::refused::{RefusedClient, RefusedClients, UNTAKEN};
use crate::os::backoff::{Backoff, PAUSE};
use crate::os::clock::Deadline;
use crate::os::epoll::Epoll;
use crate::os::name::{self, NoDirectory, Place, SocketFile};
use crate::os::poll;
use crate::os::reaper::Account;
use crate::os::socket::{self, Received, Socket};
use crate::port::MessagePort;
use crate::port::channel::{ChannelBuilder, MessageChannel};
use crate::wire::frame::{HELLO_LEN, Hello};
use crate::wire::layout::{VERSION, payload_format};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Gives a new port to each client that connects by name, like a `SharedWorker` on the web.
///
/// The name is a socket in the user's runtime directory, `$XDG_RUNTIME_DIR/messageport`. If that
/// variable is not set, or names another user's directory, it is in a directory of the user's own
/// under the temporary directory. Only processes of the same user can connect, unless
/// [`allow_users`](Self::allow_users) or [`allow_groups`](Self::allow_groups) lets others in.
///
/// A listener keeps its name while it lives. The name is removed when the listener is dropped by
/// the process that made it; after a `kill -9` the next listener takes it over. `systemd-tmpfiles`
/// does not remove it. The listener makes each client's channel, so the sizes of its builder apply.
///
/// A listener is `Send` but not `Sync`: one thread accepts, and gives each port to another one. To
/// end, that thread calls [`accept_timeout`](Self::accept_timeout) in a loop.
///
/// HTML:
/// [`SharedWorker`](https://html.spec.whatwg.org/#shared-workers-and-the-sharedworker-interface)
/// and its `connect` event.
///
/// ```
/// use messageport::{Listener, connect};
///
/// # let name = format!("doc-{}", std::process::id());
/// let listener = Listener::bind(&name)?;
/// let client = std::thread::spawn(move || connect(&name));
/// let port = listener.accept()?;
/// port.post_text("welcome")?;
/// assert_eq!(client.join().unwrap()?.recv()?.text()?, "welcome");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a listener that is dropped gives up its name"]
pub struct Listener {
    /// Before the socket: while that one listens no other listener takes the name.
    file: SocketFile,
    socket: Socket,
    builder: ChannelBuilder,
    allowed: Allowed,
    /// Clients that have not said who they are yet, oldest first.
    pending: RefCell<VecDeque<PendingClient>>,
    /// Clients of other users that have not taken their port yet.
    untaken: RefCell<Vec<PendingClient>>,
    epoll: Epoll,
    refused: Cell<RefusedClients>,
    backoff: Backoff,
    /// Counts what clients have left at their sockets and waits to be closed.
    account: Arc<Account>,
}

struct PendingClient {
    socket: Socket,
    credentials: PeerCredentials,
    /// It has said who it is, and waits until there are descriptors and memory for its port.
    is_welcome: bool,
}

impl Listener {
    /// Listens under `name`, with channels of the default sizes.
    ///
    /// # Errors
    /// [`ListenError`]; nothing is left behind.
    pub fn bind(name: &str) -> Result<Listener, ListenError> {
        Listener::bind_with(name, MessageChannel::builder())
    }

    /// Listens under `name`, with channels as `builder` makes them.
    ///
    /// A client that asks for another schema than the builder's is refused.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_with(name: &str, builder: ChannelBuilder) -> Result<Listener, ListenError> {
        if flaw_of_listener_name(name).is_some() {
            return Err(ListenError::BadName { name: name.to_owned() });
        }
        name::check_user()?;
        let directory = name::names_directory()?;
        Listener::bind_place(Place::of_name(directory, name), builder)
    }

    /// Listens at a path; clients use [`Connect::at`](crate::Connect::at).
    ///
    /// The absolute path may have up to 107 bytes. It may be longer if its last component has at
    /// most 64 bytes and `/proc` is mounted. A relative path is resolved once, against the current
    /// directory. While the path is in use, there is a lock file with the same name and the ending
    /// `.lock`.
    ///
    /// # Errors
    /// As [`bind`](Self::bind). [`ListenError::File`] also if the path is empty, has a zero byte,
    /// or is one of a directory.
    pub fn bind_at(
        path: impl Into<PathBuf>,
        builder: ChannelBuilder,
    ) -> Result<Listener, ListenError> {
        let path = path.into();
        if path.as_os_str().as_encoded_bytes().ends_with(name::LOCK_ENDING.as_bytes()) {
            return Err(ListenError::BadName { name: path.display().to_string() });
        }
        name::check_user()?;
        let place = Place::of_path(&path).map_err(|error| ListenError::from(error).at(&path))?;
        Listener::bind_place(place, builder)
    }

    fn bind_place(place: Place, builder: ChannelBuilder) -> Result<Listener, ListenError> {
        let path = place.path().to_owned();
        let listening =
            name::listen_at(place).map_err(|error| ListenError::from(error).at(&path))?;
        let Some((socket, file)) = listening else {
            return Err(ListenError::InUse { path });
        };
        let epoll = Epoll::new()?;
        epoll.add(socket.as_fd(), 0)?;
        let backoff = Backoff::new(&epoll, 0, PAUSE)?;
        let (pending, untaken) = (RefCell::default(), RefCell::default());
        let socket = Socket::new(socket);
        let refused = Cell::default();
        let account = Arc::default();
        let allowed = Allowed::default();
        Ok(Listener {
            file,
            socket,
            builder,
            allowed,
            pending,
            untaken,
            epoll,
            refused,
            backoff,
            account,
        })
    }

    /// Lets processes of these users connect too.
    ///
    /// The kernel says who a client is: its effective user when it connected. Makes the socket
    /// accessible to all users; a client that is not allowed is refused, as ever. Others still need
    /// a path that they can reach, so listen by [`bind_at`](Self::bind_at) in a directory that they
    /// may enter and that only this user may write to. The clients have to say that they expect
    /// another user: [`Connect::listener_user`](crate::Connect::listener_user).
    ///
    /// A port to another user's process is like any other: the peer is not trusted.
    ///
    /// Of each other user, at most 16 clients may connect without taking their port. Until one of
    /// them takes it, or ends, the listener hangs up on further clients of that user, which then
    /// try again until their time is up.
    ///
    /// # Errors
    /// [`ListenError::File`] if the socket's file cannot be made accessible. [`ListenError::Io`]
    /// for user 65534 in a user namespace where it stands for several. Nothing is allowed then.
    ///
    /// Source: `SO_PEERCRED` of [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html).
    ///
    /// ```
    /// use messageport::{Connect, Listener, MessageChannel};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("prices");
    /// let mut listener = Listener::bind_at(&path, MessageChannel::builder())?;
    /// listener.allow_users([33])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn allow_users(&mut self, users: impl IntoIterator<Item = u32>) -> Result<(), ListenError> {
        let users: Vec<u32> = users.into_iter().collect();
        for user in &users {
            name::check_identity(*user)?;
        }
        self.open_to_others()?;
        self.allowed.users(users);
        Ok(())
    }

    /// Lets processes of these groups connect too, by their effective or a supplementary group.
    ///
    /// Otherwise as [`allow_users`](Self::allow_users).
    ///
    /// # Errors
    /// As [`allow_users`](Self::allow_users).
    pub fn allow_groups(
        &mut self,
        groups: impl IntoIterator<Item = u32>,
    ) -> Result<(), ListenError> {
        let groups: Vec<u32> = groups.into_iter().collect();
        for group in &groups {
            name::check_group(*group)?;
        }
        self.open_to_others()?;
        self.allowed.groups(groups);
        Ok(())
    }

    fn open_to_others(&self) -> Result<(), ListenError> {
        self.file.open_to_others().map_err(|error| ListenError::from(error).at(self.path()))
    }

    /// Waits for the next client, and returns the port to it.
    ///
    /// # Errors
    /// [`ListenError::Channel`] or [`ListenError::Io`]; the listener stays usable. If the process
    /// is out of descriptors or memory, or too many descriptors of its user are in flight, the call
    /// tries again for 50 ms before it returns the error. The client keeps waiting meanwhile, and
    /// a later call serves it.
    pub fn accept(&self) -> Result<MessagePort, ListenError> {
        self.accept_until(Deadline::NEVER)
    }

    /// Waits for the next client for at most `timeout`.
    ///
    /// While this process is out of descriptors or memory, the call retries every 50 ms; it
    /// returns that error when the time is up.
    ///
    /// # Errors
    /// As [`accept`](Self::accept), and [`ListenError::Timeout`].
    pub fn accept_timeout(&self, timeout: Duration) -> Result<MessagePort, ListenError> {
        self.accept_until(Deadline::after(timeout))
    }

    /// Returns the port to the next client, if there is one.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn try_accept(&self) -> Result<Option<MessagePort>, ListenError> {
        // Clients that have spoken are heard before any has to make room.
        if let Some(port) = self.greet_all()? {
            return Ok(Some(port));
        }
        self.let_in()?;
        self.greet_all()
    }

    /// The port to the first client that has said who it is.
    fn greet_all(&self) -> Result<Option<MessagePort>, ListenError> {
        let mut pending = self.pending.borrow_mut();
        let mut index = 0;
        while index < pending.len() {
            match self.greet(&pending[index]) {
                Greeted::Silent => index += 1,
                Greeted::Gone => self.let_go(&pending.remove(index)),
                Greeted::Welcome if self.has_left_ports(pending[index].credentials) => {
                    self.let_go(&pending.remove(index));
                }
                Greeted::Welcome => {
                    let answer = self.welcome(&pending[index]);
                    if let Err(error) = &answer
                        && is_lack(error)
                    {
                        // Nothing that it does is of interest until there is enough.
                        let client = &mut pending[index];
                        client.is_welcome = true;
                        let sockets = [self.socket.as_fd(), client.socket.as_fd()];
                        self.backoff.begin(&self.epoll, sockets.into_iter())?;
                    } else {
                        let client = pending.remove(index);
                        self.let_go(&client);
                        let user = name::user();
                        let other = client.filter(|client| client.credentials.uid != user);
                        self.untaken.borrow_mut().extend(other);
                    }
                    if let Some(port) = answer? {
                        return Ok(Some(port));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Whether the clients of another user have left as many ports untaken as they may. Each port
    /// has descriptors in flight, which the kernel counts for the user of this process.
    fn has_left_ports(&self, credentials: PeerCredentials) -> bool {
        let mut untaken = self.untaken.borrow_mut();
        untaken.retain(|client| !socket::is_all_received(client.socket.as_fd()));
        let uid = credentials.uid;
        let count = untaken.iter().filter(|client| client.credentials.uid == uid).count();
        let has_left = count >= MOST_UNTAKEN;
        if has_left {
            self.note_refused(credentials, (UNTAKEN, count as u64, MOST_UNTAKEN as u64));
        }
        has_left
    }

    /// Leaves a client out that is served, or whose socket is closed next. What that client has
    /// left there may take long to close, and until then it must not wake this listener.
    fn let_go(&self, client: &Option<PendingClient>) {
        if let Some(client) = client {
            // It fails only if the socket was not watched.
            let _ = self.epoll.leave_out(client.socket.as_fd());
        }
    }

    /// Iterates over the ports of clients, and waits for each; the iterator never ends. After an
    /// error the next item may be a port again: the error concerns one client, or a lack of
    /// descriptors.
    pub fn incoming(&self) -> impl Iterator<Item = Result<MessagePort, ListenError>> {
        std::iter::repeat_with(|| self.accept())
    }

    /// How many clients were refused, and how the last one differed from the listener.
    ///
    /// Clients are examined by the calls that accept.
    pub fn refused(&self) -> RefusedClients {
        self.refused.get()
    }

    /// The path of the listener's socket.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    fn accept_until(&self, deadline: Deadline) -> Result<MessagePort, ListenError> {
        let mut shortage_until = None;
        loop {
            let shortage = match self.try_accept() {
                Ok(Some(port)) => return Ok(port),
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
                return Err(shortage.unwrap_or(ListenError::Timeout));
            }
            poll::wait_readable(&[self.epoll.as_fd()], until.left())?;
        }
    }

    /// Whether the error is a lack, of descriptors for example, so that clients wait for some.
    pub(crate) fn waits_for_descriptors(&self, error: &ListenError) -> bool {
        is_lack(error) && self.backoff.is_on()
    }

    fn next_connection(&self) -> Result<Option<Socket>, ListenError> {
        let ours = || std::iter::once(self.socket.as_fd());
        if !self.account.has_room() {
            // Clients wait until more is closed of what others have left.
            self.backoff.begin(&self.epoll, ours())?;
            return Ok(None);
        }
        match name::accept(self.socket.as_fd()) {
            Err(error) if error.is_lack() => {
                self.backoff.begin(&self.epoll, ours())?;
                Err(error.into())
            }
            answer => {
                if self.backoff.is_on() {
                    self.backoff.end(&self.epoll, ours().map(|socket| (socket, 0)))?;
                }
                let mut socket = answer?;
                if let Some(socket) = &mut socket {
                    socket.account = Some(self.account.clone());
                }
                Ok(socket)
            }
        }
    }

    /// Accepts connections of our user and of those that are allowed; at most as many as there is
    /// room for, so that none of them displaces another.
    fn let_in(&self) -> Result<(), ListenError> {
        let mut pending = self.pending.borrow_mut();
        for _ in 0..MOST_PENDING {
            let Some(socket) = self.next_connection()? else { break };
            let (pid, uid, gid) = name::credentials(socket.as_fd())?;
            let credentials = PeerCredentials { pid, uid, gid };
            if !self.allowed.includes(socket.as_fd(), credentials)? {
                self.note_refused(credentials, ("user", uid.into(), name::user().into()));
                // It may have gone; then it needs no answer.
                let ours = our_hello(self.builder.schema_id());
                let _ = socket::send_packet(socket.as_fd(), &ours.encode(true), &[]);
                continue;
            }
            // A client that has not spoken for long makes room for others.
            if pending.len() == MOST_PENDING {
                self.let_go(&pending.pop_front());
            }
            self.epoll.add(socket.as_fd(), 1)?;
            pending.push_back(PendingClient { socket, credentials, is_welcome: false });
        }
        Ok(())
    }

    fn greet(&self, client: &PendingClient) -> Greeted {
        if client.is_welcome {
            return Greeted::Welcome;
        }
        let mut bytes = [0; HELLO_LEN + 1];
        let hello = match socket::receive_bytes(client.socket.as_fd(), &mut bytes) {
            Ok(Received::Nothing) => return Greeted::Silent,
            Ok(Received::Packet(len, _)) => Hello::decode(&bytes[..len]),
            Ok(Received::CutOff | Received::NoRoom) | Err(_) => None,
        };
        let ours = our_hello(self.builder.schema_id());
        match hello {
            Some((theirs, false)) if theirs == ours => Greeted::Welcome,
            Some((theirs, false)) => {
                if let Some(difference) = compare(theirs, ours) {
                    self.note_refused(client.credentials, difference);
                }
                // It may have gone; then it needs no answer.
                let _ = socket::send_packet(client.socket.as_fd(), &ours.encode(true), &[]);
                Greeted::Gone
            }
            _ => Greeted::Gone,
        }
    }

    fn note_refused(&self, credentials: PeerCredentials, (what, found, expected): Difference) {
        let last = RefusedClient { credentials, what, found, expected };
        self.refused.set(self.refused.get().and(last));
    }

    fn welcome(&self, client: &PendingClient) -> Result<Option<MessagePort>, ListenError> {
        let MessageChannel { port1, mut port2 } = self.builder.build()?;
        let (sending, receiving) = port2.halves();
        match transfer::send(client.socket.as_fd(), sending, receiving) {
            Ok(()) => {
                port1.endpoint().set_peer_credentials(client.credentials);
                Ok(Some(port1))
            }
            // A client that has gone meanwhile is no failure.
            Err(PostError::Io(error)) => match error.source.raw_os_error() {
                Some(libc::EPIPE | libc::ECONNRESET) => Ok(None),
                Some(libc::EPERM) if self.takes_packets(client) => Ok(None),
                _ => Err(error.into()),
            },
            Err(other) => unreachable!("a fresh port is open: {other}"),
        }
    }

    /// Whether the kernel sends packets without descriptors to a client: then that client is the
    /// one that refuses them (`SO_PASSRIGHTS`), and no filter of this process.
    fn takes_packets(&self, client: &PendingClient) -> bool {
        let ours = our_hello(self.builder.schema_id());
        socket::send_packet(client.socket.as_fd(), &ours.encode(true), &[]).is_ok()
    }
}

/// Whether this process or the system is out of something, which a client may wait for.
fn is_lack(error: &ListenError) -> bool {
    match error {
        ListenError::Io(error) | ListenError::Channel(ChannelError::Io(error)) => error.is_lack(),
        _ => false,
    }
}

enum Greeted {
    Silent,
    Gone,
    Welcome,
}

/// Readable when a client may be there: then call [`try_accept`](Listener::try_accept) until it
/// returns `None`.
///
/// After an out-of-descriptors error it is not readable for 50 ms, nor while more than 256 clients
/// have left descriptors that take long to close.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// As `AsFd`.
impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("path", &self.path())
            .field("waiting", &self.pending.borrow().len())
            .finish_non_exhaustive()
    }
}

impl From<NoDirectory> for ListenError {
    fn from(error: NoDirectory) -> ListenError {
        match error {
            NoDirectory::Flaw(path, what) => ListenError::Directory { path, what },
            NoDirectory::System(error) => ListenError::from(error).at(&name::names_path()),
        }
    }
}

pub(super) fn our_hello(schema: u64) -> Hello {
    Hello { version: u64::from(VERSION), format: payload_format(), schema }
}

/// What differs, the other side's number, and ours.
pub(super) type Difference = (&'static str, u64, u64);

/// The first difference between the two programs.
pub(super) fn compare(theirs: Hello, ours: Hello) -> Option<Difference> {
    let pairs = [
        ("layout version", theirs.version, ours.version),
        ("payload format", theirs.format, ours.format),
        ("schema", theirs.schema, ours.schema),
    ];
    pairs.into_iter().find(|(_, found, expected)| found != expected)
}

/// The most clients that have not said who they are.
const MOST_PENDING: usize = 128;
/// The most clients of one other user that have not taken their port.
const MOST_UNTAKEN: usize = 16;
