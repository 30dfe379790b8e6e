//! The reading end of a lane: peek → read → take → release.
//!
//! Everything here that the peer wrote, `tail` and each record's header, is input: it is loaded
//! once into a local and checked, and only that local is used. A value that no producer writes is a
//! [`Corruption`], after which the lane is never read again.

use crate::error::Corruption;
use crate::ring::awake::Awake;
use crate::ring::cursor::{Cursor, distance};
use crate::ring::memory::{Memory, Window};
use crate::ring::notifier::Fences;
use crate::ring::segment::{Geometry, Span};
use crate::sync::Ordering;
use crate::wire::layout::RECORD_ALIGN;
use crate::wire::record::{Attached, CloseKind, Format, HEADER_LEN, Header, record_len};

mod ahead;
mod controls;
mod release;
mod sleep;
mod tail;

use ahead::Copied;

/// INVARIANT (bounds): a [`Record`] that `peek` returns lies inside its segment, and its payload
/// starts at a multiple of 16, or of 8 in a short message.
/// INVARIANT (owner): the bytes from `released` to `tail` are this end's to read, as far as the
/// producer keeps the protocol.
/// INVARIANT (window): the window begins at the cursor and ends with its segment, unless it is
/// closed. It is closed while the caller takes messages from a copy.
#[derive(Debug)]
pub(crate) struct Consumer {
    /// Fast path: the bytes in which the next records are.
    window: Window,
    geometry: Geometry,
    cursor: Cursor,
    /// Of the segment that the cursor is in.
    span: Span,
    messages: u64,
    /// Between the two counters: see [`Counters`](crate::ring::counters::Counters).
    released: u64,
    bytes: u64,
    tail: u64,
    /// How many units of records the lane holds: derived, as each look at the tail needs it.
    most_units: u64,
    /// How the producer has ended the lane, if it has: then `tail` is the last one.
    end: Option<CloseKind>,
    /// Whether something was released without a look for a waiting producer.
    owes_look: bool,
    /// What the caller has copied of the records that come next.
    copied: Copied,
    /// Control records since the last message.
    controls: u32,
    wakes: u64,
    awake: Awake,
    /// Of the look for a producer that waits for room.
    fences: Fences,
}

/// What is at the front of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peek {
    Empty,
    Message(Record),
    Closed(CloseKind),
}

/// A message's place, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Offset in the area of the payload's first byte.
    pub payload_offset: u64,
    /// Payload bytes.
    pub len: u32,
    pub format: Format,
    pub attached: Attached,
    /// Position after the record: release up to here when it has been read.
    pub end: u64,
}

impl Record {
    /// Whether its payload is in its header: then it begins at a multiple of 8 alone.
    #[inline(always)]
    pub(crate) fn is_short(&self) -> bool {
        !self.payload_offset.is_multiple_of(HEADER_LEN)
    }

    /// The same record with the length of the message alone, without what follows it.
    pub(crate) fn message(&self) -> Record {
        Record { len: self.len - self.attached.len_in_payload(), ..*self }
    }
}

impl Consumer {
    /// A consumer that continues at `cursor`; the tail is checked at the first poll.
    pub(crate) fn resume(memory: Memory, geometry: Geometry, cursor: Cursor) -> Consumer {
        let (released, tail) = (cursor.position, cursor.position);
        // Relaxed, all: numbers for people, left by a former owner of this end.
        let consumed = &memory.lane().consumed;
        let messages = consumed.messages.load(Ordering::Relaxed);
        let bytes = consumed.bytes.load(Ordering::Relaxed);
        let wakes = consumed.wakes.load(Ordering::Relaxed);
        let (span, controls) = (geometry.span(cursor.segment), 0);
        let awake = Awake::resume(&memory.lane().sleepers.message_sleeper, messages);
        Consumer {
            window: Window::new(memory),
            geometry,
            cursor,
            span,
            released,
            tail,
            most_units: geometry.limit() / RECORD_ALIGN,
            end: None,
            owes_look: false,
            copied: Copied::default(),
            controls,
            messages,
            bytes,
            wakes,
            awake,
            fences: Fences::ALWAYS,
        }
    }

    /// Fast path of `peek`: see [`next_plain`](Consumer::next_plain).
    pub(crate) fn peek_fast(&mut self) -> Option<Record> {
        if !self.has_known() {
            self.look_at_tail()?;
        }
        if let Some([first, _]) = self.next_short() {
            return Some(self.short_at(first as u32, Format::of_header(first)));
        }
        let first = self.next_plain()?.header();
        Some(self.at(first as u32, Format::of_header(first), Attached::Nothing))
    }

    /// Whether the producer has committed something that was not taken yet. For loops that look
    /// again and again; the next poll returns what it is.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        // Relaxed: the look that follows loads it again, and orders.
        self.window.memory().lane().producer.tail.load(Ordering::Relaxed) != self.cursor.position
    }

    /// Looks at the next message. It returns the same one until it is taken.
    ///
    /// `tail` is loaded only when everything known was taken.
    #[inline(always)]
    pub(crate) fn peek(&mut self) -> Result<Peek, Corruption> {
        if self.cursor.position == self.tail {
            self.refresh_tail()?;
        }
        loop {
            if self.cursor.position == self.tail {
                return Ok(self.end.map_or(Peek::Empty, Peek::Closed));
            }
            match self.read_header()? {
                Header::Message { len, format, attached } => {
                    self.open_window();
                    return Ok(Peek::Message(self.at(len, format, attached)));
                }
                Header::Short { len, format, .. } => {
                    self.open_window();
                    return Ok(Peek::Message(self.short_at(len, format)));
                }
                control => self.pass(control)?,
            }
            if self.cursor.position == self.tail {
                self.refresh_tail()?;
            }
        }
    }

    /// Steps over the message that `peek` returned. Its bytes stay readable until the release.
    #[inline(always)]
    pub(crate) fn take(&mut self, record: &Record) {
        self.skip(record);
        self.count_message(record.len);
    }

    /// The same for a record that is not shown as a message, and does not count as one.
    #[inline(always)]
    pub(crate) fn skip(&mut self, record: &Record) {
        self.step(distance(record.end, self.cursor.position));
    }

    /// Steps over a record of `record` bytes.
    #[inline(always)]
    fn step(&mut self, record: u64) {
        self.window.advance(record);
        self.cursor.position = self.cursor.position.wrapping_add(record);
        self.controls = 0;
    }

    #[inline(always)]
    fn count_message(&mut self, len: u32) {
        self.messages = self.messages.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(u64::from(len));
    }

    /// Position after the last message taken and the control records passed.
    #[inline]
    pub(crate) fn position(&self) -> u64 {
        self.cursor.position
    }

    pub(crate) fn cursor(&self) -> Cursor {
        self.cursor
    }

    #[inline]
    pub(crate) fn memory(&self) -> &Memory {
        self.window.memory()
    }

    /// The bytes of the fast path.
    #[inline(always)]
    pub(crate) fn window(&self) -> &Window {
        &self.window
    }

    /// Opens the window at the cursor, for the records from there on. Messages are no longer taken
    /// from a copy then.
    fn open_window(&mut self) {
        self.end_copy();
        let until_end = self.cursor.until_end_of(self.span);
        self.window.open(self.cursor.offset_in(self.span), until_end);
    }

    #[inline(always)]
    fn at(&self, len: u32, format: Format, attached: Attached) -> Record {
        Record {
            payload_offset: self.cursor.offset_in(self.span) + HEADER_LEN,
            len,
            format,
            attached,
            end: self.cursor.position.wrapping_add(record_len(u64::from(len))),
        }
    }

    /// The same, of a short message.
    fn short_at(&self, len: u32, format: Format) -> Record {
        Record {
            payload_offset: self.cursor.offset_in(self.span) + HEADER_LEN / 2,
            len,
            format,
            attached: Attached::Nothing,
            end: self.cursor.position.wrapping_add(HEADER_LEN),
        }
    }

    /// Bytes that a record at the cursor can take: committed ones, up to the segment's end.
    #[inline(always)]
    fn available(&self) -> u64 {
        let until_end = self.cursor.until_end_of(self.span);
        distance(self.tail, self.cursor.position).min(until_end)
    }
}
