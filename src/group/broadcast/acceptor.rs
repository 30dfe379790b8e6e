//! A member's own socket: later joiners leave a port there.

use crate::error::{AttachError, BroadcastError, SystemError};
use crate::group::broadcast::signature::Signature;
use crate::link::endpoint::PeerCredentials;
use crate::link::transfer;
use crate::os::backoff::Backoff;
use crate::os::epoll::Epoll;
use crate::os::name;
use crate::os::reaper::Account;
use crate::os::rendezvous::{MOST_WAITING, Rendezvous};
use crate::os::socket::{self, Received, Socket};
use crate::port::MessagePort;
use crate::wire::frame::{CAPSULE_LEN, MEMBER_HELLO_LEN, MemberHello, PORT_DESCRIPTORS};
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// The socket, its file, and joiners that have connected and not spoken yet.
pub(super) struct Acceptor {
    signature: Signature,
    rendezvous: Arc<Rendezvous>,
    socket: Socket,
    backoff: Backoff,
    /// Oldest first.
    pending: VecDeque<Socket>,
    /// The most bytes that a lane of a joiner may hold: this member keeps them if it does not
    /// receive.
    most_limit: usize,
    /// Counts what pending clients have brought and waits to be closed.
    account: Arc<Account>,
}

/// What a pending client had to say.
enum Heard {
    Nothing,
    /// It is not a member, or has gone.
    Refused,
    Member(u128, Box<MessagePort>),
}

impl Acceptor {
    /// Makes a socket that listens in the rendezvous directory, under the name that the signature
    /// spells.
    pub(super) fn new(
        signature: Signature,
        rendezvous: Arc<Rendezvous>,
        socket: OwnedFd,
        backoff: Backoff,
    ) -> Acceptor {
        let socket = Socket::new(socket);
        Acceptor {
            signature,
            rendezvous,
            socket,
            backoff,
            pending: VecDeque::new(),
            most_limit: USUAL_LIMIT,
            account: Arc::default(),
        }
    }

    /// Refuses joiners whose lanes may hold more than this and more than 64 MiB.
    pub(super) fn refuse_above(&mut self, limit: usize) {
        self.most_limit = limit.max(USUAL_LIMIT);
    }

    /// Whether this process joined, and not one that this is a forked copy of.
    pub(super) fn is_ours(&self) -> bool {
        self.rendezvous.is_ours()
    }

    pub(super) fn signature(&self) -> Signature {
        self.signature
    }

    /// Where a member's socket is.
    pub(super) fn path_of(&self, member: Signature) -> PathBuf {
        self.rendezvous.path().join(member.to_string())
    }

    /// Accepts all joiners, and gives their ports to `welcome`. Makes one system call if there are
    /// none, and some for each pending client that has not spoken yet.
    ///
    /// Being out of descriptors is an error, and waiting joiners keep waiting. A failure of one
    /// pending client does not delay the others: all are heard, and then the first error is
    /// returned.
    pub(super) fn take_in(
        &mut self,
        epoll: &Epoll,
        welcome: impl FnMut(u128, MessagePort) -> Result<(), BroadcastError>,
    ) -> Result<(), BroadcastError> {
        let taken_in = self.take_in_all(epoll, welcome);
        let sockets = std::iter::once(self.socket.as_fd())
            .chain(self.pending.iter().map(|client| client.as_fd()));
        match &taken_in {
            Err(error) if error.is_lack() => self.backoff.begin(epoll, sockets)?,
            // Joiners wait until more is closed of what others have left.
            Ok(()) if !self.account.has_room() => self.backoff.begin(epoll, sockets)?,
            _ if self.backoff.is_on() => {
                self.backoff.end(epoll, sockets.map(|socket| (socket, 0)))?
            }
            _ => {}
        }
        taken_in
    }

    /// Whether the process was out of descriptors when joiners were last looked for.
    pub(super) fn lacks_descriptors(&self) -> bool {
        self.backoff.is_on()
    }

    fn take_in_all(
        &mut self,
        epoll: &Epoll,
        mut welcome: impl FnMut(u128, MessagePort) -> Result<(), BroadcastError>,
    ) -> Result<(), BroadcastError> {
        let mut first = Ok(());
        let mut note = |answer: Result<(), BroadcastError>| {
            if first.is_ok() {
                first = answer;
            }
        };
        for _ in 0..self.pending.len() {
            let client = self.pending.pop_front().expect("counted above");
            note(self.attend(epoll, client, &mut welcome));
        }
        // As many as can have been waiting when this began; pending clients that keep coming wait.
        for _ in 0..MOST_WAITING {
            if !self.account.has_room() {
                break;
            }
            let mut client = match name::accept(self.socket.as_fd()) {
                Ok(Some(client)) => client,
                Ok(None) => break,
                Err(error) => {
                    note(Err(error.into()));
                    break;
                }
            };
            client.account = Some(self.account.clone());
            match name::credentials(client.as_fd()) {
                Ok((_, uid, _)) if uid == name::user() => {}
                _ => continue,
            }
            if self.pending.len() >= MOST_PENDING {
                note(self.send_away(epoll, &mut welcome));
            }
            // Without this the pending client is heard in the next call that has another cause.
            note(epoll.add(client.as_fd(), 0).map_err(BroadcastError::from));
            note(self.attend(epoll, client, &mut welcome));
        }
        first
    }

    /// Hears a pending client, who stays if it has not spoken yet, or could not be heard.
    fn attend(
        &mut self,
        epoll: &Epoll,
        client: Socket,
        welcome: &mut impl FnMut(u128, MessagePort) -> Result<(), BroadcastError>,
    ) -> Result<(), BroadcastError> {
        match self.hear(client.as_fd()) {
            Ok(Heard::Refused) => {
                let_go(epoll, client);
                Ok(())
            }
            Ok(Heard::Member(member, port)) => {
                let_go(epoll, client);
                welcome(member, *port)
            }
            Ok(Heard::Nothing) => {
                self.pending.push_back(client);
                Ok(())
            }
            Err(error) => {
                self.pending.push_back(client);
                Err(error)
            }
        }
    }

    /// Sends away the oldest pending client, which has not spoken for long. If it has just spoken,
    /// it is heard. If it is about to, it learns of the refusal and comes again.
    fn send_away(
        &mut self,
        epoll: &Epoll,
        welcome: &mut impl FnMut(u128, MessagePort) -> Result<(), BroadcastError>,
    ) -> Result<(), BroadcastError> {
        let Some(client) = self.pending.pop_front() else { return Ok(()) };
        socket::refuse_more(client.as_fd());
        match self.hear(client.as_fd()) {
            Ok(Heard::Member(member, port)) => {
                let_go(epoll, client);
                welcome(member, *port)
            }
            Ok(Heard::Nothing | Heard::Refused) => {
                let_go(epoll, client);
                Ok(())
            }
            Err(error) => {
                self.pending.push_front(client);
                Err(error)
            }
        }
    }

    /// The port that a pending client has brought. An error if it cannot be received at the moment.
    fn hear(&self, client: BorrowedFd<'_>) -> Result<Heard, BroadcastError> {
        let mut bytes = [0; MEMBER_HELLO_LEN + CAPSULE_LEN + 1];
        if !self.account.has_room() {
            return Ok(Heard::Nothing);
        }
        let account = Some(&self.account);
        let received = socket::receive_for(account, client, &mut bytes, PORT_DESCRIPTORS);
        let (len, descriptors) = match received {
            Ok(Received::Nothing) => return Ok(Heard::Nothing),
            Ok(Received::Packet(len, descriptors)) => (len, descriptors),
            Ok(Received::CutOff) => return Ok(Heard::Refused),
            Ok(Received::NoRoom) => return Err(no_room().into()),
            Err(error) if error.is_lack() => return Err(error.into()),
            Err(_) => return Ok(Heard::Refused),
        };
        let Some((member_hello, capsule)) = MemberHello::decode(&bytes[..len]) else {
            return Ok(Heard::Refused);
        };
        if member_hello.hello != self.signature.hello {
            return Ok(Heard::Refused);
        }
        match transfer::from_packet(capsule, descriptors) {
            Ok(halves) => {
                let port = MessagePort::new(halves);
                let is_larger = port.limit() > self.most_limit;
                if is_larger || port.require_schema(self.signature.hello.schema).is_err() {
                    return Ok(Heard::Refused);
                }
                // Whichever side made the channel: no transferables move with what members post.
                port.refuse_transfers();
                let (pid, uid, gid) = name::credentials(client)?;
                port.endpoint().set_peer_credentials(PeerCredentials { pid, uid, gid });
                Ok(Heard::Member(member_hello.member, Box::new(port)))
            }
            // The port is lost, and its sender sees it end.
            Err(AttachError::Io(error)) => {
                if error.is_lack() {
                    Err(error.into())
                } else {
                    Ok(Heard::Refused)
                }
            }
            Err(_) => Ok(Heard::Refused),
        }
    }
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        if !self.rendezvous.is_ours() {
            return;
        }
        // The name goes first, so that no more pending clients come. What waits at the socket
        // goes with it.
        self.rendezvous.remove(&self.signature.to_string());
        // Fails while others are members.
        self.rendezvous.remove_directory();
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("path", &self.path_of(self.signature))
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

/// Closes the socket to a client. What that client has left there may take long to close, and until
/// then the socket must not wake the member: it has hung up.
fn let_go(epoll: &Epoll, client: Socket) {
    // It fails only if the socket was not watched.
    let _ = epoll.leave_out(client.as_fd());
}

fn no_room() -> SystemError {
    SystemError { call: "recvmsg", source: std::io::Error::from_raw_os_error(libc::EMFILE) }
}

/// The default limit of a channel: members that did not agree on sizes have none larger.
const USUAL_LIMIT: usize = 64 << 20;
/// Pending clients that have not spoken.
const MOST_PENDING: usize = 128;
