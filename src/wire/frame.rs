//! What travels on a socket together with descriptors: the capsule of an end that moves, and the
//! packet of a message's transferables.
//!
//! ```text
//! capsule
//! +0x00 magic      u64   "MPCAPSUL"
//! +0x08 version    u32   layout version
//! +0x0c side       u32   0 or 1: which end this is
//! +0x10 epoch      u64   count of moves so far
//! +0x18 capacity   u64
//! +0x20 limit      u64
//! +0x28 schema     u64
//! +0x30 outgoing   position u64, entered u64, segment u64
//! +0x48 incoming   position u64, entered u64, segment u64
//! +0x60 packets    u64   packets that this end has sent with its messages
//! +0x68 flags      u64   1: the peer is trusted; believed only if a trusted peer sends it
//!                        2: this end refuses transferables · 4: its peer does
//! +0x70 vacated_at u64×21  outgoing: the position after the jump by which each segment was vacated
//! +0x118 label     u8×32  of the channel, for people: UTF-8 and zeros
//! +0x138 label     u8×32  of this end, the same
//!
//! packet
//! +0x00 magic      u64   "MPPACKET"
//! +0x08 sequence   u64   the one in its record
//! +0x10 entries, at most 64:
//!       kind       u64   1 port · 2 buffer · 3 descriptor · 4 pool
//!       port: its capsule; buffer: its bytes, u64; descriptor: nothing;
//!       pool: its number, its slots, bytes of each: u64 each
//! ```
//!
//! A port has three descriptors, in the order memory, doorbell, attachments; the others have one.
//!
//! ```text
//! hello, and its refusal
//! +0x00 magic      u64   "MPHELLO1"; "MPREFUSE"
//! +0x08 version    u64   layout version of the sender
//! +0x10 format     u64   fingerprint of its payload format
//! +0x18 schema     u64   its number; 0 means none
//!
//! member hello: what a member of a broadcast channel sends to another one, with a port
//! +0x00 hello
//! +0x20 member     u128  the sender's number
//! +0x30 capsule
//! ```
//!
//! An end does not rely on shared memory for its own cursors, as the peer can write there: they
//! travel in the capsule. A receiver checks them like any untrusted word.

use crate::wire::label::{LABEL_LEN, Label, PortLabels};
use crate::wire::layout::{MAX_SEGMENTS, VERSION};
pub(crate) use crate::wire::record::MAX_ENTRIES;

/// Bytes of an encoded capsule.
pub(crate) const CAPSULE_LEN: usize = LABELS + 2 * LABEL_LEN;
/// Where the labels of a capsule are.
const LABELS: usize = 0x70 + 8 * MAX_SEGMENTS;
/// Bytes of the largest packet.
pub(crate) const MAX_PACKET_LEN: usize = 16 + MAX_ENTRIES * (8 + CAPSULE_LEN);

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
    pub packets: u64,
    pub is_trusted: bool,
    pub policy: TransferPolicy,
    pub vacated_at: [u64; MAX_SEGMENTS],
    pub labels: PortLabels,
}

/// Which ends of a channel refuse transferables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransferPolicy {
    /// This end receives none.
    pub here_refuses: bool,
    /// The other end receives none.
    pub peer_refuses: bool,
}

/// The place of an end in one lane.
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
            self.packets,
            u64::from(self.is_trusted)
                | u64::from(self.policy.here_refuses) << 1
                | u64::from(self.policy.peer_refuses) << 2,
        ];
        let mut bytes = [0; CAPSULE_LEN];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words.into_iter().chain(self.vacated_at))
        {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let (channel, end) = bytes[LABELS..].split_at_mut(LABEL_LEN);
        channel.copy_from_slice(&self.labels.channel.to_bytes());
        end.copy_from_slice(&self.labels.end.to_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Capsule, Refused> {
        let bytes: &[u8; CAPSULE_LEN] = bytes.try_into().map_err(|_| Refused::NotACapsule)?;
        let word = |index: usize| {
            let bytes = bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let label = |at: usize| {
            let bytes = bytes[at..at + LABEL_LEN].try_into().expect("bytes of a label");
            Label::from_bytes(bytes)
        };
        let place = |index| Place {
            position: word(index),
            entered: word(index + 1),
            segment: word(index + 2),
        };
        // A word with unknown bits says nothing.
        let flags = if word(13) <= 7 { word(13) } else { 0 };
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
            packets: word(12),
            is_trusted: flags & 1 != 0,
            policy: TransferPolicy { here_refuses: flags & 2 != 0, peer_refuses: flags & 4 != 0 },
            vacated_at: std::array::from_fn(|segment| word(14 + segment)),
            labels: PortLabels { channel: label(LABELS), end: label(LABELS + LABEL_LEN) },
        };
        if side > 1 { Err(Refused::NotACapsule) } else { Ok(capsule) }
    }
}

/// What is attached to a message, on its whole way: what stands for a port, a buffer, a descriptor
/// or a pool is another thing while it is the sender's, in a packet, and once it has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attachment<Port, Buffer, Descriptor, Pool> {
    /// An end of a pair.
    Port(Port),
    /// Sealed memory.
    Buffer(Buffer),
    /// Any other descriptor.
    Descriptor(Descriptor),
    /// Memory that both ends will map.
    Pool(Pool),
}

/// The kinds of attachments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachmentKind {
    Port,
    Buffer,
    Descriptor,
    Pool,
}

impl<Port, Buffer, Descriptor, Pool> Attachment<Port, Buffer, Descriptor, Pool> {
    pub(crate) const fn kind(&self) -> AttachmentKind {
        match self {
            Attachment::Port(_) => AttachmentKind::Port,
            Attachment::Buffer(_) => AttachmentKind::Buffer,
            Attachment::Descriptor(_) => AttachmentKind::Descriptor,
            Attachment::Pool(_) => AttachmentKind::Pool,
        }
    }

    /// How many descriptors it has.
    pub(crate) const fn descriptors(&self) -> usize {
        if matches!(self, Attachment::Port(_)) { PORT_DESCRIPTORS } else { 1 }
    }
}

/// An attachment in a packet: a port's capsule, not checked yet; a buffer's bytes; a pool's shape.
pub(crate) type ManifestEntry = Attachment<Box<[u8; CAPSULE_LEN]>, u64, (), PoolShape>;

/// A pool: its number among those of its maker, and `slots` times `len` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolShape {
    pub number: u32,
    pub slots: u64,
    pub len: u64,
}

/// The bytes of a packet.
pub(crate) fn encode_packet(sequence: u64, entries: &[ManifestEntry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAX_PACKET_LEN);
    bytes.extend(PACKET_MAGIC.to_le_bytes());
    bytes.extend(sequence.to_le_bytes());
    for entry in entries {
        match entry {
            ManifestEntry::Port(capsule) => {
                bytes.extend(PORT.to_le_bytes());
                bytes.extend(capsule.as_slice());
            }
            ManifestEntry::Buffer(len) => {
                bytes.extend(BUFFER.to_le_bytes());
                bytes.extend(len.to_le_bytes());
            }
            ManifestEntry::Descriptor(()) => bytes.extend(DESCRIPTOR.to_le_bytes()),
            ManifestEntry::Pool(PoolShape { number, slots, len }) => {
                for word in [POOL, u64::from(*number), *slots, *len] {
                    bytes.extend(word.to_le_bytes());
                }
            }
        }
    }
    bytes
}

/// The sequence and the entries of a packet that a peer wrote; `None` if it is invalid.
pub(crate) fn decode_packet(bytes: &[u8]) -> Option<(u64, Vec<ManifestEntry>)> {
    let mut rest = bytes;
    if take_word(&mut rest)? != PACKET_MAGIC {
        return None;
    }
    let sequence = take_word(&mut rest)?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let entry = match take_word(&mut rest)? {
            PORT => {
                let (capsule, after) = rest.split_first_chunk()?;
                rest = after;
                ManifestEntry::Port(Box::new(*capsule))
            }
            BUFFER => ManifestEntry::Buffer(take_word(&mut rest)?),
            DESCRIPTOR => ManifestEntry::Descriptor(()),
            POOL => ManifestEntry::Pool(PoolShape {
                number: u32::try_from(take_word(&mut rest)?).ok()?,
                slots: take_word(&mut rest)?,
                len: take_word(&mut rest)?,
            }),
            _ => return None,
        };
        entries.push(entry);
    }
    (1..=MAX_ENTRIES).contains(&entries.len()).then_some((sequence, entries))
}

/// What two programs that connect by name say about themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub version: u64,
    pub format: u64,
    pub schema: u64,
}

/// Bytes of a hello and of a refusal.
pub(crate) const HELLO_LEN: usize = 0x20;

impl Hello {
    /// As a greeting, or as a refusal.
    pub(crate) fn encode(self, is_refusal: bool) -> [u8; HELLO_LEN] {
        let magic = if is_refusal { REFUSE_MAGIC } else { HELLO_MAGIC };
        let mut bytes = [0; HELLO_LEN];
        let words = [magic, self.version, self.format, self.schema];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// What an unknown process says, and whether it is a refusal.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Hello, bool)> {
        let mut rest = bytes;
        let magic = take_word(&mut rest)?;
        let (version, format) = (take_word(&mut rest)?, take_word(&mut rest)?);
        let hello = Hello { version, format, schema: take_word(&mut rest)? };
        let is_one = rest.is_empty() && (magic == HELLO_MAGIC || magic == REFUSE_MAGIC);
        is_one.then_some((hello, magic == REFUSE_MAGIC))
    }
}

/// What a joiner of a broadcast channel sends before the capsule of the port that it brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberHello {
    pub hello: Hello,
    pub member: u128,
}

/// Bytes of a member hello, without the capsule after it.
pub(crate) const MEMBER_HELLO_LEN: usize = HELLO_LEN + 0x10;

impl MemberHello {
    pub(crate) fn encode(self) -> [u8; MEMBER_HELLO_LEN] {
        let mut bytes = [0; MEMBER_HELLO_LEN];
        bytes[..HELLO_LEN].copy_from_slice(&self.hello.encode(false));
        bytes[HELLO_LEN..].copy_from_slice(&self.member.to_le_bytes());
        bytes
    }

    /// Decodes what an unknown process says, and returns the rest.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(MemberHello, &[u8])> {
        let (hello, rest) = bytes.split_at_checked(HELLO_LEN)?;
        let (member, rest) = rest.split_first_chunk()?;
        match Hello::decode(hello)? {
            (hello, false) => {
                Some((MemberHello { hello, member: u128::from_le_bytes(*member) }, rest))
            }
            (_, true) => None,
        }
    }
}

fn take_word(rest: &mut &[u8]) -> Option<u64> {
    let (word, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u64::from_le_bytes(*word))
}

/// Descriptors of a port.
pub(crate) const PORT_DESCRIPTORS: usize = 3;
const MAGIC: u64 = u64::from_le_bytes(*b"MPCAPSUL");
const PACKET_MAGIC: u64 = u64::from_le_bytes(*b"MPPACKET");
const HELLO_MAGIC: u64 = u64::from_le_bytes(*b"MPHELLO1");
const REFUSE_MAGIC: u64 = u64::from_le_bytes(*b"MPREFUSE");
const PORT: u64 = 1;
const BUFFER: u64 = 2;
const DESCRIPTOR: u64 = 3;
const POOL: u64 = 4;

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
        packets: 5,
        is_trusted: true,
        policy: TransferPolicy { here_refuses: true, peer_refuses: false },
        vacated_at: [3; MAX_SEGMENTS],
        labels: PortLabels { channel: Label::NONE, end: Label::NONE },
    };

    #[test]
    fn hellos_survive_the_round_trip_and_nothing_else_is_one() {
        let hello = Hello { version: 2, format: 3, schema: u64::MAX };
        for is_refusal in [false, true] {
            let bytes = hello.encode(is_refusal);
            assert_eq!(Hello::decode(&bytes), Some((hello, is_refusal)));
            assert_eq!(Hello::decode(&bytes[1..]), None);
            assert_eq!(Hello::decode(&[&bytes[..], &[0]].concat()), None);
        }
        assert_eq!(Hello::decode(&[0; HELLO_LEN]), None);
    }

    #[test]
    fn member_hellos_survive_the_round_trip_and_nothing_else_is_one() {
        let hello = Hello { version: 2, format: 3, schema: 4 };
        let member_hello = MemberHello { hello, member: u128::MAX - 1 };
        let bytes = member_hello.encode();
        assert_eq!(MemberHello::decode(&bytes), Some((member_hello, &[][..])));
        let longer = [&bytes[..], b"capsule"].concat();
        assert_eq!(MemberHello::decode(&longer), Some((member_hello, &b"capsule"[..])));
        for len in 0..bytes.len() {
            assert_eq!(MemberHello::decode(&bytes[..len]), None, "{len} bytes");
        }
        let mut refusal = bytes;
        refusal[..HELLO_LEN].copy_from_slice(&hello.encode(true));
        assert_eq!(MemberHello::decode(&refusal), None);
    }

    #[test]
    fn each_flag_of_a_capsule_survives_the_round_trip() {
        for bits in 0..16 {
            let is_set = |bit: u32| bits & 1 << bit != 0;
            let policy = TransferPolicy { here_refuses: is_set(2), peer_refuses: is_set(3) };
            let capsule =
                Capsule { side: u32::from(is_set(0)), is_trusted: is_set(1), policy, ..CAPSULE };
            assert_eq!(Capsule::decode(&capsule.encode()), Ok(capsule));
        }
        assert_eq!(LABELS, 8 * (14 + MAX_SEGMENTS), "the labels stand behind the words");
    }

    #[test]
    fn packets_survive_the_round_trip() {
        let pool = ManifestEntry::Pool(PoolShape { number: 1, slots: 2, len: 3 });
        let port = ManifestEntry::Port(Box::new(CAPSULE.encode()));
        let entries = [ManifestEntry::Descriptor(()), port, pool, ManifestEntry::Buffer(7)];
        assert_eq!(entries.each_ref().map(Attachment::descriptors), [1, 3, 1, 1]);
        let packet = encode_packet(9, &entries);
        assert_eq!(decode_packet(&packet), Some((9, entries.to_vec())));
        let most = vec![ManifestEntry::Port(Box::new(CAPSULE.encode())); MAX_ENTRIES];
        let packet = encode_packet(u64::MAX, &most);
        assert_eq!(packet.len(), MAX_PACKET_LEN);
        assert_eq!(decode_packet(&packet), Some((u64::MAX, most)));
    }

    #[test]
    fn other_bytes_are_no_packet() {
        let entries = [
            ManifestEntry::Descriptor(()),
            ManifestEntry::Port(Box::new(CAPSULE.encode())),
            ManifestEntry::Buffer(7),
        ];
        let packet = encode_packet(9, &entries);
        let ends = [16, 24, 24 + 8 + CAPSULE_LEN, packet.len()];
        for len in 0..packet.len() {
            // Cut between two entries it is a shorter packet; without entries it is invalid.
            let is_packet = ends.contains(&len) && len > 16;
            assert_eq!(decode_packet(&packet[..len]).is_some(), is_packet, "{len} bytes");
        }
        let mut other = packet.clone();
        other[0] ^= 1;
        assert_eq!(decode_packet(&other), None, "the magic");
        let mut other = packet;
        other[16] = 5;
        assert_eq!(decode_packet(&other), None, "an unknown kind");
        let many = encode_packet(1, &vec![ManifestEntry::Descriptor(()); MAX_ENTRIES + 1]);
        assert_eq!(decode_packet(&many), None, "too many");
    }

    #[test]
    fn capsules_survive_the_round_trip() {
        let labels = PortLabels { channel: Label::new("prices"), end: Label::new("shop") };
        for capsule in [CAPSULE, Capsule { labels, ..CAPSULE }] {
            assert_eq!(Capsule::decode(&capsule.encode()), Ok(capsule));
        }
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
        assert_eq!(changed(8, 13), Err(Refused::Version(13)));
        assert_eq!(changed(12, 2), Err(Refused::NotACapsule));
        // A flag of another version: what the others mean together with it is not known.
        let distrusting =
            Capsule { is_trusted: false, policy: TransferPolicy::default(), ..CAPSULE };
        assert_eq!(changed(0x68, 0x0b), Ok(distrusting));
        assert_eq!(changed(0x69, 1), Ok(distrusting));
    }
}
