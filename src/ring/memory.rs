//! The bytes and words that both ends of a lane see.
//!
//! In production and under Miri: pointers into a mapping or the heap, kept alive by an owner.
//! Under loom: values, with each 16-byte unit of the area a tracked cell, so that a model notices
//! bytes that are read while they may be written, whatever the accesses to them are.
//!
//! Bytes are written by plain stores and read by relaxed atomic words. A peer in another process
//! may write at any time; what is read may be garbage but the read itself is never a data race, and
//! nothing here hands out a reference to the area.
#![allow(unsafe_code)]

#[cfg(not(messageport_loom))]
pub(crate) use mapped::{Grant, Memory, Plain, Window};
#[cfg(messageport_loom)]
pub(crate) use modelled::{Grant, Memory, Plain, Window};

#[cfg(not(messageport_loom))]
mod mapped {
    use crate::sync::{AtomicU64, Ordering};
    use crate::wire::layout::LaneHeader;
    use crate::wire::record::{Format, HEADER_LEN, Header, record_len};
    use std::any::Any;
    use std::fmt;
    use std::marker::PhantomData;
    use std::ptr::NonNull;
    use std::sync::Arc;

    /// INVARIANT (bounds): `lane` and `len` bytes from `area` stay valid while `_owner` lives;
    /// `area` is 16-aligned, and `lane` aligned for its type.
    /// INVARIANT (writers): bytes outside `head..tail` are written by the lane's one producer only,
    /// as far as this program goes; what another process writes is read as relaxed words.
    #[derive(Clone)]
    pub(crate) struct Memory {
        lane: NonNull<LaneHeader>,
        area: NonNull<u8>,
        len: u64,
        _owner: Arc<dyn Any + Send + Sync>,
    }

    // SAFETY: (bounds) the pointers belong to an owner that is itself Send and Sync; all shared
    // words are atomics, and bytes are accessed by the two ends as (writers) says.
    unsafe impl Send for Memory {}

    impl Memory {
        /// # Safety
        /// `lane` must be valid for reads and writes as a `LaneHeader`, `area` for `len` bytes and
        /// 16-aligned, both for as long as `owner` lives; no reference to any of these bytes may
        /// exist except to the atomics of the lane.
        pub(crate) unsafe fn new(
            lane: NonNull<LaneHeader>,
            area: NonNull<u8>,
            len: u64,
            owner: Arc<dyn Any + Send + Sync>,
        ) -> Memory {
            assert!(area.addr().get().is_multiple_of(16) && lane.is_aligned());
            Memory { lane, area, len, _owner: owner }
        }

        /// A lane on the heap, all zero: for tests, fuzzing and Miri.
        #[cfg(any(test, fuzzing))]
        pub(crate) fn on_heap(len: u64) -> Memory {
            let header = Box::leak(Box::<LaneHeader>::default());
            let words = vec![0u128; usize::try_from(len / 16).expect("a test's area is small")];
            let area = Box::leak(words.into_boxed_slice());
            let count = area.len();
            let lane = NonNull::from(header);
            let first = NonNull::from(area).cast::<u128>();
            let owner = Arc::new(HeapLane { lane, first, count });
            // SAFETY: both allocations are freed by `owner`'s drop only, and `u128` is 16-aligned.
            unsafe { Memory::new(lane, first.cast(), len, owner) }
        }

        #[inline]
        pub(crate) fn lane(&self) -> &LaneHeader {
            // SAFETY: (bounds) valid while the owner lives, which `self` keeps; all its fields are
            // atomics, so a shared reference is right even if another process writes.
            unsafe { self.lane.as_ref() }
        }

        /// Writes a record's header.
        #[inline]
        pub(crate) fn write_header(&self, offset: u64, words: [u64; 2]) {
            let [first, second] = self.header(offset);
            // Relaxed: published by the tail that follows.
            first.store(words[0], Ordering::Relaxed);
            second.store(words[1], Ordering::Relaxed);
        }

        /// Reads a record's header, each word once.
        #[inline]
        pub(crate) fn read_header(&self, offset: u64) -> [u64; 2] {
            // Relaxed: ordered by the tail that was loaded before.
            self.header(offset).map(|word| word.load(Ordering::Relaxed))
        }

        /// Where `len` bytes from `offset` are, for their owner at the moment.
        ///
        /// # Panics
        /// If they are outside the area: the cursor arithmetic would be wrong.
        #[inline]
        pub(crate) fn bytes(&self, offset: u64, len: u64) -> NonNull<u8> {
            assert!(offset <= self.len && len <= self.len - offset, "outside the area");
            // SAFETY: (bounds) just checked.
            unsafe { self.area.add(offset as usize) }
        }

        /// The two words of a header.
        #[inline]
        fn header(&self, offset: u64) -> [&AtomicU64; 2] {
            let at = self.bytes(offset, 16);
            debug_assert!(at.cast::<u64>().is_aligned());
            // SAFETY: (bounds) `bytes` checked both words; offsets of headers are multiples of 16.
            unsafe { header_at(at) }
        }
    }

    /// A lane's memory, and contiguous bytes of its area that were checked at once for the records
    /// to come.
    ///
    /// INVARIANT (window): `left` bytes from `at` lie inside the area of `memory`; both are
    /// multiples of 16.
    pub(crate) struct Window {
        memory: Memory,
        at: NonNull<u8>,
        left: u64,
    }

    // SAFETY: (window) `at` is a place in `memory`, which is Send.
    unsafe impl Send for Window {}

    impl Window {
        /// No bytes yet.
        pub(crate) fn new(memory: Memory) -> Window {
            Window { at: memory.area, left: 0, memory }
        }

        #[inline(always)]
        pub(crate) fn memory(&self) -> &Memory {
            &self.memory
        }

        /// From now on `len` bytes from `offset`.
        ///
        /// # Panics
        /// If they are outside the area or do not begin and end with a record.
        pub(crate) fn open(&mut self, offset: u64, len: u64) {
            assert!(offset.is_multiple_of(16) && len.is_multiple_of(16), "not whole records");
            self.at = self.memory.bytes(offset, len);
            self.left = len;
        }

        #[inline(always)]
        pub(crate) fn close(&mut self) {
            self.left = 0;
        }

        #[inline(always)]
        pub(crate) fn left(&self) -> u64 {
            self.left
        }

        /// Steps over a record; closes if that goes beyond the end.
        #[inline(always)]
        pub(crate) fn advance(&mut self, record: u64) {
            debug_assert!(record.is_multiple_of(16));
            if record <= self.left {
                // SAFETY: (window) just compared with what is left.
                self.at = unsafe { self.at.add(record as usize) };
                self.left -= record;
            } else {
                self.left = 0;
            }
        }

        /// The place of the next record, if it is not longer than what is left.
        #[inline(always)]
        pub(crate) fn grant(&self, record: u64) -> Option<Grant<'_>> {
            debug_assert!(record >= 16 && record.is_multiple_of(16));
            let grant = Grant { at: self.at, len: record, _window: PhantomData };
            (record <= self.left).then_some(grant)
        }

        /// Reads the header of the next record, each word once.
        ///
        /// # Panics
        /// If the window is closed.
        #[inline(always)]
        fn read_header(&self) -> [u64; 2] {
            // Relaxed: ordered by the tail that was loaded before.
            assert!(self.left >= 16, "a closed window");
            // SAFETY: (window) just compared with what is left.
            unsafe { header_at(self.at) }.map(|word| word.load(Ordering::Relaxed))
        }

        /// The next record, if it is a message with its payload behind the header and nothing
        /// attached, and takes no more than `known` bytes. Each word of its header is read once.
        #[inline(always)]
        pub(crate) fn plain(&self, known: u64) -> Option<Plain<'_>> {
            if self.left < HEADER_LEN {
                return None;
            }
            let words @ [header, _] = self.read_header();
            if !Header::is_plain(words) {
                return None;
            }
            let record = record_len(u64::from(header as u32));
            if record > known || record > self.left {
                return None;
            }
            Some(Plain { at: self.at, record, header, _window: PhantomData })
        }

        /// Where the next `len` bytes are.
        ///
        /// # Panics
        /// If the window does not hold them.
        #[inline(always)]
        pub(crate) fn bytes(&self, len: u64) -> NonNull<u8> {
            assert!(len <= self.left, "outside the window");
            self.at
        }

        /// The payload of the next record, and bytes without meaning, if it is a short message.
        ///
        /// # Panics
        /// If the window is closed.
        pub(crate) fn short_word(&self) -> u64 {
            self.read_header()[1]
        }

        /// The header of the next record, with its payload, if it is a short message. Each word is
        /// read once.
        #[inline(always)]
        pub(crate) fn short(&self) -> Option<[u64; 2]> {
            if self.left < HEADER_LEN {
                return None;
            }
            let words = self.read_header();
            Header::is_short_message(words[0]).then_some(words)
        }

        /// Writes the header of the next record, and steps over it, if there is room: all of a
        /// short message. Returns whether there was.
        #[inline(always)]
        pub(crate) fn push(&mut self, words: [u64; 2]) -> bool {
            if self.left < HEADER_LEN {
                return false;
            }
            let at = self.at;
            self.advance(HEADER_LEN);
            // SAFETY: (window) just compared with what was left.
            let [first, second] = unsafe { header_at(at) };
            // Relaxed: published by the tail that follows.
            first.store(words[0], Ordering::Relaxed);
            second.store(words[1], Ordering::Relaxed);
            true
        }

        /// Where the `len` payload bytes of the next record are.
        ///
        /// # Panics
        /// If the window does not hold them.
        #[inline(always)]
        pub(crate) fn payload(&self, len: u64) -> NonNull<u8> {
            assert!(self.left >= 16 && len <= self.left - 16, "outside the window");
            // SAFETY: (window) just compared with what is left.
            unsafe { self.at.add(16) }
        }
    }

    /// A place for one record in a window.
    ///
    /// INVARIANT (grant): `len` bytes from `at` lie inside the area of a memory that is borrowed
    /// for `'w`; both are multiples of 16, and `len` is at least 16.
    #[derive(Clone, Copy)]
    pub(crate) struct Grant<'w> {
        at: NonNull<u8>,
        len: u64,
        _window: PhantomData<&'w Window>,
    }

    impl Grant<'_> {
        /// Bytes of the record, header included.
        #[inline(always)]
        pub(crate) fn len(&self) -> u64 {
            self.len
        }

        /// Bytes of the payload.
        #[inline(always)]
        pub(crate) fn payload_len(&self) -> u64 {
            self.len - HEADER_LEN
        }

        /// Where the payload goes.
        #[inline(always)]
        pub(crate) fn payload(&self) -> NonNull<u8> {
            // SAFETY: (grant).
            unsafe { self.at.add(16) }
        }

        /// Where the payload of a short message goes: eight bytes of the header.
        #[inline(always)]
        pub(crate) fn short_payload(&self) -> NonNull<u8> {
            // SAFETY: (grant).
            unsafe { self.at.add(8) }
        }

        /// Writes the header of a short message of `len` bytes, whose payload is there already;
        /// returns the record's length.
        #[inline(always)]
        pub(crate) fn seal_written_short(&self, len: u32, format: Format) -> u64 {
            // SAFETY: (grant).
            let [first, _] = unsafe { header_at(self.at) };
            // Relaxed: published by the tail that follows.
            first.store(Header::short(len, format), Ordering::Relaxed);
            HEADER_LEN
        }

        /// Wipes what was written there of a message that is not short.
        #[cold]
        pub(crate) fn wipe_short(&self) {
            // SAFETY: (grant).
            let [_, second] = unsafe { header_at(self.at) };
            // Relaxed: the bytes are the producer's.
            second.store(0, Ordering::Relaxed);
        }

        /// Writes the header of a plain message of `len` bytes; returns the record's length.
        ///
        /// # Panics
        /// If the record is longer than the grant.
        #[inline(always)]
        pub(crate) fn seal(&self, len: u64, format: Format) -> u64 {
            let record = record_len(len);
            assert!(record <= self.len, "a record outgrew its grant");
            let words = Header::plain(len as u32, format);
            // SAFETY: (grant).
            let [first, second] = unsafe { header_at(self.at) };
            // Relaxed: published by the tail that follows.
            first.store(words[0], Ordering::Relaxed);
            second.store(words[1], Ordering::Relaxed);
            record
        }
    }

    /// A message in a window, with its payload behind the header and nothing attached.
    ///
    /// INVARIANT (plain): `record` bytes from `at` lie inside the area of a memory that is borrowed
    /// for `'w`; both are multiples of 16, and `record` is at least 16, and what the length in
    /// `header` takes.
    #[derive(Clone, Copy)]
    pub(crate) struct Plain<'w> {
        at: NonNull<u8>,
        record: u64,
        header: u64,
        _window: PhantomData<&'w Window>,
    }

    impl Plain<'_> {
        /// The first word of its header, with length and format.
        #[inline(always)]
        pub(crate) fn header(&self) -> u64 {
            self.header
        }

        /// Bytes of the record.
        #[inline(always)]
        pub(crate) fn record(&self) -> u64 {
            self.record
        }

        /// Bytes of the payload after the header, padding included.
        #[inline(always)]
        pub(crate) fn padded_len(&self) -> u64 {
            self.record - HEADER_LEN
        }

        /// Where the payload is.
        #[inline(always)]
        pub(crate) fn payload(&self) -> NonNull<u8> {
            // SAFETY: (plain).
            unsafe { self.at.add(16) }
        }
    }

    /// The two words of a header.
    ///
    /// # Safety
    /// 16 bytes from `at` must lie inside an area for `'a`, and `at` must be 16-aligned.
    #[inline(always)]
    unsafe fn header_at<'a>(at: NonNull<u8>) -> [&'a AtomicU64; 2] {
        let first = at.cast::<u64>();
        // SAFETY: upheld by the caller, see `# Safety`.
        let second = unsafe { first.add(1) };
        // SAFETY: upheld by the caller; the words are only ever accessed as atomic words, or as
        // payload bytes by the end that owns them.
        [first, second].map(|word| unsafe { AtomicU64::from_ptr(word.as_ptr()) })
    }

    impl fmt::Debug for Window {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Window { memory, at: _, left } = self;
            f.debug_struct("Window").field("memory", memory).field("left", left).finish()
        }
    }

    impl fmt::Debug for Memory {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Memory").field("lane", self.lane()).field("len", &self.len).finish()
        }
    }

    #[cfg(any(test, fuzzing))]
    struct HeapLane {
        lane: NonNull<LaneHeader>,
        first: NonNull<u128>,
        count: usize,
    }

    // SAFETY: it only frees the two allocations; what they hold is accessed through `Memory`.
    #[cfg(any(test, fuzzing))]
    unsafe impl Send for HeapLane {}
    // SAFETY: it has no method at all.
    #[cfg(any(test, fuzzing))]
    unsafe impl Sync for HeapLane {}

    #[cfg(any(test, fuzzing))]
    impl Drop for HeapLane {
        fn drop(&mut self) {
            let area = std::ptr::slice_from_raw_parts_mut(self.first.as_ptr(), self.count);
            // SAFETY: leaked from a box in `on_heap`, and freed here once.
            drop(unsafe { Box::from_raw(self.lane.as_ptr()) });
            // SAFETY: the same, with the length it had.
            drop(unsafe { Box::from_raw(area) });
        }
    }
}

#[cfg(messageport_loom)]
mod modelled {
    use crate::wire::layout::LaneHeader;
    use crate::wire::record::{Format, HEADER_LEN, Header, record_len};
    use loom::cell::UnsafeCell;
    use std::marker::PhantomData;
    // Not loom's: a model that fails unwinds outside of loom, where its `Arc` must not be dropped.
    use std::sync::Arc;

    /// A lane of values. One cell holds a 16-byte unit: a header, or a payload unit.
    #[derive(Clone, Debug)]
    pub(crate) struct Memory {
        lane: Arc<LaneHeader>,
        units: Arc<Vec<UnsafeCell<[u64; 2]>>>,
    }

    impl Memory {
        pub(crate) fn on_heap(len: u64) -> Memory {
            Memory {
                lane: Arc::new(LaneHeader::default()),
                units: Arc::new((0..len / 16).map(|_| UnsafeCell::new([0; 2])).collect()),
            }
        }

        pub(crate) fn lane(&self) -> &LaneHeader {
            &self.lane
        }

        pub(crate) fn write_header(&self, offset: u64, words: [u64; 2]) {
            self.write_unit(offset, words);
        }

        pub(crate) fn read_header(&self, offset: u64) -> [u64; 2] {
            self.read_unit(offset)
        }

        /// Writes 16 bytes, of a header or of payload.
        pub(crate) fn write_unit(&self, offset: u64, words: [u64; 2]) {
            // SAFETY: the pointer is loom's, valid inside the closure; loom reports a conflict.
            self.units[offset as usize / 16].with_mut(|unit| unsafe { *unit = words });
        }

        /// Reads 16 bytes, of a header or of payload.
        pub(crate) fn read_unit(&self, offset: u64) -> [u64; 2] {
            // SAFETY: the pointer is loom's, valid inside the closure; loom reports a conflict.
            self.units[offset as usize / 16].with(|unit| unsafe { *unit })
        }
    }

    /// A lane, and contiguous units of it.
    #[derive(Debug)]
    pub(crate) struct Window {
        memory: Memory,
        offset: u64,
        left: u64,
    }

    impl Window {
        pub(crate) fn new(memory: Memory) -> Window {
            Window { memory, offset: 0, left: 0 }
        }

        pub(crate) fn memory(&self) -> &Memory {
            &self.memory
        }

        pub(crate) fn open(&mut self, offset: u64, len: u64) {
            (self.offset, self.left) = (offset, len);
        }

        pub(crate) fn close(&mut self) {
            self.left = 0;
        }

        pub(crate) fn left(&self) -> u64 {
            self.left
        }

        pub(crate) fn advance(&mut self, record: u64) {
            if record <= self.left {
                (self.offset, self.left) = (self.offset + record, self.left - record);
            } else {
                self.left = 0;
            }
        }

        pub(crate) fn grant(&self, record: u64) -> Option<Grant<'_>> {
            let grant = Grant { memory: &self.memory, offset: self.offset, len: record };
            (record <= self.left).then_some(grant)
        }

        pub(crate) fn offset(&self) -> u64 {
            self.offset
        }

        pub(crate) fn short(&self) -> Option<[u64; 2]> {
            let words = (self.left >= HEADER_LEN).then(|| self.memory.read_unit(self.offset))?;
            Header::is_short_message(words[0]).then_some(words)
        }

        pub(crate) fn push(&mut self, words: [u64; 2]) -> bool {
            if self.left < HEADER_LEN {
                return false;
            }
            self.memory.write_unit(self.offset, words);
            self.advance(HEADER_LEN);
            true
        }

        pub(crate) fn plain(&self, known: u64) -> Option<Plain<'_>> {
            if self.left < HEADER_LEN {
                return None;
            }
            let words @ [header, _] = self.memory.read_unit(self.offset);
            if !Header::is_plain(words) {
                return None;
            }
            let record = record_len(u64::from(header as u32));
            let is_whole = record <= known && record <= self.left;
            is_whole.then_some(Plain { record, header, _window: PhantomData })
        }
    }

    /// A message in a window, to which nothing is attached.
    pub(crate) struct Plain<'w> {
        record: u64,
        header: u64,
        _window: PhantomData<&'w Window>,
    }

    impl Plain<'_> {
        pub(crate) fn header(&self) -> u64 {
            self.header
        }

        pub(crate) fn record(&self) -> u64 {
            self.record
        }
    }

    /// A place for one record in a window.
    pub(crate) struct Grant<'w> {
        memory: &'w Memory,
        offset: u64,
        len: u64,
    }

    impl Grant<'_> {
        pub(crate) fn len(&self) -> u64 {
            self.len
        }

        pub(crate) fn seal(&self, len: u64, format: Format) -> u64 {
            self.memory.write_unit(self.offset, Header::plain(len as u32, format));
            record_len(len)
        }
    }
}
