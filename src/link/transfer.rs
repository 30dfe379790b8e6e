//! An end as parts that can travel, and back. Ownership moves exactly once.

use crate::error::{AttachError, ChannelError, CloseReason, Corruption, PostError};
use crate::link::end::Half;
use crate::link::endpoint::{Endpoint, Sockets};
use crate::link::receiving::Receiving;
use crate::link::region::Region;
use crate::link::sending::Sending;
use crate::link::trace;
use crate::os::reaper::Foreign;
use crate::os::socket::{self, Kind, Socket};
use crate::ring::cursor::Cursor;
use crate::wire::frame::{CAPSULE_LEN, Capsule, Place, Refused, TransferPolicy};
use crate::wire::label::{Label, PortLabels};
use crate::wire::layout::VERSION;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process;
use std::sync::Arc;

/// Both halves of one end.
pub(crate) type Halves = (Sending, Receiving);

/// Creates a pair: both ends, in this process, of a fresh region.
pub(crate) fn create_pair(
    capacity: u64,
    limit: u64,
    schema: u64,
    refuses_transfers: bool,
    label: Label,
) -> Result<(Halves, Halves), ChannelError> {
    let region = Region::create(capacity, limit, schema)?;
    let (doorbell_a, doorbell_b) = socket::stream_pair()?;
    let (attachments_a, attachments_b) = socket::packet_pair()?;
    let owner = process::id();
    let policy =
        TransferPolicy { here_refuses: refuses_transfers, peer_refuses: refuses_transfers };
    let labels = PortLabels { channel: label, end: Label::default() };
    let end = |side, doorbell, attachment_socket| {
        let sockets = Sockets {
            doorbell: Socket::without_descriptors(owner, doorbell),
            attachment_socket: match refuses_transfers {
                true => Socket::without_descriptors(owner, attachment_socket),
                false => Socket::of(owner, attachment_socket),
            },
        };
        let end = Arc::new(Endpoint::new(region.clone(), side, 0, policy, sockets, labels));
        let sending = Sending::begin(end.clone()).expect("a fresh region is all zero");
        (sending, Receiving::resume(end, Cursor::start(0)))
    };
    Ok((end(0, doorbell_a, attachments_a), end(1, doorbell_b, attachments_b)))
}

/// An end in transit, from which its new owner makes a port.
#[derive(Debug)]
pub(crate) struct PortParts {
    pub capsule: [u8; CAPSULE_LEN],
    pub memory: Foreign,
    pub doorbell: Foreign,
    pub attachment_socket: Foreign,
}

impl PortParts {
    /// From descriptors in the order in which they travel.
    pub(crate) fn new(
        capsule: [u8; CAPSULE_LEN],
        [memory, doorbell, attachment_socket]: [Foreign; 3],
    ) -> PortParts {
        PortParts { capsule, memory, doorbell, attachment_socket }
    }
}

/// Publishes everything that the next owner must find published.
pub(crate) fn settle(sending: &mut Sending, receiving: &mut Receiving) {
    sending.endpoint().region().mark_shared();
    sending.endpoint().withdraw_types();
    sending.settle();
    receiving.release_everything();
}

/// The capsule of an end that has settled and is about to move.
pub(crate) fn capsule(sending: &Sending, receiving: &Receiving) -> [u8; CAPSULE_LEN] {
    let end = sending.endpoint();
    let place = |cursor: Cursor| Place {
        position: cursor.position,
        entered: cursor.entered,
        segment: u64::from(cursor.segment),
    };
    let capsule = Capsule {
        side: end.outgoing() as u32,
        epoch: end.epoch().wrapping_add(1),
        capacity: end.region().geometry().capacity(),
        limit: end.region().geometry().limit(),
        schema: end.region().schema(),
        outgoing: place(sending.producer().cursor()),
        incoming: place(receiving.consumer().cursor()),
        packets: sending.packets(),
        is_trusted: end.is_trusted(),
        policy: end.transfer_policy(),
        vacated_at: sending.vacated_at(),
        labels: end.labels(),
    };
    capsule.encode()
}

/// The end that some parts describe, checked like any untrusted input. If the kernel refused,
/// another attempt may succeed, and the parts are returned.
///
/// `is_carrier_trusted`: whether the sender may claim that their peer is trusted. About a dozen
/// system calls.
pub(crate) fn unpack(
    parts: PortParts,
    is_carrier_trusted: bool,
) -> Result<Halves, (AttachError, Option<Box<PortParts>>)> {
    let capsule = match check(&parts) {
        Ok(capsule) => capsule,
        Err(error) => return Err((error, None)),
    };
    let PortParts { capsule: bytes, memory, doorbell, attachment_socket } = parts;
    let region = match Region::attach(memory, capsule.capacity, capsule.limit, capsule.schema) {
        Ok(region) => region,
        Err((error @ AttachError::Io { .. }, memory)) => {
            let parts = PortParts { capsule: bytes, memory, doorbell, attachment_socket };
            return Err((error, Some(Box::new(parts))));
        }
        Err((error, _)) => return Err((error, None)),
    };
    let own = |socket: Foreign| Socket::new(socket.into_owned());
    let sockets = Sockets { doorbell: own(doorbell), attachment_socket: own(attachment_socket) };
    resume(&capsule, region, sockets, is_carrier_trusted).map_err(|error| (error, None))
}

fn check(parts: &PortParts) -> Result<Capsule, AttachError> {
    let capsule = Capsule::decode(&parts.capsule).map_err(|refused| match refused {
        Refused::NotACapsule => AttachError::NotAPort { what: "no capsule came" },
        Refused::Version(found) => AttachError::Incompatible {
            what: "layout version",
            found: u64::from(found),
            expected: u64::from(VERSION),
        },
    })?;
    let (doorbell, attachment_socket) = (parts.doorbell.as_fd(), parts.attachment_socket.as_fd());
    if !socket::is_unix(doorbell, Kind::Stream) || !socket::is_unix(attachment_socket, Kind::Packet)
    {
        return Err(AttachError::NotAPort { what: "sockets of another type" });
    }
    // No option is set on them: that would wait for a lock which a former owner can keep. An end
    // that refuses transferables has such a socket: there it only repeats the refusal.
    if !capsule.policy.here_refuses && !socket::takes_descriptors(attachment_socket) {
        return Err(AttachError::NotAPort { what: "a socket that refuses descriptors" });
    }
    Ok(capsule)
}

fn resume(
    capsule: &Capsule,
    region: Arc<Region>,
    sockets: Sockets,
    is_carrier_trusted: bool,
) -> Result<Halves, AttachError> {
    let outgoing = check_place(capsule.outgoing, &region)?;
    let incoming = check_place(capsule.incoming, &region)?;
    let (side, policy) = (capsule.side as usize, capsule.policy);
    let end = Arc::new(Endpoint::new(region, side, capsule.epoch, policy, sockets, capsule.labels));
    if is_carrier_trusted && capsule.is_trusted {
        end.trust();
    }
    trace::attached(&end);
    let sending = Sending::resume(end.clone(), outgoing, capsule.vacated_at, capsule.packets);
    Ok((sending.map_err(AttachError::Corrupt)?, Receiving::resume(end, incoming)))
}

/// Sends an end over a packet socket. On success it is the receiver's, and the halves send no
/// close; on failure they are unchanged.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    sending: &mut Sending,
    receiving: &mut Receiving,
) -> Result<(), PostError> {
    send_behind(&[], socket, sending, receiving)
}

/// The same, with the caller's words before the capsule, in one packet.
pub(crate) fn send_behind(
    words: &[u8],
    socket: BorrowedFd<'_>,
    sending: &mut Sending,
    receiving: &mut Receiving,
) -> Result<(), PostError> {
    if sending.is_finished() || receiving.is_finished() {
        let end = sending.endpoint();
        let reason = end.told(Half::Sending).or(end.told(Half::Receiving));
        return Err(PostError::Closed { reason: reason.unwrap_or(CloseReason::Local) });
    }
    if sending.has_pools() || receiving.has_pools() {
        return Err(PostError::HasPool { index: 0 });
    }
    settle(sending, receiving);
    let capsule = capsule(sending, receiving);
    let packet = [words, &capsule].concat();
    socket::send_packet(socket, &packet, &sending.endpoint().descriptors())?;
    sending.endpoint().mark_moved();
    Ok(())
}

/// One descriptor that stands for a whole end: a packet socket in which its parts wait.
pub(crate) fn into_descriptor(
    sending: &mut Sending,
    receiving: &mut Receiving,
) -> Result<OwnedFd, PostError> {
    let (ours, theirs) = socket::packet_pair()?;
    match send(ours.as_fd(), sending, receiving) {
        Ok(()) => Ok(theirs),
        Err(PostError::Io(error)) if error.source.raw_os_error() == Some(libc::ETOOMANYREFS) => {
            Err(PostError::TooManyInFlight)
        }
        Err(error) => Err(error),
    }
}

/// Receives an end from a packet socket that another process may have made.
pub(crate) fn receive(socket: OwnedFd) -> Result<Halves, AttachError> {
    let socket = Foreign::new(socket, None);
    if !socket::is_unix(socket.as_fd(), Kind::Packet) {
        return Err(AttachError::NotAPort { what: "the descriptor is no packet socket" });
    }
    // As a socket of our own it is usually closed here, when nothing more waits at it.
    let socket = Socket::new(socket.into_owned());
    let mut packet = [0; CAPSULE_LEN + 1];
    let (len, descriptors) = socket::receive_packet(socket.as_fd(), &mut packet)?;
    from_packet(&packet[..len], descriptors)
}

/// The end that a packet holds: a capsule and three descriptors.
pub(crate) fn from_packet(packet: &[u8], descriptors: Vec<Foreign>) -> Result<Halves, AttachError> {
    let Ok(capsule) = packet.try_into() else {
        return Err(AttachError::NotAPort { what: "no capsule came" });
    };
    let Ok(descriptors) = <[Foreign; 3]>::try_from(descriptors) else {
        return Err(AttachError::NotAPort { what: "another count of descriptors than three" });
    };
    unpack(PortParts::new(capsule, descriptors), false).map_err(|(error, _)| error)
}

fn check_place(place: Place, region: &Region) -> Result<Cursor, AttachError> {
    let geometry = region.geometry();
    let count = u64::from(geometry.segments());
    if place.segment >= count {
        let corruption =
            Corruption::new("segment of a cursor", place.segment, count.saturating_sub(1));
        return Err(AttachError::Corrupt(corruption));
    }
    if !place.position.is_multiple_of(16) || !place.entered.is_multiple_of(16) {
        let corruption = Corruption::misaligned("position of a cursor", place.position, 16);
        return Err(AttachError::Corrupt(corruption));
    }
    let segment = place.segment as u32;
    Ok(Cursor { position: place.position, segment, entered: place.entered })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_between_two_records_is_corrupt() {
        let (one, _other) =
            create_pair(4096, 16_384, 0, false, Default::default()).expect("a small channel");
        let region = one.0.endpoint().region();
        let segments = u64::from(region.geometry().segments());
        for (position, entered, segment, is_valid) in [
            (32, 16, 0, true),
            (32, 16, segments - 1, true),
            (32, 16, segments, false),
            (40, 16, 0, false),
            (32, 24, 0, false),
        ] {
            let place = check_place(Place { position, entered, segment }, region);
            assert_eq!(place.is_ok(), is_valid, "{position} {entered} {segment}");
        }
    }

    #[test]
    fn a_packet_that_is_longer_than_a_capsule_is_no_port() {
        for more in [0, 1] {
            let ((mut sending, mut receiving), _peer) =
                create_pair(4096, 4096, 0, false, Default::default()).expect("a small channel");
            settle(&mut sending, &mut receiving);
            let packet = [capsule(&sending, &receiving).as_slice(), &[0; 1][..more]].concat();
            let (ours, theirs) = socket::packet_pair().expect("two sockets");
            let descriptors = sending.endpoint().descriptors();
            socket::send_packet(ours.as_fd(), &packet, &descriptors).expect("a packet");
            sending.endpoint().mark_moved();
            let received = receive(theirs).map(drop);
            assert_eq!(received.is_ok(), more == 0, "{received:?}");
            assert!(matches!(received, Ok(()) | Err(AttachError::NotAPort { .. })));
        }
    }
}
