//! A shared mapping, and what the kernel is told about its pages: mmap(2), madvise(2).
#![allow(unsafe_code)]

use crate::error::SystemError;
use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::OnceLock;

/// Bytes that other processes may write at any time: reached by raw pointers only.
///
/// `MmapRaw` and never `MmapMut`: a `&mut` to bytes that somebody else writes would be unsound.
pub(crate) struct Mapping {
    bytes: MmapRaw,
}

impl Mapping {
    /// Maps the first `len` bytes of a descriptor, shared and writable. A forked child does not get
    /// the mapping: two owners of one ring end would corrupt it, so the child faults instead. Core
    /// dumps leave it out: messages may be secrets.
    pub(crate) fn new(fd: impl AsFd, len: u64) -> Result<Mapping, SystemError> {
        let len = usize::try_from(len).expect("a 64-bit target");
        let bytes = MmapOptions::new()
            .len(len)
            .map_raw(fd.as_fd().as_raw_fd())
            .map_err(|source| SystemError { call: "mmap", source })?;
        let mapping = Mapping { bytes };
        mapping.advise(Advice::DontFork, 0..len as u64, "madvise(MADV_DONTFORK)")?;
        // All of it: for a part the kernel would have to cut the mapping in two.
        mapping.advise(Advice::DontDump, 0..len as u64, "madvise(MADV_DONTDUMP)")?;
        Ok(mapping)
    }

    /// First byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        NonNull::new(self.bytes.as_mut_ptr()).expect("a mapping is never at address zero")
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Makes the pages of a range, so that writing to them later can raise no signal: what is
    /// missing is an error here. Linux 5.14. Does not wait for other holders of the object.
    pub(crate) fn populate(&self, range: Range<u64>) -> Result<(), SystemError> {
        self.advise(Advice::PopulateWrite, range, "madvise(MADV_POPULATE_WRITE)")
    }

    /// Frees the pages that lie wholly inside a range; they read as zero afterwards.
    /// Returns how many bytes that were. Waits for the inode's lock, which any other holder of the
    /// object can keep: not for a peer that is not trusted.
    ///
    /// # Safety
    /// Nobody may still need what the range holds, and no reference into it may exist.
    pub(crate) unsafe fn remove(&self, range: Range<u64>) -> Result<u64, SystemError> {
        let page = page_size();
        let inner = range.start.next_multiple_of(page)..range.end / page * page;
        if inner.is_empty() {
            return Ok(0);
        }
        let (start, len) = (inner.start as usize, (inner.end - inner.start) as usize);
        // SAFETY: the range lies in the mapping, or memmap2 answers with an error; the caller says
        // that its content is dead and that no reference to it exists.
        unsafe { self.bytes.unchecked_advise_range(UncheckedAdvice::Remove, start, len) }
            .map_err(|source| SystemError { call: "madvise(MADV_REMOVE)", source })?;
        Ok(len as u64)
    }

    fn advise(
        &self,
        advice: Advice,
        range: Range<u64>,
        call: &'static str,
    ) -> Result<(), SystemError> {
        let (start, len) = (range.start as usize, (range.end - range.start) as usize);
        loop {
            match self.bytes.advise_range(advice, start, len) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(SystemError { call, source }),
                Ok(()) => return Ok(()),
            }
        }
    }
}

/// Bytes of a page.
pub(crate) fn page_size() -> u64 {
    static PAGE_SIZE: OnceLock<u64> = OnceLock::new();
    *PAGE_SIZE.get_or_init(|| {
        nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
            .ok()
            .flatten()
            .and_then(|size| u64::try_from(size).ok())
            .unwrap_or(4096)
    })
}
