//! What travels on a socket beside descriptors: the capsule of an end that moves.
//!
//! ```text
//! +0x00 magic      u64   "MPCAPSUL"
//! +0x08 version    u32   layout version
//! +0x0c side       u32   0 or 1: which end this is
//! +0x10 epoch      u64   count of moves so far
//! +0x18 capacity   u64
//! +0x20 limit      u64
//! +0x28 schema     u64
//! +0x30 outgoing   position u64, entered u64, segment u64
//! +0x48 incoming   position u64, entered u64, segment u64
//! ```
//!
//! Shared memory is never the authority for an end's own cursors, as the peer can write there: they
//! travel in here. A receiver checks them like any foreign word.

use crate::wire::layout::VERSION;

/// Bytes of an encoded capsule.
pub(crate) const CAPSULE_LEN: usize = 0x60;

/// An end in transit, without its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capsule {
    pub side: u32,
    pub epoch: u64,
    pub capacity: u64,
    pub limit: u64,
    pub schema: u64,
    pub outgoing: Place,
    pub incoming: Place,
}

/// Where an end stands in one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub position: u64,
    pub entered: u64,
    pub segment: u64,
}

/// Why bytes are not a capsule of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    NotACapsule,
    Version(u32),
}

impl Capsule {
    pub(crate) fn encode(&self) -> [u8; CAPSULE_LEN] {
        let words = [
            MAGIC,
            u64::from(VERSION) | u64::from(self.side) << 32,
            self.epoch,
            self.capacity,
            self.limit,
            self.schema,
            self.outgoing.position,
            self.outgoing.entered,
            self.outgoing.segment,
            self.incoming.position,
            self.incoming.entered,
            self.incoming.segment,
        ];
        let mut bytes = [0; CAPSULE_LEN];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Capsule, Refused> {
        let bytes: &[u8; CAPSULE_LEN] = bytes.try_into().map_err(|_| Refused::NotACapsule)?;
        let word = |index: usize| {
            let bytes = bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let place = |index| Place {
            position: word(index),
            entered: word(index + 1),
            segment: word(index + 2),
        };
        let (version, side) = (word(1) as u32, (word(1) >> 32) as u32);
        if word(0) != MAGIC {
            return Err(Refused::NotACapsule);
        }
        if version != VERSION {
            return Err(Refused::Version(version));
        }
        let capsule = Capsule {
            side,
            epoch: word(2),
            capacity: word(3),
            limit: word(4),
            schema: word(5),
            outgoing: place(6),
            incoming: place(9),
        };
        if side > 1 { Err(Refused::NotACapsule) } else { Ok(capsule) }
    }
}

const MAGIC: u64 = u64::from_le_bytes(*b"MPCAPSUL");

#[cfg(test)]
mod tests {
    use super::*;

    const CAPSULE: Capsule = Capsule {
        side: 1,
        epoch: 3,
        capacity: 65536,
        limit: 1 << 26,
        schema: 7,
        outgoing: Place { position: u64::MAX - 15, entered: 16, segment: 2 },
        incoming: Place { position: 48, entered: 32, segment: 1 },
    };

    #[test]
    fn capsules_survive_the_round_trip() {
        assert_eq!(Capsule::decode(&CAPSULE.encode()), Ok(CAPSULE));
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = CAPSULE.encode();
        assert_eq!(Capsule::decode(&good[1..]), Err(Refused::NotACapsule));
        assert_eq!(Capsule::decode(&[]), Err(Refused::NotACapsule));
        let changed = |at: usize, to: u8| {
            let mut bytes = good;
            bytes[at] = to;
            Capsule::decode(&bytes)
        };
        assert_eq!(changed(0, b'X'), Err(Refused::NotACapsule));
        assert_eq!(changed(8, 9), Err(Refused::Version(9)));
        assert_eq!(changed(12, 2), Err(Refused::NotACapsule));
    }
}
