//! An end as parts that can travel, and back. Ownership moves exactly once.

use crate::error::{AttachError, ChannelError, Corruption, SystemError};
use crate::link::endpoint::{Endpoint, Sockets};
use crate::link::receiving::Receiving;
use crate::link::region::Region;
use crate::link::sending::Sending;
use crate::os::socket::{self, Kind};
use crate::ring::cursor::Cursor;
use crate::wire::frame::{CAPSULE_LEN, Capsule, Place, Refused};
use crate::wire::layout::VERSION;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Both halves of one end.
pub(crate) type Halves = (Sending, Receiving);

/// Makes a pair: both ends, in this process, of a fresh region.
pub(crate) fn create_pair(
    capacity: u64,
    limit: u64,
    schema: u64,
) -> Result<(Halves, Halves), ChannelError> {
    let region = Region::create(capacity, limit, schema)?;
    let (doorbell_a, doorbell_b) = socket::stream_pair()?;
    let (attachments_a, attachments_b) = socket::packet_pair()?;
    let end = |side, doorbell, attachments| {
        let sockets = Sockets { doorbell, attachments };
        let end = Arc::new(Endpoint::new(region.clone(), side, 0, sockets));
        let sending =
            Sending::resume(end.clone(), Cursor::start(0)).expect("a fresh region is all zero");
        (sending, Receiving::resume(end, Cursor::start(0)))
    };
    Ok((end(0, doorbell_a, attachments_a), end(1, doorbell_b, attachments_b)))
}

/// The capsule of an end that is about to move, and the descriptors to send beside it.
pub(crate) fn pack<'a>(
    sending: &'a Sending,
    receiving: &Receiving,
) -> ([u8; CAPSULE_LEN], [BorrowedFd<'a>; 3]) {
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
    };
    (capsule.encode(), end.descriptors())
}

/// The end that a capsule and its descriptors describe, checked like any foreign input.
pub(crate) fn unpack(capsule: &[u8], descriptors: Vec<OwnedFd>) -> Result<Halves, AttachError> {
    let capsule = Capsule::decode(capsule).map_err(|refused| match refused {
        Refused::NotACapsule => AttachError::NotAPort { what: "no capsule came" },
        Refused::Version(found) => AttachError::Differs {
            what: "layout version",
            found: u64::from(found),
            expected: u64::from(VERSION),
        },
    })?;
    let Ok([memfd, doorbell, attachments]) = <[OwnedFd; 3]>::try_from(descriptors) else {
        return Err(AttachError::NotAPort { what: "another count of descriptors than three" });
    };
    if !socket::is_unix(doorbell.as_fd(), Kind::Stream)
        || !socket::is_unix(attachments.as_fd(), Kind::Packet)
    {
        return Err(AttachError::NotAPort { what: "sockets of another type" });
    }
    socket::clear_passing(doorbell.as_fd());
    socket::clear_passing(attachments.as_fd());
    let region = Region::attach(memfd, capsule.capacity, capsule.limit, capsule.schema)?;
    let outgoing = check_place(capsule.outgoing, &region)?;
    let incoming = check_place(capsule.incoming, &region)?;
    let sockets = Sockets { doorbell, attachments };
    let end = Endpoint::new(region, capsule.side as usize, capsule.epoch, sockets);
    let end = Arc::new(end);
    let sending = Sending::resume(end.clone(), outgoing).map_err(AttachError::Corrupt)?;
    Ok((sending, Receiving::resume(end, incoming)))
}

/// Sends an end over a packet socket. On success it is the receiver's, and the halves say no
/// farewell; on failure they are as they were.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    sending: &mut Sending,
    receiving: &mut Receiving,
) -> Result<(), SystemError> {
    let (capsule, descriptors) = pack(sending, receiving);
    socket::send_packet(socket, &capsule, &descriptors)?;
    sending.forget();
    receiving.forget();
    Ok(())
}

/// Receives an end from a packet socket.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<Halves, AttachError> {
    if !socket::is_unix(socket, Kind::Packet) {
        return Err(AttachError::NotAPort { what: "the descriptor is no packet socket" });
    }
    socket::clear_passing(socket);
    let mut capsule = [0; CAPSULE_LEN + 1];
    let (len, descriptors) = socket::receive_packet(socket, &mut capsule)?;
    unpack(&capsule[..len], descriptors)
}

fn check_place(place: Place, region: &Region) -> Result<Cursor, AttachError> {
    let geometry = region.geometry();
    let count = u64::from(geometry.segments());
    if place.segment >= count {
        let corruption = Corruption::new("segment of a cursor", place.segment, count);
        return Err(AttachError::Corrupt(corruption));
    }
    if !place.position.is_multiple_of(16) || !place.entered.is_multiple_of(16) {
        let corruption = Corruption::new("alignment of a cursor", place.position, 16);
        return Err(AttachError::Corrupt(corruption));
    }
    let segment = place.segment as u32;
    Ok(Cursor { position: place.position, segment, entered: place.entered })
}
