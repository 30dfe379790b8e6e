//! Fills a fresh buffer from its first byte to its last, and allocates its memory on the way.

use super::mapped::{Mapped, whole_huge_pages};
use super::{Buffer, Fresh, MOST_SMALL, Memory, SmallBytes};
use super::{check_file_size, map_fresh, populate};
use crate::error::{BufferError, SystemError};
use crate::os::{mapping, memfd};
use memmap2::MmapMut;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;

/// Fills a fresh [`Buffer`] from its first byte to its last; made by [`Buffer::writer`].
///
/// Allocating memory while it is filled is cheaper than before: the kernel does not zero a page of
/// 4 KiB that is written whole, and a huge page is filled while it is still in the processor's
/// cache. Making and filling 1 MiB takes about 360 µs, where [`Buffer::new`] and
/// [`bytes_mut`](Buffer::bytes_mut) take 750 µs (pages of 4 KiB, AMD EPYC, 2026-12-02). With huge
/// pages, 1 MiB takes as long as with them, some 80 µs, and 33 MB 5 to 20 % less.
///
/// Copied bytes come by [`Write`]. A program that computes the bytes writes them in place:
/// [`chunk_mut`](Self::chunk_mut) lends the next part, and [`advance`](Self::advance) counts what
/// was filled of it.
///
/// Only this process has the memory meanwhile, so no peer has any influence. Running out of memory
/// is an error of the call that needs it. Dropping the writer frees the memory.
/// After a bare `fork` the child must not use its copy of the writer, except to drop it: both would
/// write to one file.
///
/// ```
/// use messageport::Buffer;
/// use std::io::Write;
///
/// let mut writer = Buffer::writer(11)?;
/// writer.write_all(b"hello ")?;
/// let chunk = writer.chunk_mut()?;
/// chunk[..5].copy_from_slice(b"world");
/// writer.advance(5);
/// assert_eq!(&*writer.finish()?, b"hello world");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct BufferWriter {
    capacity: usize,
    /// The file, and all of it; `None` for a small buffer, which is filled in the chunk.
    file: Option<(OwnedFd, Mapped<MmapMut>)>,
    has_huge_pages: bool,
    /// Without huge pages: bytes from `ready` on, until they are written to the file. Empty before
    /// it is first used.
    chunk: Vec<u8>,
    /// With huge pages how many bytes have memory, without how many are in the file.
    ready: usize,
    /// Bytes that were filled; with huge pages at most `ready`, without at least `ready`.
    written: usize,
}

impl BufferWriter {
    pub(super) fn new(capacity: usize) -> Result<BufferWriter, BufferError> {
        let (mut file, mut has_huge_pages) = (None, false);
        if capacity > MOST_SMALL {
            let fresh = Fresh::new(capacity)?;
            has_huge_pages = fresh.has_huge_pages;
            file = Some((fresh.descriptor, fresh.bytes));
        }
        Ok(BufferWriter { capacity, file, has_huge_pages, chunk: Vec::new(), ready: 0, written: 0 })
    }

    /// The most bytes that the buffer can have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that were filled so far.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Lends the next part of the buffer, to be filled in place.
    ///
    /// It has up to 256 KiB, or 2 MiB with huge pages, and is empty only if the buffer is full. Its
    /// bytes have no meaning before they are filled. Call [`advance`](Self::advance) afterwards;
    /// without it, the next call lends the same part.
    ///
    /// # Errors
    /// [`BufferError::Io`] if the kernel refuses for lack of memory, and
    /// [`BufferError::TooLarge`] if `RLIMIT_FSIZE` has become lower since the writer was made and
    /// is below what was filled. Nothing is lost, so the call can be repeated.
    ///
    /// ```
    /// let mut writer = messageport::Buffer::writer(1 << 20)?;
    /// while writer.written() < writer.capacity() {
    ///     let chunk = writer.chunk_mut()?;
    ///     chunk.fill(7);
    ///     let len = chunk.len();
    ///     writer.advance(len);
    /// }
    /// assert!(writer.finish()?.iter().all(|byte| *byte == 7));
    /// # Ok::<(), messageport::BufferError>(())
    /// ```
    pub fn chunk_mut(&mut self) -> Result<&mut [u8], BufferError> {
        let capacity = self.capacity;
        if self.written == capacity {
            return Ok(&mut []);
        }
        if self.has_huge_pages {
            let (_, bytes) = self.file.as_mut().expect("huge pages are those of a file");
            if self.written == self.ready {
                let end = capacity.min(self.ready + mapping::HUGE_PAGE as usize);
                populate(bytes.pages(), self.ready..end)?;
                self.ready = end;
            }
            return Ok(&mut bytes[self.written..self.ready]);
        }
        if self.chunk.is_empty() {
            self.allocate_chunk(CHUNK.min(capacity - self.ready))?;
        }
        if self.written - self.ready == self.chunk.len() {
            self.write_chunk()?;
        }
        let end = self.chunk.len().min(capacity - self.ready);
        Ok(&mut self.chunk[self.written - self.ready..end])
    }

    /// Counts bytes as filled: the first `len` of what [`chunk_mut`](Self::chunk_mut) has lent.
    ///
    /// # Panics
    /// If `len` is more than that.
    pub fn advance(&mut self, len: usize) {
        let lent = match self.has_huge_pages {
            true => self.ready - self.written,
            false => self.chunk.len().min(self.capacity - self.ready) - self.in_chunk(),
        };
        assert!(len <= lent, "{len} bytes were filled, but only {lent} were lent by `chunk_mut`");
        self.written += len;
    }

    /// Makes the buffer, of the bytes that were filled.
    ///
    /// If they are fewer than [`capacity`](Self::capacity), the buffer is shorter, as a vector is
    /// that was made with room for more. The buffer is not sealed yet: it can be changed by
    /// [`bytes_mut`](Buffer::bytes_mut) until it is posted.
    ///
    /// # Errors
    /// [`BufferError::Io`] if the kernel refuses for lack of memory or address space, and
    /// [`BufferError::TooLarge`] as [`chunk_mut`](Self::chunk_mut). The bytes are lost then.
    pub fn finish(mut self) -> Result<Buffer, BufferError> {
        let filled = if self.has_huge_pages { self.mapped() } else { &self.chunk[..] };
        if self.written <= MOST_SMALL {
            // Nothing was written to the file: a chunk has room for more.
            return Ok(Buffer::small(SmallBytes::copy_of(&filled[..self.written])?, false));
        }
        self.write_chunk()?;
        let (descriptor, mut bytes) = self.file.expect("only a small buffer has no file");
        if self.written < self.capacity {
            let mut len = self.written as u64;
            if self.has_huge_pages {
                // What was lent, and not counted as filled, must not reach the peer.
                bytes.shorten(self.written, self.ready);
                len = whole_huge_pages(len).unwrap_or(len);
            }
            // Nothing may be mapped behind the end of the file: touching it raises a signal.
            drop(bytes);
            memfd::set_len(&descriptor, len)?;
            bytes = Mapped::new(map_fresh(&descriptor, len as usize)?, self.written);
        }
        Ok(Buffer::of(Memory::Fresh(bytes), descriptor, false))
    }

    /// All of the file; nothing for a small buffer.
    fn mapped(&self) -> &[u8] {
        self.file.as_ref().map_or(&[], |(_, bytes)| bytes)
    }

    /// Copies as many bytes as fit.
    pub(super) fn copy_from(&mut self, bytes: &[u8]) -> Result<(), BufferError> {
        let len = bytes.len().min(self.capacity - self.written);
        let mut rest = &bytes[..len];
        while !rest.is_empty() {
            let is_long = !self.has_huge_pages && rest.len() >= CHUNK;
            let copied = if is_long && self.in_chunk() == 0 {
                self.write_past_chunk(rest)?
            } else {
                let chunk = self.chunk_mut()?;
                let copied = rest.len().min(chunk.len());
                chunk[..copied].copy_from_slice(&rest[..copied]);
                self.advance(copied);
                copied
            };
            rest = &rest[copied..];
        }
        Ok(())
    }

    fn allocate_chunk(&mut self, len: usize) -> Result<(), SystemError> {
        if self.chunk.try_reserve_exact(len).is_err() {
            return Err(SystemError { call: "malloc", source: ErrorKind::OutOfMemory.into() });
        }
        self.chunk.resize(len, 0);
        Ok(())
    }

    /// Writes bytes past the chunk, which holds none.
    fn write_past_chunk(&mut self, bytes: &[u8]) -> Result<usize, BufferError> {
        self.write_to_file(bytes)?;
        self.ready += bytes.len();
        self.written = self.ready;
        Ok(bytes.len())
    }

    /// Writes what is in the chunk, if anything, and makes it empty.
    fn write_chunk(&mut self) -> Result<(), BufferError> {
        let len = self.in_chunk();
        self.write_to_file(&self.chunk[..len])?;
        self.ready += len;
        Ok(())
    }

    fn write_to_file(&self, bytes: &[u8]) -> Result<(), BufferError> {
        let Some((descriptor, _)) = &self.file else {
            unreachable!("the chunk holds all of a small buffer");
        };
        if bytes.is_empty() {
            return Ok(());
        }
        // The limit may have become lower since the file was made, and each write is checked.
        check_file_size(self.ready + bytes.len())?;
        Ok(memfd::write_all(descriptor, bytes, self.ready as u64)?)
    }

    /// Bytes that are in the chunk only.
    fn in_chunk(&self) -> usize {
        self.written.saturating_sub(self.ready)
    }
}

/// Copies bytes behind those that were filled.
///
/// A write that does not fit copies what fits. Once the buffer is full, a write of any byte is
/// [`BufferError::Full`], as an error of the kind [`WriteZero`](ErrorKind::WriteZero).
impl Write for BufferWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.written;
        match self.copy_from(bytes) {
            Ok(()) => {}
            Err(error) if self.written == before => return Err(error.into()),
            // What was copied before is there; the next write fails.
            Err(_) => {}
        }
        match self.written - before {
            0 if !bytes.is_empty() => Err(BufferError::Full { capacity: self.capacity }.into()),
            copied => Ok(copied),
        }
    }

    /// Does nothing: no other code sees the bytes before [`finish`](BufferWriter::finish).
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for BufferWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferWriter")
            .field("capacity", &self.capacity)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

/// Bytes that are gathered for one call of the kernel: they stay in a core's own cache.
const CHUNK: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::reaper::Foreign;

    /// A writer that fills the mapping of whole huge pages, whatever pages the kernel has.
    fn in_place(len: usize) -> BufferWriter {
        let mut writer = BufferWriter::new(len).expect("memory");
        writer.has_huge_pages = writer.file.is_some();
        let whole = whole_huge_pages(len as u64).unwrap_or(len as u64);
        if let Some((file, bytes)) = &mut writer.file {
            memfd::set_len(&*file, whole).expect("memory");
            *bytes = Mapped::new(map_fresh(file, whole as usize).expect("memory"), len);
        }
        writer
    }

    fn file_len(buffer: &Buffer) -> u64 {
        memfd::examine(buffer.as_fd().expect("it is sealed")).expect("a file").len
    }

    #[test]
    fn what_is_filled_in_the_mapping_is_what_the_buffer_holds() {
        let bytes: Vec<u8> = (0..5_000_001).map(|at| (at * 31 + at / 256) as u8).collect();
        for len in [0, 1, 4097, 2 << 20, (2 << 20) + 1, 5_000_001] {
            for step in [4095, 300_000, 3 << 20] {
                let mut writer = in_place(len);
                for part in bytes[..len].chunks(step) {
                    writer.write_all(part).expect("room");
                }
                assert!(writer.write(b"x").is_err(), "it is full");
                let buffer = writer.finish().expect("memory");
                assert!(*buffer == bytes[..len]);
                if let Some(file) = buffer.file.descriptor.get() {
                    assert!(memfd::allocated(file).expect("a file") >= len as u64);
                }
            }
        }
    }

    #[test]
    fn a_buffer_of_whole_huge_pages_moves_and_has_its_own_length() {
        for (len, whole) in [(1 << 20, 2 << 20), ((2 << 20) + 1, 4 << 20), (4 << 20, 4 << 20)] {
            let mut writer = in_place(len);
            writer.write_all(&vec![7; len]).expect("room");
            let mut buffer = writer.finish().expect("memory");
            assert_eq!(buffer.bytes_mut().expect("a fresh buffer").len(), len);
            buffer.seal().expect("the kernel seals it");
            assert_eq!(file_len(&buffer), whole);
            assert!(buffer.len() == len && buffer.iter().all(|byte| *byte == 7));
            let import = |len| {
                let file = buffer.as_fd().expect("it is sealed").try_clone_to_owned();
                Buffer::import(Foreign::new(file.expect("a descriptor"), None), len, false)
            };
            let arrived = import(len as u64).expect("an honest buffer");
            assert!(*arrived == *buffer);
            let mut private = arrived.into_mut().expect("memory");
            private.fill(8);
            assert_eq!(private.len(), len);
            // No other length has this file.
            for wrong in [0, (1 << 20) - 1, len as u64 + (2 << 20), whole + 1] {
                let (error, _) = import(wrong).expect_err("another length");
                assert!(error.to_string().contains("another length"), "{wrong}: {error}");
            }
        }
    }

    #[test]
    fn what_was_lent_and_not_filled_does_not_move() {
        for filled in [5000, 1 << 20, (2 << 20) - 1, 2 << 20, (2 << 20) + 1] {
            let mut writer = in_place(5 << 20);
            let mut rest = filled;
            while rest > 0 {
                let chunk = writer.chunk_mut().expect("memory");
                chunk.fill(7);
                let len = rest.min(chunk.len());
                writer.advance(len);
                rest -= len;
            }
            let mut buffer = writer.finish().expect("memory");
            buffer.seal().expect("the kernel seals it");
            assert!(buffer.len() == filled && buffer.iter().all(|byte| *byte == 7));
            let whole = Buffer::from_fd(buffer.as_fd().expect("it is sealed")).expect("a memfd");
            assert!(whole[filled..].iter().all(|byte| *byte == 0), "{filled}");
            assert_eq!(
                whole.len() as u64,
                whole_huge_pages(filled as u64).unwrap_or(filled as u64)
            );
        }
    }

    #[test]
    fn parts_of_the_mapping_are_lent_one_after_the_other() {
        let mut writer = in_place(5 << 20);
        let mut lens = Vec::new();
        while writer.written() < writer.capacity() {
            let chunk = writer.chunk_mut().expect("memory");
            chunk.fill(7);
            lens.push(chunk.len());
            writer.advance(lens[lens.len() - 1]);
        }
        assert_eq!(lens, [2 << 20, 2 << 20, 1 << 20]);
        assert!(writer.finish().expect("memory").iter().all(|byte| *byte == 7));
    }

    /// Counts what was lent in two parts, and one byte more, which is refused.
    fn count_lent(writer: &mut BufferWriter, first: usize, lent: usize) {
        assert_eq!(writer.chunk_mut().expect("memory").len(), lent);
        let before = writer.written();
        writer.advance(first);
        let more = std::panic::AssertUnwindSafe(|| writer.advance(lent - first + 1));
        assert!(std::panic::catch_unwind(more).is_err(), "one byte was not lent");
        writer.advance(lent - first);
        assert_eq!(writer.written(), before + lent);
    }

    #[test]
    fn no_more_is_counted_than_was_lent() {
        let mut writer = in_place(3 << 20);
        count_lent(&mut writer, 1 << 20, 2 << 20);
        count_lent(&mut writer, 5, 1 << 20);
        let mut writer = BufferWriter::new(300_000).expect("memory");
        assert!(!writer.has_huge_pages, "it is too short");
        count_lent(&mut writer, 100, CHUNK);
        count_lent(&mut writer, 5, 300_000 - CHUNK);
    }

    #[test]
    fn a_write_that_fails_midway_tells_how_far_it_came() {
        let mut writer = BufferWriter::new(600_000).expect("memory");
        writer.write_all(&[7; 10]).expect("room");
        let (file, _) = writer.file.as_ref().expect("a file");
        // From now on the kernel refuses each write to it.
        memfd::seal_for_others(file).expect("seals");
        assert_eq!(writer.write(&[7; 300_000]).expect("a part"), CHUNK - 10);
        assert!(writer.write(&[7]).is_err() && writer.written() == CHUNK);
    }

    #[test]
    fn few_bytes_in_a_large_mapping_are_a_small_buffer() {
        let mut writer = in_place(5 << 20);
        writer.write_all(&[7; 100]).expect("room");
        let buffer = writer.finish().expect("memory");
        assert_eq!(buffer.small_bytes(), Some(&[7; 100][..]));
    }

    #[test]
    fn a_short_buffer_is_mapped_anew_and_has_no_page_behind_its_end() {
        let mut writer = in_place(5 << 20);
        writer.write_all(&[7; 10_000]).expect("room");
        let mut buffer = writer.finish().expect("memory");
        buffer.seal().expect("the kernel seals it");
        assert_eq!(buffer.len(), 10_000);
        assert_eq!(memfd::allocated(buffer.file.file()).expect("a file"), 12_288);
        assert!(buffer.iter().all(|byte| *byte == 7));
    }
}
