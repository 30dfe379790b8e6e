//! The shared region: its one picture, its structs, and the compile-time proof that they agree.
//!
//! ```text
//! +0x00000 magic              u64   "MSGPORT" and a zero byte
//! +0x00008 version            u32   layout version; another one is refused
//! +0x0000c features           u32   feature bits; an unknown one is refused
//! +0x00010 pair_id            u64×2 names the pair to people and tools; never trusted
//! +0x00020 format             u64   fingerprint of the payload format (byte order, widths)
//! +0x00028 schema             u64   number that the two programs chose; 0 means none
//! +0x00030 capacity           u64   bytes of segment 0 of each area
//! +0x00038 limit              u64   bytes of each area
//! +0x00080 lane A→B           5 lines of 128 bytes
//! +0x00300 lane B→A           the same
//! +0x00580 declared types     4 times 640 bytes: what the lane A→B carries as its producer has it,
//!                             as its consumer has it, and the same of the lane B→A
//! +0x00f80 zero up to the first area
//! +0x10000 area A→B           `limit` bytes: segment 0 (C), 1 (C), 2 (2C), 3 (4C), …
//! +0x10000 + limit: area B→A  `limit` bytes, the same
//!
//! A lane:
//! +0x000   tail               u64   one line, one writer: the producer. A position, a multiple
//!                                   of 16, plus 0 open, 1 closed or 2 dropped
//! +0x080   head               u64   one line, one writer: the consumer
//! +0x100   message_sleeper    u32   armed by the consumer, taken by the producer
//! +0x104   room_sleeper       u32   armed by the producer, taken by the consumer
//! +0x108   reader_gone        u32   one writer: the consumer
//! +0x10c   refused_pools      u32   bit n: the consumer has not accepted the pool n; one writer
//! +0x180   produced           messages, bytes, full, growth, wakes: u64 each, by the producer
//! +0x200   consumed           messages, bytes, wakes: u64 each, by the consumer
//!
//! A declared type, written by a side that has given its port types:
//! +0x000   fingerprint        u64   of the type's shape; 0: none is declared
//! +0x008   shape_len          u64   bytes of the shape's text
//! +0x010   shape              u64×78, the text as far as it fits: 624 bytes
//! ```
//!
//! The words of the sleepers' line are loaded at every post and every release, and stored
//! only when a side goes to sleep or leaves: while both sides keep up the line stays shared in both
//! caches, and looking at it costs a hit.
//!
//! `reader_gone` is there and not next to `head` for the same reason: `head`'s line changes with
//! every message, and a post must not touch it.

use crate::sync::{AtomicU32, AtomicU64};

/// "MSGPORT\0", read as a little-endian number.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"MSGPORT\0");
/// Version of everything in this file, in `record.rs`, in `frame.rs`, and of a pool's memory.
pub(crate) const VERSION: u32 = 12;
/// Feature bits that this version knows: none.
pub(crate) const FEATURES: u32 = 0;
/// Where the first area starts: a multiple of every page size in use (4, 16, 64 KiB).
pub(crate) const AREA_OFFSET: u64 = 0x10000;
/// Records start and end at multiples of this, so that a payload is 16-aligned.
pub(crate) const RECORD_ALIGN: u64 = 16;
/// Least bytes of segment 0.
pub(crate) const MIN_CAPACITY: u64 = 4096;
/// Most bytes of an area: every length of a record fits a `u32`.
pub(crate) const MAX_LIMIT: u64 = 1 << 32;
/// Default bytes of segment 0.
pub(crate) const DEFAULT_CAPACITY: u64 = 64 << 10;
/// Default bytes of an area.
pub(crate) const DEFAULT_LIMIT: u64 = 64 << 20;
/// Most segments of an area: `MIN_CAPACITY << (MAX_SEGMENTS - 1)` is `MAX_LIMIT`.
pub(crate) const MAX_SEGMENTS: usize = 21;

/// The region's first bytes. Written once by the creator, before another process can see them.
#[repr(C, align(128))]
pub(crate) struct Identity {
    pub magic: AtomicU64,
    pub version: AtomicU32,
    pub features: AtomicU32,
    pub pair_id: [AtomicU64; 2],
    pub format: AtomicU64,
    pub schema: AtomicU64,
    pub capacity: AtomicU64,
    pub limit: AtomicU64,
}

/// Producer's line: written by the producer only.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct TailLine {
    /// Position after the last committed record, in bytes. Never decreases. Its lowest four bits
    /// are 0, or say how the producer has ended the lane: 1, it closed; 2, it was dropped.
    pub tail: AtomicU64,
}

/// Consumer's line: written by the consumer only.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct HeadLine {
    /// Position up to which the bytes are the producer's again. Never decreases.
    pub head: AtomicU64,
}

/// Which side sleeps, and which has left.
///
/// | `message_sleeper`, `room_sleeper` | meaning | set by |
/// |---|---|---|
/// | 0 | not asleep, or the flag was taken and the wake is on its way | waker, sleeper: swap |
/// | 1 | asleep on this word as a futex | sleeper |
/// | 2 | asleep on the doorbell, or its descriptor is watched | sleeper |
/// | 3 | awake: it arms the flag only after a barrier, so a waker needs no fence | sleeper |
/// | else | invalid, from a hostile peer; read as 2, the wake that is always harmless | |
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct SleeperLine {
    pub message_sleeper: AtomicU32,
    pub room_sleeper: AtomicU32,
    /// 0: the consumer still reads; 1: it closed; 2: it was dropped.
    pub reader_gone: AtomicU32,
    /// A bit for each pool of the producer's that the consumer has not accepted.
    pub refused_pools: AtomicU32,
}

/// Counters of the producer. For people and tools; nothing is decided by them.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct ProducedLine {
    pub messages: AtomicU64,
    pub bytes: AtomicU64,
    pub full: AtomicU64,
    pub growth: AtomicU64,
    pub wakes: AtomicU64,
}

/// Counters of the consumer. For people and tools; nothing is decided by them.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct ConsumedLine {
    pub messages: AtomicU64,
    pub bytes: AtomicU64,
    pub wakes: AtomicU64,
}

/// All shared words of one direction.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct LaneHeader {
    pub producer: TailLine,
    pub consumer: HeadLine,
    pub sleepers: SleeperLine,
    pub produced: ProducedLine,
    pub consumed: ConsumedLine,
}

/// Bytes of a shape's text for which there is room.
pub(crate) const SHAPE_ROOM: usize = 624;

/// What one side has declared about the messages of one lane. One writer: that side.
///
/// Nothing is decided by it but whether a typed port works, and the text is for people.
#[repr(C, align(128))]
#[cfg(not(messageport_loom))]
pub(crate) struct DeclaredType {
    pub fingerprint: AtomicU64,
    pub shape_len: AtomicU64,
    pub shape: [AtomicU64; SHAPE_ROOM / 8],
}

/// The region up to its first area.
#[repr(C)]
#[cfg(not(messageport_loom))]
pub(crate) struct RegionHeader {
    pub identity: Identity,
    /// Index 0: from side A to side B; 1: back.
    pub lanes: [LaneHeader; 2],
    /// Of the lane `n`: at `2 * n` the producer's, then the consumer's.
    pub types: [DeclaredType; 4],
}

/// Bytes of a region whose areas have `limit` bytes each.
pub(crate) const fn region_len(limit: u64) -> u64 {
    AREA_OFFSET + 2 * limit
}

/// How the payload bytes of this build look: byte order, pointer width and alignment of rkyv.
///
/// Features of rkyv change them, and cargo may unify features differently in two binaries; so the
/// value is taken from the archived types themselves.
#[cfg(not(messageport_loom))]
pub(crate) fn payload_format() -> u64 {
    use rkyv::Archived;
    use rkyv::primitive::ArchivedUsize;
    let one = rkyv::to_bytes::<rkyv::rancor::Error>(&1u16).expect("two bytes always serialise");
    let first_byte_is_one = one[0] == 1;
    let format_of_rkyv = 8u64; // the 0.8 series has one format
    format_of_rkyv << 32
        | (first_byte_is_one as u64) << 16
        | (size_of::<ArchivedUsize>() as u64) << 8
        | align_of::<Archived<u64>>() as u64
}

#[cfg(not(messageport_loom))]
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<usize>() == 8, "messageport needs a 64-bit target");
    assert!(offset_of!(RegionHeader, identity) == 0x00 && offset_of!(RegionHeader, lanes) == 0x80);
    assert!(offset_of!(RegionHeader, types) == 0x580 && size_of::<RegionHeader>() == 0xf80);
    // One page, of the smallest size.
    assert!(size_of::<RegionHeader>() <= 0x1000 && 0x1000 <= AREA_OFFSET);
    assert!(size_of::<DeclaredType>() == 0x280 && offset_of!(DeclaredType, fingerprint) == 0x00);
    assert!(offset_of!(DeclaredType, shape_len) == 0x08 && offset_of!(DeclaredType, shape) == 0x10);
    assert!(offset_of!(Identity, magic) == 0x00 && offset_of!(Identity, version) == 0x08);
    assert!(offset_of!(Identity, features) == 0x0c && offset_of!(Identity, pair_id) == 0x10);
    assert!(offset_of!(Identity, format) == 0x20 && offset_of!(Identity, schema) == 0x28);
    assert!(offset_of!(Identity, capacity) == 0x30 && offset_of!(Identity, limit) == 0x38);
    assert!(size_of::<Identity>() == 0x80 && size_of::<LaneHeader>() == 0x280);
    assert!(offset_of!(LaneHeader, producer) == 0x000 && offset_of!(LaneHeader, consumer) == 0x080);
    assert!(offset_of!(LaneHeader, sleepers) == 0x100 && offset_of!(LaneHeader, produced) == 0x180);
    assert!(offset_of!(LaneHeader, consumed) == 0x200);
    assert!(offset_of!(TailLine, tail) == 0 && offset_of!(HeadLine, head) == 0);
    assert!(offset_of!(SleeperLine, message_sleeper) == 0 && size_of::<SleeperLine>() == 128);
    assert!(
        offset_of!(SleeperLine, room_sleeper) == 4 && offset_of!(SleeperLine, reader_gone) == 8
    );
    assert!(offset_of!(SleeperLine, refused_pools) == 12);
    assert!(offset_of!(ProducedLine, messages) == 0x00 && offset_of!(ProducedLine, bytes) == 0x08);
    assert!(offset_of!(ProducedLine, full) == 0x10 && offset_of!(ProducedLine, growth) == 0x18);
    assert!(offset_of!(ProducedLine, wakes) == 0x20 && size_of::<ProducedLine>() == 128);
    assert!(offset_of!(ConsumedLine, messages) == 0x00 && offset_of!(ConsumedLine, bytes) == 0x08);
    assert!(offset_of!(ConsumedLine, wakes) == 0x10 && size_of::<ConsumedLine>() == 128);
    assert!(MIN_CAPACITY << (MAX_SEGMENTS - 1) >= MAX_LIMIT);
};

#[cfg(all(test, not(messageport_loom)))]
mod tests {
    use super::*;

    #[test]
    fn payload_format_of_default_rkyv() {
        assert_eq!(payload_format(), 8 << 32 | 1 << 16 | 4 << 8 | 8);
    }
}
