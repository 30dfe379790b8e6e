//! Joining: publish this member's socket, then leave a port at each other one.

use crate::error::{BroadcastError, PostError, SystemError};
use crate::group::broadcast::Membership;
use crate::group::broadcast::acceptor::Acceptor;
use crate::group::broadcast::members::Members;
use crate::group::broadcast::presence::BroadcastPeer;
use crate::group::broadcast::signature::Signature;
use crate::link::endpoint::PeerCredentials;
use crate::link::transfer;
use crate::os::backoff::{Backoff, PAUSE};
use crate::os::clock::Deadline;
use crate::os::epoll::Epoll;
use crate::os::name::{self, Connected, NoDirectory};
use crate::os::poll;
use crate::os::rendezvous::Rendezvous;
use crate::port::MessagePort;
use crate::port::channel::{ChannelBuilder, MessageChannel};
use crate::wire::frame::{Hello, MemberHello};
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Makes the directory if it does not exist, and a listening socket in it.
pub(super) fn publish(
    directory: PathBuf,
    hello: Hello,
    epoll: &Epoll,
) -> Result<(Arc<Rendezvous>, Acceptor), BroadcastError> {
    let backoff = Backoff::new(epoll, 0, PAUSE)?;
    let deadline = Deadline::after(PATIENCE);
    for attempt in 0.. {
        let rendezvous = Rendezvous::make(&directory).map_err(|error| match error {
            NoDirectory::Flaw(path, what) => BroadcastError::Directory { path, what },
            NoDirectory::System(error) => BroadcastError::from(error).at(&directory),
        })?;
        if let Some(rendezvous) = rendezvous {
            let (rendezvous, signature) = (Arc::new(rendezvous), Signature::new(hello));
            let socket = rendezvous.listen(&signature.to_string());
            if let Some(socket) =
                socket.map_err(|error| BroadcastError::from(error).at(&directory))?
            {
                let acceptor = Acceptor::new(signature, rendezvous.clone(), socket, backoff);
                return Ok((rendezvous, acceptor));
            }
        }
        // On a busy machine an attempt may take long.
        if attempt >= LEAST_ATTEMPTS && deadline.is_over() {
            let what = "it is removed again and again";
            return Err(BroadcastError::Directory { path: directory, what });
        }
    }
    unreachable!("the last attempt has returned")
}

impl From<NoDirectory> for BroadcastError {
    fn from(error: NoDirectory) -> BroadcastError {
        match error {
            NoDirectory::Flaw(path, what) => BroadcastError::Directory { path, what },
            NoDirectory::System(error) => BroadcastError::from(error).at(&name::names_path()),
        }
    }
}

/// Leaves a port at the socket of each existing member, oldest first.
///
/// Each member that is found has been published; each later one finds this member. A member that
/// has already come here has a port to us: it is known by what it calls itself and by its process.
pub(super) fn meet_all(
    rendezvous: &Rendezvous,
    builder: ChannelBuilder,
    membership: &mut Membership,
    epoll: &Epoll,
) -> Result<(), BroadcastError> {
    let ours = membership.acceptor.signature();
    let names = rendezvous.names()?;
    rendezvous.sweep(&names);
    let mut others: Vec<_> = names.iter().filter_map(|name| Signature::parse(name)).collect();
    others.sort_unstable_by_key(|other| other.member);
    for other in others.into_iter().filter(|other| other.member != ours.member) {
        membership.take_in(epoll)?;
        meet(rendezvous, other, builder, membership, epoll)?;
    }
    Ok(())
}

/// Leaves a port at a member's socket; retries for a while if the socket is full.
///
/// Meanwhile it accepts others: they may be waiting for exactly that.
fn meet(
    rendezvous: &Rendezvous,
    other: Signature,
    builder: ChannelBuilder,
    membership: &mut Membership,
    epoll: &Epoll,
) -> Result<(), BroadcastError> {
    let ours = membership.acceptor.signature();
    // No transferables move with what members post.
    let MessageChannel { port1, mut port2 } = builder.refuse_transfers().build()?;
    let mut deadline = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let known = &membership.members;
        let delivery = deliver(rendezvous, other, ours, known, &mut port2)
            .map_err(|error| error.at(&membership.acceptor.path_of(other)))?;
        let source = match delivery {
            Delivery::Done(credentials) => {
                port1.endpoint().set_peer_credentials(credentials);
                return membership.members.add(other.member, port1);
            }
            Delivery::Known | Delivery::NoMember => return Ok(()),
            Delivery::Busy(source) => source,
        };
        if deadline.get_or_insert_with(|| Deadline::after(PATIENCE)).is_over() {
            let path = membership.acceptor.path_of(other);
            return Err(BroadcastError::Busy { path, source });
        }
        poll::wait_readable(&[membership.acceptor.as_fd()], Some(pause))?;
        membership.take_in(epoll)?;
        if membership.members.knows_name(other.member) {
            return Ok(());
        }
        pause = LONGEST_PAUSE.min(2 * pause);
    }
}

/// The result of an attempt.
enum Delivery {
    /// To the process that has these.
    Done(PeerCredentials),
    /// The member has come here already.
    Known,
    /// The member has left or died, or is not one of ours.
    NoMember,
    /// The socket is full at the moment.
    Busy(io::Error),
}

fn deliver(
    rendezvous: &Rendezvous,
    other: Signature,
    ours: Signature,
    known: &Members,
    port: &mut MessagePort,
) -> Result<Delivery, BroadcastError> {
    let file = other.to_string();
    let socket = match rendezvous.connect(&file) {
        Ok(Connected::Yes(socket)) => socket,
        Ok(Connected::NoListener) => {
            rendezvous.remove(&file);
            return Ok(Delivery::NoMember);
        }
        Ok(Connected::Busy) => {
            return Ok(Delivery::Busy(io::Error::from_raw_os_error(libc::EAGAIN)));
        }
        Err(error) => return refused(error),
    };
    // Checked only for a live member: the version of a dead one does not matter.
    ours.compare(other)?;
    let (pid, uid, gid) = name::credentials(socket.as_fd())?;
    let credentials = PeerCredentials { pid, uid, gid };
    if known.knows(&BroadcastPeer { id: other.member, credentials: Some(credentials) }) {
        return Ok(Delivery::Known);
    }
    let words = MemberHello { hello: ours.hello, member: ours.member }.encode();
    let (sending, receiving) = port.halves();
    match transfer::send_behind(&words, socket.as_fd(), sending, receiving) {
        Ok(()) => Ok(Delivery::Done(credentials)),
        Err(PostError::Io(error)) => refused(error),
        Err(error) => unreachable!("a fresh port is open: {error}"),
    }
}

/// What a refusal of the kernel means.
fn refused(error: SystemError) -> Result<Delivery, BroadcastError> {
    // This process may make no socket, which says nothing about the member.
    if error.call == "socket" {
        return Err(error.into());
    }
    match error.source.raw_os_error() {
        // Not something that a member put there: another kind of socket, or one that we may not
        // reach.
        Some(libc::EPROTOTYPE | libc::EACCES | libc::EPERM | libc::ELOOP) => Ok(Delivery::NoMember),
        // It has gone since the connection, or had too many pending clients that do not speak. The
        // next attempt shows which.
        Some(libc::EPIPE | libc::ECONNRESET) => Ok(Delivery::Busy(error.source)),
        // Too many descriptors are in flight, or there is no memory for this one.
        Some(libc::EAGAIN | libc::ETOOMANYREFS | libc::ENOBUFS | libc::ENOMEM) => {
            Ok(Delivery::Busy(error.source))
        }
        _ => Err(error.into()),
    }
}

/// How long a joiner waits for room at one member's socket.
const PATIENCE: Duration = Duration::from_secs(5);
/// The least number of attempts to publish, however long they take.
const LEAST_ATTEMPTS: u32 = 1000;
const FIRST_PAUSE: Duration = Duration::from_micros(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
