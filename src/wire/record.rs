//! A record's header: how it is written, and how a received one is checked.
//!
//! ```text
//! +0  length       u32   payload bytes; 0 in control records, the filled bytes in padding, the
//!                        number of a pool
//! +4  kind         u8    1 message · 2 padding · 3 jump · 5 message with a pooled buffer ·
//!                        6 a pool · 7 message with small buffers · 9 short message
//! +5  format       u8    of a message: 0 archive · 1 bytes · 2 text · 3 value; else 0
//! +6  descriptors  u16   in its packet, at most 253; 0: there is no packet. Of a pool 1, or 2 if
//!                        its slots are frames, in a file of their own
//! +8  detail       u64   packet: its sequence; pooled buffer: the pool's number u32, the slot u32;
//!                        jump: the segment; short message: the payload, 1 to 8 bytes, and bytes
//!                        without meaning; small buffers: bytes at the payload's end that are
//!                        theirs u32, how many there are u32, 1 to 64; else 0
//! +16 payload, padded to a multiple of 16; none in a short message. Small buffers follow the
//!     message in it: their bytes, one after the other, and then their lengths, u32 each
//! ```
//!
//! A header is two 64-bit words and is always stored and loaded as such: one access size per word.
//! What [`Header::decode`] is given was written by the peer, so it is input.

/// Bytes of a header. Control records consist of nothing else.
pub(crate) const HEADER_LEN: u64 = 16;

/// The format of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// An rkyv archive, written by `post_message`.
    Archive,
    /// Bytes without a defined meaning, written by `post_bytes` or a loan.
    Bytes,
    /// UTF-8 text, written by `post_text`. The receiver checks it again.
    Text,
    /// Plain data in CBOR, written by `post_value`, or by a program in another language. The
    /// feature `value` reads it; without the feature its bytes are there.
    Value,
}

impl Format {
    /// The format in the first word of a message's header.
    #[inline(always)]
    pub(crate) fn of_header(first: u64) -> Format {
        match (first >> (32 + FORMAT_SHIFT)) & 3 {
            0 => Format::Archive,
            1 => Format::Bytes,
            2 => Format::Text,
            _ => Format::Value,
        }
    }

    /// Its name, for messages to people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Archive => "an archive",
            Format::Bytes => "bytes",
            Format::Text => "text",
            Format::Value => "a value",
        }
    }
}

/// How a producer ended its direction on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseKind {
    /// `close()` was called.
    Closed,
    /// The port or its sender half was dropped.
    Dropped,
}

impl CloseKind {
    /// What stands for it in the lowest bits of `tail`, and in `reader_gone`.
    pub(crate) fn code(self) -> u32 {
        match self {
            CloseKind::Closed => 1,
            CloseKind::Dropped => 2,
        }
    }

    /// The kind with this code, which the peer may have made up.
    pub(crate) fn from_code(code: u64) -> Option<CloseKind> {
        match code {
            1 => Some(CloseKind::Closed),
            2 => Some(CloseKind::Dropped),
            _ => None,
        }
    }
}

/// What comes with a message, apart from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attached {
    Nothing,
    /// A packet on the attachment socket: its descriptors, 1 to 253, and its number among the
    /// packets of its direction.
    Packet {
        descriptors: u16,
        sequence: u64,
    },
    /// A buffer of a pool that both ends map.
    Pooled {
        pool: u32,
        slot: u32,
    },
    /// Buffers whose bytes are the last `len` ones of the payload, behind the message.
    Small {
        count: u32,
        len: u32,
    },
    /// A packet with a pool in it, for the receiving end itself: it is not a message.
    Pool {
        number: u32,
        sequence: u64,
        /// Its slots are frames, which only their maker can write.
        has_frames: bool,
    },
}

impl Attached {
    /// What an end that refuses transferables refuses: as many descriptors, or small buffers, which
    /// have one each for those who count. `None` if there is nothing to refuse.
    pub(crate) fn refusable(self) -> Option<u16> {
        match self {
            Attached::Packet { descriptors, .. } => Some(descriptors),
            Attached::Small { count, .. } => Some(count as u16),
            Attached::Nothing | Attached::Pooled { .. } | Attached::Pool { .. } => None,
        }
    }

    /// Bytes at the end of the payload that are not the message's.
    pub(crate) fn len_in_payload(self) -> u32 {
        if let Attached::Small { len, .. } = self { len } else { 0 }
    }
}

/// A checked header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// `len` bytes of payload follow.
    Message { len: u32, format: Format, attached: Attached },
    /// `len` bytes of payload are in the header itself.
    Short { len: u32, format: Format, bytes: [u8; 8] },
    /// `len` bytes up to the segment's end, without meaning.
    Padding { len: u32 },
    /// The lane continues at the start of `segment`.
    Jump { segment: u32 },
}

impl Header {
    /// The two words of this header.
    #[inline(always)]
    pub(crate) fn encode(self) -> [u64; 2] {
        let word = |len: u32, sort: u32| u64::from(len) | u64::from(sort) << 32;
        match self {
            Header::Message { len, format, attached } => {
                let plain = Header::plain(len, format);
                match attached {
                    Attached::Nothing => plain,
                    Attached::Packet { descriptors, sequence } => {
                        [plain[0] | u64::from(descriptors) << 48, sequence]
                    }
                    Attached::Pooled { pool, slot } => {
                        let detail = u64::from(pool) | u64::from(slot) << 32;
                        [plain[0] + (u64::from(POOLED) << 32), detail]
                    }
                    Attached::Small { count, len } => {
                        let detail = u64::from(len) | u64::from(count) << 32;
                        [plain[0] + (u64::from(SMALL) << 32), detail]
                    }
                    Attached::Pool { number, sequence, has_frames } => {
                        let descriptors = 1 + u64::from(has_frames);
                        [word(number, POOL) | descriptors << 48, sequence]
                    }
                }
            }
            Header::Short { len, format, bytes } => {
                [Header::short(len, format), u64::from_ne_bytes(bytes)]
            }
            Header::Padding { len } => [word(len, PADDING), 0],
            Header::Jump { segment } => [word(0, JUMP), u64::from(segment)],
        }
    }

    /// The header of a message to which nothing is attached.
    #[inline(always)]
    pub(crate) fn plain(len: u32, format: Format) -> [u64; 2] {
        [u64::from(len) | u64::from(ARCHIVE + ((format as u32) << FORMAT_SHIFT)) << 32, 0]
    }

    /// The first word of a short message's header.
    #[inline(always)]
    pub(crate) fn short(len: u32, format: Format) -> u64 {
        Header::plain(len, format)[0] | u64::from(SHORT) << 32
    }

    /// Whether it is the header of a message to which nothing is attached, with its payload behind
    /// it. Most messages have one, so this takes few steps: the format is the one thing by which
    /// they differ.
    #[inline(always)]
    pub(crate) fn is_plain([first, detail]: [u64; 2]) -> bool {
        let format = ((first >> 32) as u32 ^ ARCHIVE).rotate_right(FORMAT_SHIFT);
        format <= Format::Value as u32 && detail == 0
    }

    /// Whether a header with this first word is that of a short message. One subtraction and one
    /// test: less the header of one byte in the first format, what remains of each of them is the
    /// format and the length less one, and anything else leaves another bit set.
    #[inline(always)]
    pub(crate) fn is_short_message(first: u64) -> bool {
        let least = u64::from(SHORT) << 32 | 1;
        let formats = u64::from((Format::Value as u32) << FORMAT_SHIFT) << 32;
        first.wrapping_sub(least) & !(formats | (MOST_IN_HEADER - 1)) == 0
    }

    /// Whether a header with this first word is no message's, if it is any.
    #[inline(always)]
    pub(crate) fn is_control(first: u64) -> bool {
        (first >> 32) as u8 & !1 == PADDING as u8
    }

    /// Reads a header that a peer wrote, if it is that of a message without a packet.
    #[inline(always)]
    fn decode_message(words: [u64; 2]) -> Option<(u32, Format)> {
        Header::is_plain(words).then(|| (words[0] as u32, Format::of_header(words[0])))
    }

    /// Reads a header that a peer wrote. `None` if no producer of this version writes it.
    ///
    /// Lengths are not compared with the ring here: the consumer does that.
    #[inline(always)]
    pub(crate) fn decode([first, detail]: [u64; 2]) -> Option<Header> {
        let descriptors = (first >> 48) as u16;
        let plain = first & !(0xffff << 48);
        let with = |(len, format), attached| Some(Header::Message { len, format, attached });
        if let Some(message) = Header::decode_message([first, detail]) {
            return with(message, Attached::Nothing);
        }
        if Header::is_short_message(first) {
            let (len, format) = (first as u32, Format::of_header(first));
            return Some(Header::Short { len, format, bytes: detail.to_ne_bytes() });
        }
        if matches!(descriptors, 1 | 2) && plain >> 32 == u64::from(POOL) {
            let (number, has_frames) = (first as u32, descriptors == 2);
            let attached = Attached::Pool { number, sequence: detail, has_frames };
            return with((0, Format::Bytes), attached);
        }
        if descriptors != 0 {
            let attached = Attached::Packet { descriptors, sequence: detail };
            let message = Header::decode_message([plain, 0])?;
            return if descriptors <= MAX_DESCRIPTORS { with(message, attached) } else { None };
        }
        if plain >> 32 & 0xff == u64::from(ARCHIVE & 0xff) + u64::from(POOLED) {
            let message = Header::decode_message([plain - (u64::from(POOLED) << 32), 0])?;
            let (pool, slot) = (detail as u32, (detail >> 32) as u32);
            return with(message, Attached::Pooled { pool, slot });
        }
        if plain >> 32 & 0xff == u64::from(ARCHIVE & 0xff) + u64::from(SMALL) {
            let message = Header::decode_message([plain - (u64::from(SMALL) << 32), 0])?;
            let (len, count) = (detail as u32, (detail >> 32) as u32);
            let is_valid = (1..=MAX_ENTRIES as u32).contains(&count) && len <= message.0;
            return if is_valid { with(message, Attached::Small { count, len }) } else { None };
        }
        let len = first as u32;
        match ((first >> 32) as u32, len, detail) {
            (PADDING, _, 0) => Some(Header::Padding { len }),
            (JUMP, 0, segment) => Some(Header::Jump { segment: u32::try_from(segment).ok()? }),
            _ => None,
        }
    }
}

/// Bytes that a message of `len` payload bytes takes in the ring. No caller has a length near the
/// type's end; by a mask, as `next_multiple_of` takes three times as many instructions.
#[inline(always)]
pub(crate) const fn record_len(len: u64) -> u64 {
    HEADER_LEN + (len.wrapping_add(HEADER_LEN - 1) & !(HEADER_LEN - 1))
}

/// Whether a payload of `len` bytes fits the header.
#[inline(always)]
pub(crate) const fn is_short_len(len: u64) -> bool {
    len.wrapping_sub(1) < MOST_IN_HEADER
}

/// Bytes of the longest payload that fits the header.
pub(crate) const MOST_IN_HEADER: u64 = 8;

/// Most transferables of one message.
pub(crate) const MAX_ENTRIES: usize = 64;

/// Most descriptors of one packet: the kernel's `SCM_MAX_FD`.
pub(crate) const MAX_DESCRIPTORS: u16 = 253;

// Kind, format and descriptors in one number, so that a message takes one comparison.
// Kind in the low byte, the format of a message above it, descriptors above that.
const ARCHIVE: u32 = 0x0001;
/// Where in these the format is.
const FORMAT_SHIFT: u32 = 8;
const PADDING: u32 = 0x0002;
const JUMP: u32 = 0x0003;
/// Added to the sort of a message that comes with a pooled buffer.
const POOLED: u32 = 0x0004;
const POOL: u32 = 0x0006;
/// Added to the sort of a message that comes with small buffers.
const SMALL: u32 = 0x0006;
/// A short message that is an archive: the bit of such a message, and another one.
const SHORT: u32 = 0x0009;

#[cfg(all(test, not(messageport_loom)))]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_round_trip() {
        let mut headers = vec![];
        for len in [0, 1, 8, 9, 15, 16, 17, 65_535, u32::MAX] {
            for format in [Format::Archive, Format::Bytes, Format::Text, Format::Value] {
                for attached in [
                    Attached::Nothing,
                    Attached::Packet { descriptors: 1, sequence: 0 },
                    Attached::Packet { descriptors: 253, sequence: u64::MAX },
                    Attached::Pooled { pool: 0, slot: 0 },
                    Attached::Pooled { pool: u32::MAX, slot: 7 },
                    Attached::Small { count: 1, len: 0 },
                    Attached::Small { count: 64, len },
                ] {
                    headers.push(Header::Message { len, format, attached });
                }
            }
            for format in [Format::Archive, Format::Bytes, Format::Text, Format::Value] {
                if is_short_len(u64::from(len)) {
                    headers.push(Header::Short { len, format, bytes: *b"anything" });
                }
            }
            headers.push(Header::Padding { len });
            headers.push(Header::Jump { segment: len });
        }
        for has_frames in [false, true] {
            let attached = Attached::Pool { number: 31, sequence: 9, has_frames };
            headers.push(Header::Message { len: 0, format: Format::Bytes, attached });
        }
        for header in headers {
            assert_eq!(Header::decode(header.encode()), Some(header));
        }
    }

    #[test]
    fn control_records_are_told_from_messages_by_the_first_word() {
        let (len, format, attached) = (8, Format::Value, Attached::Nothing);
        for (header, is_control) in [
            (Header::Padding { len: u32::MAX }, true),
            (Header::Jump { segment: 20 }, true),
            (Header::Message { len, format, attached }, false),
            (Header::Short { len, format, bytes: [0xff; 8] }, false),
        ] {
            assert_eq!(Header::is_control(header.encode()[0]), is_control, "{header:?}");
        }
    }

    #[test]
    fn what_may_be_refused_is_counted_in_descriptors() {
        for (attached, refusable) in [
            (Attached::Nothing, None),
            (Attached::Packet { descriptors: 253, sequence: 9 }, Some(253)),
            (Attached::Pooled { pool: 2, slot: 3 }, None),
            (Attached::Small { count: 64, len: 9 }, Some(64)),
            (Attached::Pool { number: 4, sequence: 5, has_frames: true }, None),
        ] {
            assert_eq!(attached.refusable(), refusable, "{attached:?}");
        }
    }

    #[test]
    fn each_format_has_its_name() {
        let formats = [Format::Archive, Format::Bytes, Format::Text, Format::Value];
        assert_eq!(formats.map(Format::name), ["an archive", "bytes", "text", "a value"]);
    }

    #[test]
    fn nonsense_is_refused() {
        let attached = Attached::Nothing;
        let message = Header::Message { len: 8, format: Format::Bytes, attached }.encode();
        assert_eq!(Header::decode([0, 0]), None);
        assert_eq!(Header::decode([message[0] | 254 << 48, 0]), None, "too many descriptors");
        assert_eq!(Header::decode([message[0] | 0xffff << 48, 0]), None, "too many descriptors");
        let padding = Header::Padding { len: 0 }.encode();
        assert_eq!(Header::decode([padding[0] | 1 << 48, 0]), None, "a packet beside padding");
        assert_eq!(Header::decode([message[0] | 7 << 40, 0]), None, "unknown format");
        for format in 4..=255 {
            let [message, short] = [1, 9].map(|kind| 8 | kind << 32 | format << 40);
            assert_eq!(Header::decode([message, 0]), None, "format {format}");
            assert_eq!(Header::decode([short, 0]), None, "format {format} of a short one");
        }
        assert_eq!(Header::decode([message[0], 1]), None, "detail of a message");
        assert_eq!(Header::decode([7 << 32, 0]), None, "unknown kind");
        for len in [0, 9, u32::MAX] {
            assert_eq!(Header::decode([Header::short(len, Format::Bytes), 0]), None, "{len} bytes");
        }
        let short = Header::short(8, Format::Bytes);
        assert_eq!(Header::decode([short | 1 << 48, 0]), None, "a packet beside a short one");
        assert_eq!(Header::decode([short | 7 << 40, 0]), None, "unknown format");
        assert_eq!(Header::decode([8 << 32, 0]), None, "unknown kind");
        assert_eq!(Header::decode([10 << 32, 0]), None, "short padding");
        assert_eq!(Header::decode([13 << 32 | 1, 0]), None, "a short one with a pooled buffer");
        assert_eq!(Header::decode([5 << 32 | 4 << 40, 0]), None, "unknown format");
        let small =
            |first: u64, count: u64, len: u64| Header::decode([7 << 32 | first, count << 32 | len]);
        assert!(small(8, 64, 8).is_some());
        assert_eq!(small(8, 0, 8), None, "no small buffers");
        assert_eq!(small(8, 65, 8), None, "too many small buffers");
        assert_eq!(small(8, 1, 9), None, "small buffers of more bytes than the payload has");
        assert_eq!(small(8 | 4 << 40, 1, 8), None, "unknown format");
        assert_eq!(small(8 | 1 << 48, 1, 8), None, "a packet as well");
        assert_eq!(Header::decode([5 << 32 | 1 << 48, 0]), None, "a packet as well");
        assert_eq!(Header::decode([6 << 32, 0]), None, "a pool without a packet");
        assert_eq!(Header::decode([6 << 32 | 3 << 48, 0]), None, "a pool with three descriptors");
        assert_eq!(Header::decode([6 << 32 | 1 << 40 | 1 << 48, 0]), None, "a pool with a format");
        assert_eq!(Header::decode([u64::from(JUMP) << 32, 1 << 32]), None, "segment");
        assert_eq!(Header::decode([4 << 32, 1]), None, "the close record of older versions");
    }

    #[test]
    fn close_kinds_have_two_codes() {
        for kind in [CloseKind::Closed, CloseKind::Dropped] {
            assert_eq!(CloseKind::from_code(u64::from(kind.code())), Some(kind));
        }
        for code in [0, 3, 15, 1 << 32 | 1] {
            assert_eq!(CloseKind::from_code(code), None);
        }
    }

    #[test]
    fn record_lengths_are_multiples_of_sixteen() {
        assert_eq!([0, 1, 16, 17].map(record_len), [16, 32, 32, 48]);
    }
}
