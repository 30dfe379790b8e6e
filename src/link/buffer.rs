//! Memory that moves: filled by one process, sealed, then read in place by another.
//!
//! The kernel guarantees that no process can change a sealed memfd, not even the one that made it.
//! So its bytes are a plain `&[u8]` even if the peer is hostile: zero-copy and safe.
#![allow(unsafe_code)]

mod mapped;
mod small;
mod writer;

use crate::error::{BufferError, SystemError};
use crate::link::archive::{self, Receive};
use crate::link::payload::{self, Post, blocks_as_bytes};
use crate::os::reaper::Foreign;
use crate::os::{mapping, memfd};
use mapped::{Mapped, whole_huge_pages};
use memmap2::{Advice, Mmap, MmapMut, MmapOptions};
pub(crate) use small::{MOST_SMALL, SmallBytes};
use std::any::TypeId;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
pub use writer::BufferWriter;

/// Memory that moves to another process without a copy: the web's transferable `ArrayBuffer`.
///
/// A fresh buffer is filled in order by a [`BufferWriter`], which is the fastest way, or in any
/// order through [`bytes_mut`](Buffer::bytes_mut). Posting seals it: from then on no process can
/// change it, and the receiver reads it in place. A receiver that wants to write uses
/// [`into_mut`](Buffer::into_mut), which copies only the pages that it touches.
///
/// Use a buffer for data that is passed on, kept, or read in part, or that must not change while an
/// untrusted peer has it. Moving a buffer takes about 20 µs. Making it, and reading it in another
/// process, takes a page fault for each 4 KiB. For a payload that is made, sent and read once,
/// copying it through the ring is faster at every size, and a [`BufferPool`](crate::BufferPool) is
/// faster still. See the repository's `docs/performance.md`.
///
/// A small buffer, of at most 4 KiB, is private memory and not a file. A list of small buffers
/// alone, of up to 16 KiB together, moves inside its message: the receiver gets a copy, and no
/// system call is made. It is aligned to 16 bytes, a larger one to a page.
///
/// A clone of a sealed buffer is the same memory: one frame goes to several readers without a copy.
/// The memory is freed when the last process has dropped its last clone.
///
/// HTML: [`ArrayBuffer` transfer](https://html.spec.whatwg.org/#transferable-objects).
///
/// ```
/// use messageport::{Buffer, MessageChannel};
///
/// let channel = MessageChannel::new()?;
/// let mut buffer = Buffer::new(1 << 20)?;
/// buffer.bytes_mut()?[..5].copy_from_slice(b"image");
/// channel.port1.post_text_with("a frame", [buffer.into()])?;
///
/// let event = channel.port2.recv()?;
/// let buffer = event.take_buffer()?;
/// assert_eq!(&buffer[..5], b"image");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Buffer {
    /// INVARIANT (unshared): until it is frozen, this is the only pointer to it.
    file: Arc<File>,
}

/// The memory of a buffer and of its clones.
struct File {
    memory: Memory,
    /// Of a small buffer none before it is asked for.
    descriptor: OnceLock<OwnedFd>,
    is_frozen: bool,
    /// The type that the archive was found to be; sealed bytes stay valid.
    checked: OnceLock<TypeId>,
}

/// INVARIANT (alone): until the buffer is frozen, no other code has the descriptor.
/// INVARIANT (frozen): once it is, the kernel refuses every change of the bytes.
enum Memory {
    /// Being filled; never so once the buffer is frozen.
    Fresh(Mapped<MmapMut>),
    /// Final: frozen, or about to be.
    Final(Mapped<Mmap>),
    /// Of length 0, which cannot be mapped; it came from elsewhere.
    Nothing,
    /// Private bytes of this process. A descriptor, if there is one, has a copy of them.
    Small(SmallBytes),
}

impl Buffer {
    /// Creates a buffer of `len` zero bytes.
    ///
    /// All of its memory is allocated now, so running out of memory is an error here and not a
    /// signal later. That and filling it takes 700 to 800 µs per MiB with pages of 4 KiB, and 60 to
    /// 90 µs with huge ones (AMD EPYC, 2026-12-02). For bytes that come in order use
    /// [`writer`](Self::writer): with pages of 4 KiB it takes half the time. Where the kernel gives
    /// huge pages, a buffer of 1 MiB or more takes whole ones, up to 2 MiB more than `len`; less if
    /// `RLIMIT_FSIZE` or `RLIMIT_AS` leaves no room for them. A child of a bare `fork` does not
    /// have the memory of a buffer that is not small.
    ///
    /// # Errors
    /// [`BufferError::Io`] if the kernel refuses for lack of memory, address space or descriptors;
    /// [`BufferError::TooLarge`] if `RLIMIT_FSIZE` or `i64::MAX` is below `len`.
    pub fn new(len: usize) -> Result<Buffer, BufferError> {
        if len <= MOST_SMALL {
            return Ok(Buffer::small(SmallBytes::zeroed(len)?, false));
        }
        let Fresh { descriptor, bytes, .. } = Fresh::new(len)?;
        populate(bytes.pages(), 0..len)?;
        Ok(Buffer::of(Memory::Fresh(bytes), descriptor, false))
    }

    fn of(memory: Memory, descriptor: OwnedFd, is_frozen: bool) -> Buffer {
        let file =
            File { memory, descriptor: descriptor.into(), is_frozen, checked: OnceLock::new() };
        Buffer { file: Arc::new(file) }
    }

    pub(crate) fn small(bytes: SmallBytes, is_frozen: bool) -> Buffer {
        let (memory, descriptor, checked) =
            (Memory::Small(bytes), OnceLock::new(), OnceLock::new());
        Buffer { file: Arc::new(File { memory, descriptor, is_frozen, checked }) }
    }

    /// Creates a buffer with a copy of `bytes`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// ```
    /// let buffer = messageport::Buffer::from_slice(b"words")?;
    /// assert_eq!(&*buffer, b"words");
    /// # Ok::<(), messageport::BufferError>(())
    /// ```
    pub fn from_slice(bytes: &[u8]) -> Result<Buffer, BufferError> {
        if bytes.len() <= MOST_SMALL {
            return Ok(Buffer::small(SmallBytes::copy_of(bytes)?, false));
        }
        let mut writer = Buffer::writer(bytes.len())?;
        writer.copy_from(bytes)?;
        writer.finish()
    }

    /// Creates a writer for a fresh buffer of at most `len` bytes.
    ///
    /// Its memory is allocated while it is filled, which is cheaper than [`new`](Self::new) for
    /// bytes that come in order. See [`BufferWriter`].
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn writer(len: usize) -> Result<BufferWriter, BufferError> {
        BufferWriter::new(len)
    }

    /// Creates a buffer with the archive of `value`, to be read with [`access`](Self::access).
    ///
    /// It serialises twice: first to learn the length.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`BufferError::Serialize`] with the value's own error.
    ///
    /// ```
    /// let buffer = messageport::Buffer::archive(&vec![1u32, 2, 3])?;
    /// assert_eq!(buffer.access::<Vec<u32>>()?[2], 3);
    /// # Ok::<(), messageport::BufferError>(())
    /// ```
    pub fn archive<T: Post>(value: &T) -> Result<Buffer, BufferError> {
        let len = payload::serialize_to(value, &mut []).map_err(BufferError::Serialize)?;
        let mut buffer = Buffer::new(len)?;
        let again =
            payload::serialize_to(value, buffer.bytes_mut()?).map_err(BufferError::Serialize)?;
        if again != len {
            return Err(BufferError::LengthChanged { len, again });
        }
        Ok(buffer)
    }

    /// Reads memory that was made elsewhere, without a copy: all bytes of a memfd.
    ///
    /// Seals it, unless it is sealed, so no process can write to it afterwards. Allocates what is
    /// not allocated of it. Duplicates the descriptor. Unmap it before: while a process has it
    /// mapped for writing, the call waits for up to two seconds, and fails then.
    ///
    /// Memory that is not sealed yet should have come from code that you trust: any process that
    /// has it can keep this call from returning, as sealing waits for the file's lock. Memory that
    /// is sealed when it comes is checked as what a hostile peer sends, without a lock.
    ///
    /// # Errors
    /// [`BufferError::Unsuitable`] if it is no memfd on tmpfs, if it cannot be sealed, or if it is
    /// sealed and reading it would allocate memory. [`BufferError::Io`] if the kernel refuses for
    /// lack of memory, address space or descriptors. It may be sealed then, and keeps the memory
    /// that was allocated before the lack.
    ///
    /// Source: [memfd_create(2)](https://man7.org/linux/man-pages/man2/memfd_create.2.html).
    ///
    /// ```
    /// use messageport::Buffer;
    /// use nix::sys::memfd::{MFdFlags, memfd_create};
    /// use std::fs::File;
    /// use std::io::Write;
    ///
    /// let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC;
    /// let mut file = File::from(memfd_create("frame", flags)?);
    /// file.write_all(b"pixels")?;
    /// let buffer = Buffer::from_fd(&file)?;
    /// assert_eq!(&*buffer, b"pixels");
    /// assert!(file.write_all(b"more").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_fd(descriptor: impl AsFd) -> Result<Buffer, BufferError> {
        let descriptor = descriptor
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| SystemError { call: "fcntl(F_DUPFD_CLOEXEC)", source })?;
        let len = memfd::adopt(&descriptor)?;
        match map_foreign(&descriptor, len, false) {
            Ok(memory) => Ok(Buffer::of(memory, descriptor, true)),
            Err(BufferError::Refused { what }) => Err(BufferError::Unsuitable { what }),
            Err(error) => Err(error),
        }
    }

    /// Borrows the archived form of `T` in the buffer, after checking it.
    ///
    /// A sealed buffer is checked by the first call only, any other buffer by each call.
    ///
    /// # Errors
    /// [`BufferError::Invalid`] if the bytes are not a valid archive of a `T`.
    pub fn access<T>(&self) -> Result<&T::Archived, BufferError>
    where
        T: Receive<Archived: 'static>,
    {
        let archived = TypeId::of::<T::Archived>();
        if self.file.checked.get() == Some(&archived) {
            // SAFETY: they were found valid as this type, and sealed bytes do not change.
            return Ok(unsafe { archive::access_unchecked::<T::Archived>(self) });
        }
        let value = archive::access::<T>(self).map_err(|source| BufferError::Invalid {
            expected: std::any::type_name::<T>(),
            source,
        })?;
        if self.is_sealed() {
            // Another type may have been the first; that one stays remembered.
            let _ = self.file.checked.set(archived);
        }
        Ok(value)
    }

    /// Borrows the bytes for writing.
    ///
    /// # Errors
    /// [`BufferError::Sealed`] if the buffer was received or sealed, or was posted before, even if
    /// that post failed.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], BufferError> {
        // With clones, it is frozen.
        let Some(file) = Arc::get_mut(&mut self.file) else { return Err(BufferError::Sealed) };
        match &mut file.memory {
            Memory::Fresh(bytes) => Ok(bytes),
            Memory::Small(bytes) if !file.is_frozen => Ok(bytes),
            Memory::Small(_) | Memory::Nothing | Memory::Final(_) => Err(BufferError::Sealed),
        }
    }

    /// Whether the bytes can never change again.
    pub fn is_sealed(&self) -> bool {
        self.file.is_frozen
    }

    /// Seals the buffer, as posting does: from then on no process can change it.
    ///
    /// # Errors
    /// [`BufferError::Io`] if the kernel refuses; after that the buffer is either unchanged, or can
    /// no longer be written.
    ///
    /// ```
    /// let mut buffer = messageport::Buffer::from_slice(b"final")?;
    /// assert!(buffer.as_fd().is_none());
    /// buffer.seal()?;
    /// assert!(buffer.bytes_mut().is_err() && buffer.as_fd().is_some());
    /// # Ok::<(), messageport::BufferError>(())
    /// ```
    pub fn seal(&mut self) -> Result<(), BufferError> {
        Ok(self.freeze()?)
    }

    /// The memory's descriptor, for other uses; `None` before the buffer is sealed.
    ///
    /// A small buffer, of at most 4 KiB, has no descriptor before the first call, which makes a
    /// sealed file with a copy of its bytes. `None` if the kernel refuses that.
    ///
    /// The file may be longer than the buffer: one of 1 MiB or more takes whole huge pages of 2 MiB
    /// if the kernel gives them. The bytes behind the buffer are zero if an honest process has made
    /// it. [`from_fd`](Self::from_fd) makes a buffer of all of the file.
    ///
    /// With the descriptor of an unsealed buffer, a caller could write to bytes that safe code has
    /// borrowed.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        if self.is_sealed() { self.descriptor().ok() } else { None }
    }

    /// Converts the buffer into private, writable memory.
    ///
    /// If the buffer is sealed, the kernel copies a page when it is first written; other pages are
    /// not copied.
    ///
    /// # Errors
    /// [`BufferError::Io`] if the kernel refuses to map it.
    ///
    /// ```
    /// let mut buffer = messageport::Buffer::from_slice(b"text")?;
    /// buffer.seal()?;
    /// let mut private = buffer.into_mut()?;
    /// private[0] = b'n';
    /// assert_eq!(&*private, b"next");
    /// # Ok::<(), messageport::BufferError>(())
    /// ```
    pub fn into_mut(self) -> Result<BufferMut, BufferError> {
        let memory = match Arc::try_unwrap(self.file) {
            Ok(File { memory: memory @ (Memory::Fresh(_) | Memory::Small(_)), .. }) => memory,
            Ok(file) => file.private_copy()?,
            Err(shared) => shared.private_copy()?,
        };
        Ok(BufferMut { memory })
    }

    /// Accepts what a peer has sent as a buffer of `len` bytes, if it is sealed, and if reading it
    /// allocates no memory. Checking the latter takes about 10 ns a page, and is skipped for a
    /// trusted peer. Otherwise the descriptor is returned.
    pub(crate) fn import(
        descriptor: Foreign,
        len: u64,
        is_trusted: bool,
    ) -> Result<Buffer, (BufferError, Foreign)> {
        match map_foreign(&descriptor, len, is_trusted) {
            Ok(memory) => {
                // It was found to be plain memory.
                let descriptor = descriptor.into_owned();
                Ok(Buffer::of(memory, descriptor, true))
            }
            Err(error) => Err((error, descriptor)),
        }
    }

    /// Makes the bytes final. The mapping for reading is made before the one for writing is
    /// removed, so that a failure leaves a buffer that can be read.
    pub(crate) fn freeze(&mut self) -> Result<(), SystemError> {
        if self.is_sealed() {
            return Ok(());
        }
        let file = Arc::get_mut(&mut self.file).expect("(unshared): it is not frozen");
        if let Memory::Fresh(bytes) = &file.memory {
            let (len, all) = (bytes.len(), bytes.pages().len());
            let descriptor = file.file();
            // SAFETY: (alone) no other code has the descriptor, and this buffer's own writable
            // mapping goes with the assignment below.
            let last = unsafe { MmapOptions::new().len(all).map_copy_read_only(descriptor) };
            file.memory = Memory::Final(Mapped::new(last.map_err(map_refused)?, len));
        }
        if let Some(descriptor) = file.descriptor.get() {
            memfd::freeze(descriptor)?;
        }
        file.is_frozen = true;
        Ok(())
    }

    /// The descriptor of a sealed buffer.
    pub(crate) fn descriptor(&self) -> Result<BorrowedFd<'_>, SystemError> {
        if let (None, Memory::Small(bytes)) = (self.file.descriptor.get(), &self.file.memory) {
            // Another thread may have been faster.
            let _ = self.file.descriptor.set(bytes.to_file()?);
        }
        Ok(self.file.file().as_fd())
    }

    /// The bytes of a buffer that moves in the record of its message, unless other things move with
    /// it that have descriptors.
    pub(crate) fn small_bytes(&self) -> Option<&[u8]> {
        if let Memory::Small(bytes) = &self.file.memory { Some(bytes) } else { None }
    }
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Memory::Fresh(bytes) => bytes,
            Memory::Final(bytes) => bytes,
            Memory::Small(bytes) => bytes,
            // Aligned as every other buffer.
            Memory::Nothing => blocks_as_bytes(&[]),
        }
    }
}

impl File {
    /// Of a buffer that is not small, or that has been asked for it.
    fn file(&self) -> &OwnedFd {
        self.descriptor.get().expect("only a small buffer has no descriptor")
    }

    /// Private, writable memory with the same bytes.
    fn private_copy(&self) -> Result<Memory, BufferError> {
        let bytes = match &self.memory {
            Memory::Final(bytes) => bytes,
            Memory::Small(bytes) => return Ok(Memory::Small(SmallBytes::copy_of(bytes)?)),
            Memory::Fresh(_) | Memory::Nothing => return Ok(Memory::Nothing),
        };
        // SAFETY: (frozen), (alone): what the private pages are copied from does not change.
        let private = unsafe { MmapOptions::new().len(bytes.len()).map_copy(self.file()) };
        Ok(Memory::Fresh(Mapped::new(private.map_err(map_refused)?, bytes.len())))
    }
}

/// The file of a fresh buffer, mapped for writing. It has hardly any memory yet.
struct Fresh {
    descriptor: OwnedFd,
    bytes: Mapped<MmapMut>,
    /// Then the file has whole ones, and its first one has memory.
    has_huge_pages: bool,
}

impl Fresh {
    fn new(len: usize) -> Result<Fresh, BufferError> {
        check_file_size(len)?;
        let whole =
            whole_huge_pages(len as u64).filter(|whole| check_file_size(*whole as usize).is_ok());
        let descriptor = memfd::create(whole.unwrap_or(len as u64))?;
        // Less address space may be left than that of all of it.
        let mapped = whole.and_then(|whole| map_fresh(&descriptor, whole as usize).ok());
        if let Some(bytes) = mapped {
            // The kernel's settings, and its memory, decide. One page shows what it gives.
            populate(&bytes, 0..1)?;
            if memfd::allocated(&descriptor)? >= mapping::HUGE_PAGE {
                return Ok(Fresh {
                    descriptor,
                    bytes: Mapped::new(bytes, len),
                    has_huge_pages: true,
                });
            }
        }
        if whole.is_some() {
            memfd::set_len(&descriptor, len as u64)?;
        }
        let bytes = Mapped::new(map_fresh(&descriptor, len)?, len);
        Ok(Fresh { descriptor, bytes, has_huge_pages: false })
    }
}

/// Whether a file may have `len` bytes. Where it may not, the kernel raises SIGXFSZ, which ends the
/// process.
fn check_file_size(len: usize) -> Result<(), BufferError> {
    let (len, allowed) = (len as u64, memfd::file_size_limit()?);
    if allowed < len { Err(BufferError::TooLarge { len, allowed }) } else { Ok(()) }
}

/// Maps such a file for writing.
fn map_fresh(descriptor: &OwnedFd, len: usize) -> Result<MmapMut, SystemError> {
    // SAFETY: (alone) the descriptor was just made, and no other code has it.
    let bytes = unsafe { MmapMut::map_mut(descriptor) }.map_err(map_refused)?;
    // A child's copy would be a writer until it execs, and keep the buffer from being sealed.
    bytes
        .advise(Advice::DontFork)
        .map_err(|source| SystemError { call: "madvise(MADV_DONTFORK)", source })?;
    advise_huge_pages(len, |advice| bytes.advise(advice));
    Ok(bytes)
}

/// Allocates the pages of a range.
fn populate(bytes: &MmapMut, range: Range<usize>) -> Result<(), SystemError> {
    mapping::uninterrupted(|| bytes.advise_range(Advice::PopulateWrite, range.start, range.len()))
        .map_err(|source| SystemError { call: "madvise(MADV_POPULATE_WRITE)", source })
}

/// Asks for huge pages, where they fit. Only a hint: what the kernel gives depends on its setting
/// `shmem_enabled`, and the page size has no influence on what is read.
fn advise_huge_pages(len: usize, advise: impl FnOnce(Advice) -> io::Result<()>) {
    if len as u64 >= mapping::HUGE_PAGE {
        let _ = advise(Advice::HugePage);
    }
}

fn map_refused(source: io::Error) -> SystemError {
    SystemError { call: "mmap", source }
}

fn map_foreign(descriptor: impl AsFd, len: u64, is_trusted: bool) -> Result<Memory, BufferError> {
    let descriptor = descriptor.as_fd();
    let nature = memfd::examine(descriptor)?;
    let refused = |what| Err(BufferError::Refused { what });
    if !nature.sealed || !nature.frozen {
        return refused("it lacks seals, or is no memfd");
    }
    if !nature.plain_memory {
        return refused(memfd::NOT_ON_TMPFS);
    }
    if nature.len != len && Some(nature.len) != whole_huge_pages(len) {
        return refused("it has another length than was said");
    }
    // The file's count includes pages beyond its end, which can be freed again.
    let is_there = nature.allocated >= len
        && (is_trusted
            || mapping::bytes_with_memory(descriptor, len)?.is_none_or(|all| all >= len));
    if !is_there {
        return refused("it has holes, which would cost memory when they are read");
    }
    if len == 0 {
        return Ok(Memory::Nothing);
    }
    let size = |len| usize::try_from(len).expect("a 64-bit target");
    let (len, all) = (size(len), size(nature.len));
    let raw = descriptor.as_raw_fd();
    // SAFETY: (frozen) the seals were just seen, and no seal can be taken back. Private, as kernels
    // before 6.7 refuse a shared mapping of what is sealed against writing.
    let bytes = unsafe { MmapOptions::new().len(all).map_copy_read_only(raw) };
    let bytes = bytes.map_err(map_refused)?;
    advise_huge_pages(all, |advice| bytes.advise(advice));
    Ok(Memory::Final(Mapped::new(bytes, len)))
}

/// A clone of a sealed buffer is the same memory, at no cost. One that is not sealed is copied.
///
/// # Panics
/// Cloning a buffer that is not sealed panics if the kernel refuses the memory for the copy, as
/// [`Buffer::new`]. Seal it first to avoid both.
///
/// ```
/// let mut frame = messageport::Buffer::from_slice(b"pixels")?;
/// frame.seal()?;
/// let second = frame.clone();
/// assert_eq!(second.as_ptr(), frame.as_ptr());
/// # Ok::<(), messageport::BufferError>(())
/// ```
impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        if self.is_sealed() {
            return Buffer { file: self.file.clone() };
        }
        Buffer::from_slice(self).expect("the kernel has memory for a copy")
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.file.memory.bytes()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len())
            .field("sealed", &self.is_sealed())
            .finish_non_exhaustive()
    }
}

/// A private, writable view of a [`Buffer`]'s bytes; made by [`Buffer::into_mut`].
pub struct BufferMut {
    /// Never final.
    memory: Memory,
}

impl Deref for BufferMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.bytes()
    }
}

impl DerefMut for BufferMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Fresh(bytes) => bytes,
            Memory::Small(bytes) => bytes,
            Memory::Final(_) | Memory::Nothing => &mut [],
        }
    }
}

impl fmt::Debug for BufferMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferMut").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(miri)))]
mod tests;
