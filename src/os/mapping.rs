//! A shared mapping and its pages: mmap(2), madvise(2).
#![allow(unsafe_code)]

use crate::error::SystemError;
use crate::os::named;
use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;

/// Bytes that other processes may write at any time: reached by raw pointers only.
///
/// `MmapRaw` and never `MmapMut`: a `&mut` to bytes that another process writes would be unsound.
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
        Mapping::of(bytes, len)
    }

    /// Maps the first `len` bytes, shared, for reading only. Everything else as in `new`.
    pub(crate) fn read_only(fd: impl AsFd, len: u64) -> Result<Mapping, SystemError> {
        let len = usize::try_from(len).expect("a 64-bit target");
        let bytes = MmapOptions::new()
            .len(len)
            .map_raw_read_only(fd.as_fd().as_raw_fd())
            .map_err(|source| SystemError { call: "mmap", source })?;
        Mapping::of(bytes, len)
    }

    fn of(bytes: MmapRaw, len: usize) -> Result<Mapping, SystemError> {
        let mapping = Mapping { bytes };
        mapping.advise(Advice::DontFork, 0..len as u64, "madvise(MADV_DONTFORK)")?;
        // All of it: for a part the kernel would have to cut the mapping in two.
        mapping.advise(Advice::DontDump, 0..len as u64, "madvise(MADV_DONTDUMP)")?;
        Ok(mapping)
    }

    /// First byte.
    #[inline(always)]
    pub(crate) fn start(&self) -> NonNull<u8> {
        NonNull::new(self.bytes.as_mut_ptr()).expect("a mapping is never at address zero")
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Allocates the pages of a range, so that writing to them later can raise no signal: running
    /// out of memory is an error here. Linux 5.14. Does not wait for other holders of the object.
    pub(crate) fn populate(&self, range: Range<u64>) -> Result<(), SystemError> {
        self.advise(Advice::PopulateWrite, range, "madvise(MADV_POPULATE_WRITE)")
    }

    /// Asks for huge pages, where they fit. Only a hint: what the kernel gives depends on its
    /// setting `shmem_enabled`.
    pub(crate) fn advise_huge_pages(&self) {
        if self.len() >= HUGE_PAGE {
            let _ = self.bytes.advise(Advice::HugePage);
        }
    }

    /// Frees the pages that lie wholly inside a range; they read as zero afterwards. Returns how
    /// many bytes that were. Waits for the inode's lock, which any other holder of the object can
    /// keep: do not use it if the peer is not trusted.
    ///
    /// # Safety
    /// The content of the range must no longer be needed, and no reference into it may exist.
    pub(crate) unsafe fn remove(&self, range: Range<u64>) -> Result<u64, SystemError> {
        let page = page_size();
        let inner = range.start.next_multiple_of(page)..range.end / page * page;
        if inner.is_empty() {
            return Ok(0);
        }
        let (start, len) = (inner.start as usize, (inner.end - inner.start) as usize);
        // SAFETY: the range lies in the mapping, or memmap2 returns an error; the caller guarantees
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

/// How many of the first `len` bytes of a memfd have memory, whole pages, in core or swapped out:
/// cachestat(2), of Linux 6.5. It waits for no lock of the file. `None` if the kernel does not
/// tell.
///
/// Only a descriptor that may write to the file is told. A read-only descriptor is an error, so no
/// sender can choose that nothing is told.
pub(crate) fn bytes_with_memory(fd: impl AsFd, len: u64) -> Result<Option<u64>, SystemError> {
    #[repr(C)]
    struct Range {
        offset: u64,
        len: u64,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Counts {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    // The same on every architecture that has it from the common table.
    const CACHESTAT: libc::c_long = 451;
    const PLAIN: libc::c_uint = 0;

    let (range, mut counts) = (Range { offset: 0, len }, Counts::default());
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: both structs are the kernel's for this call, and valid for it.
    let answer = unsafe { libc::syscall(CACHESTAT, raw, &raw const range, &raw mut counts, PLAIN) };
    match Errno::result(answer) {
        Ok(_) => {
            let pages = counts.cached.saturating_add(counts.evicted);
            Ok(Some(pages.saturating_mul(page_size())))
        }
        Err(Errno::EPERM) if !is_writable(fd.as_fd())? => Err(named("cachestat")(Errno::EPERM)),
        // An older kernel, or a filter of system calls.
        Err(_) => Ok(None),
    }
}

fn is_writable(fd: BorrowedFd<'_>) -> Result<bool, SystemError> {
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(named("fcntl(F_GETFL)"))?;
    Ok(OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE == OFlag::O_RDWR)
}

/// The smallest huge page of the processors that this runs on, in bytes.
pub(crate) const HUGE_PAGE: u64 = 2 << 20;

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
