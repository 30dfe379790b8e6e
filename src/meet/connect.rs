//! The other side of a `Listener`: connecting to it by its name.

use crate::error::{AttachError, ConnectError, SystemError, flaw_of_listener_name};
use crate::link::endpoint::PeerCredentials;
use crate::link::transfer;
use crate::meet::listen::{compare, our_hello};
use crate::os::clock::Deadline;
use crate::os::name::{self, Connected, NoDirectory};
use crate::os::poll;
use crate::os::socket::{self, Received, Socket};
use crate::port::MessagePort;
use crate::wire::frame::{CAPSULE_LEN, Hello};
use crate::wire::label::Label;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Connects to this user's [`Listener`](crate::Listener) of that name.
///
/// Waits until the listener's program calls [`accept`](crate::Listener::accept) or
/// [`try_accept`](crate::Listener::try_accept), for at most five seconds. If no process listens
/// under the name, it fails at once. [`Connect`] sets another time.
///
/// # Errors
/// [`ConnectError::NoListener`] at once if no process listens; [`ConnectError::Timeout`] if the
/// listener does not accept in time; other values of [`ConnectError`].
pub fn connect(name: &str) -> Result<MessagePort, ConnectError> {
    Connect::new().to(name)
}

/// Options of a connection: the schema, and how long to wait.
///
/// ```no_run
/// use std::time::Duration;
///
/// let port = messageport::Connect::new().schema(7).timeout(Duration::from_secs(1)).to("prices")?;
/// # Ok::<(), messageport::ConnectError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    schema: u64,
    timeout: Duration,
    /// The listener's user, if it may be another than this process'.
    listener_user: Option<u32>,
    label: Label,
}

impl Default for Connect {
    fn default() -> Connect {
        Connect { schema: 0, timeout: PATIENCE, listener_user: None, label: Label::default() }
    }
}

impl Connect {
    /// Creates the defaults: no schema, five seconds.
    pub fn new() -> Connect {
        Connect::default()
    }

    /// Sets the schema, which must be the listener's.
    #[must_use]
    pub fn schema(self, id: u64) -> Connect {
        Connect { schema: id, ..self }
    }

    /// Sets how long to wait for the listener's answer.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Connect {
        Connect { timeout, ..self }
    }

    /// Sets whose listener it is: by default, this process' own user's.
    ///
    /// The kernel says whose it is. The listener has to let this process in as well:
    /// [`Listener::allow_users`](crate::Listener::allow_users).
    #[must_use]
    pub fn listener_user(self, uid: u32) -> Connect {
        Connect { listener_user: Some(uid), ..self }
    }

    /// Sets the label of the port that [`to`](Self::to) and [`at`](Self::at) return. See
    /// [`MessagePort::set_label`].
    #[must_use]
    pub fn label(self, text: &str) -> Connect {
        Connect { label: Label::new(text), ..self }
    }

    /// Connects to the listener of that name.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn to(self, name: &str) -> Result<MessagePort, ConnectError> {
        self.at(path_of(name)?)
    }

    /// Connects to the listener at that path.
    ///
    /// If the listener hangs up without an answer, the call retries until no listener is there or
    /// the time is up.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn at(self, path: impl AsRef<Path>) -> Result<MessagePort, ConnectError> {
        let path = path.as_ref();
        name::check_user()?;
        let deadline = Deadline::after(self.timeout);
        let (mut pause, mut is_first) = (FIRST_PAUSE, true);
        loop {
            match self.attempt(path, deadline)? {
                Attempt::Met(port) => {
                    port.set_label(self.label.as_str());
                    return Ok(*port);
                }
                Attempt::NoListener if is_first => {
                    return Err(ConnectError::NoListener { path: path.to_owned() });
                }
                Attempt::HungUp if !deadline.is_over() => {}
                Attempt::NoListener | Attempt::HungUp => {
                    return Err(ConnectError::HungUp { path: path.to_owned() });
                }
            }
            thread::sleep(deadline.left_at_most(pause));
            (pause, is_first) = (LONGEST_PAUSE.min(2 * pause), false);
        }
    }

    /// Connects once, and waits for the answer.
    fn attempt(self, path: &Path, deadline: Deadline) -> Result<Attempt, ConnectError> {
        let call = loop {
            match self.call(path)? {
                Called::Yes(call) => break call,
                Called::No(attempt) => return Ok(attempt),
                Called::Busy if deadline.is_over() => return Err(ConnectError::Timeout),
                Called::Busy => thread::sleep(FIRST_PAUSE),
            }
        };
        loop {
            match call.answer()? {
                Some(attempt) => return Ok(attempt),
                None if deadline.is_over() => return Err(ConnectError::Timeout),
                None => poll::wait_readable(&[call.as_fd()], deadline.left())?,
            }
        }
    }

    /// Connects and says who it is. Never waits.
    pub(crate) fn call(self, path: &Path) -> Result<Called, ConnectError> {
        let connected =
            name::connect_to(path).map_err(|error| ConnectError::from(error).at(path))?;
        let socket = match connected {
            Connected::Yes(socket) => socket,
            Connected::NoListener => return Ok(Called::No(Attempt::NoListener)),
            Connected::Busy => return Ok(Called::Busy),
        };
        let (pid, uid, gid) = name::credentials(socket.as_fd())?;
        let expected = self.listener_user.unwrap_or_else(name::user);
        name::check_identity(expected)?;
        if uid != expected {
            return Err(ConnectError::ForeignUser { found: uid, expected });
        }
        let ours = our_hello(self.schema);
        let sent = socket::send_packet(socket.as_fd(), &ours.encode(false), &[]);
        // A listener may have refused this client before it said who it is. Then it has hung up,
        // and its answer can be received.
        sent.or_else(|error| hung_up(error).map(drop))?;
        Ok(Called::Yes(Call { socket, ours, credentials: PeerCredentials { pid, uid, gid } }))
    }

    /// How long to wait for the listener's answer.
    #[cfg(any(feature = "tokio", feature = "async-io"))]
    pub(crate) fn deadline(self) -> Deadline {
        Deadline::after(self.timeout)
    }
}

/// The path of the socket of a listener's name.
pub(crate) fn path_of(name: &str) -> Result<PathBuf, ConnectError> {
    if flaw_of_listener_name(name).is_some() {
        return Err(ConnectError::BadName { name: name.to_owned() });
    }
    name::check_names_directory()?;
    Ok(name::names_path().join(name))
}

/// The result of a call to a listener.
pub(crate) enum Called {
    Yes(Call),
    /// It has failed, as this says.
    No(Attempt),
    /// The listener's queue is full.
    Busy,
}

/// A connection to a listener that has not answered yet.
pub(crate) struct Call {
    socket: Socket,
    ours: Hello,
    /// The listener's.
    credentials: PeerCredentials,
}

impl Call {
    /// What the listener has answered, if it has. Never waits.
    pub(crate) fn answer(&self) -> Result<Option<Attempt>, ConnectError> {
        let mut bytes = [0; CAPSULE_LEN + 1];
        let (len, descriptors) = match socket::receive(self.socket.as_fd(), &mut bytes, 3) {
            Ok(Received::Packet(0, found)) if found.is_empty() => {
                return Ok(Some(Attempt::HungUp));
            }
            Ok(Received::Packet(len, descriptors)) => (len, descriptors),
            Ok(Received::CutOff) => {
                let what = "the listener's answer was cut off";
                return Err(AttachError::NotAPort { what }.into());
            }
            Ok(Received::NoRoom) => return Err(no_room()),
            Ok(Received::Nothing) => return Ok(None),
            Err(error) => return hung_up(error).map(Some),
        };
        if let Some((theirs, true)) = Hello::decode(&bytes[..len]) {
            return Err(refusal(theirs, self.ours));
        }
        let port = MessagePort::new(transfer::from_packet(&bytes[..len], descriptors)?);
        port.endpoint().set_peer_credentials(self.credentials);
        Ok(Some(Attempt::Met(Box::new(port))))
    }
}

/// Readable once the listener has answered or gone.
impl AsFd for Call {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The result of an attempt to connect.
pub(crate) enum Attempt {
    Met(Box<MessagePort>),
    /// There is no listener.
    NoListener,
    /// The listener accepted the connection, or was about to, and has gone.
    HungUp,
}

/// What a refusal by a socket means that was connected.
fn hung_up(error: SystemError) -> Result<Attempt, ConnectError> {
    match error.source.raw_os_error() {
        Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => Ok(Attempt::HungUp),
        _ => Err(error.into()),
    }
}

impl From<NoDirectory> for ConnectError {
    fn from(error: NoDirectory) -> ConnectError {
        match error {
            NoDirectory::Flaw(path, what) => ConnectError::Directory { path, what },
            NoDirectory::System(error) => ConnectError::from(error).at(&name::names_path()),
        }
    }
}

/// Why a listener has refused that said who it is.
fn refusal(theirs: Hello, ours: Hello) -> ConnectError {
    match compare(theirs, ours) {
        Some((what, found, expected)) => AttachError::Incompatible { what, found, expected }.into(),
        None => ConnectError::NotAllowed { user: name::user() },
    }
}

fn no_room() -> ConnectError {
    let source = std::io::Error::from_raw_os_error(libc::EMFILE);
    SystemError { call: "recvmsg", source }.into()
}

/// How long to wait for a listener that has accepted a client and says nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client waits before its next attempt.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(1);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(20);
