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
        uninterrupted(|| self.bytes.advise_range(advice, start, len))
            .map_err(|source| SystemError { call, source })
    }
}

/// Makes a system call again for as long as a signal interrupts it.
pub(crate) fn uninterrupted(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// The number of cachestat(2): the same on every architecture that has it from the common table.
const CACHESTAT: libc::c_long = 451;

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
        Err(errno) => untold(errno, fd.as_fd()),
    }
}

/// What it means that the kernel did not tell how much of a file has memory.
fn untold(errno: Errno, fd: BorrowedFd<'_>) -> Result<Option<u64>, SystemError> {
    match errno {
        Errno::EPERM if !is_writable(fd)? => Err(named("cachestat")(Errno::EPERM)),
        // An older kernel, or a filter of system calls.
        _ => Ok(None),
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

#[cfg(all(test, not(miri)))]
pub(crate) mod tests {
    use super::*;
    use crate::os::memfd;
    use std::fs::{self, File};
    use std::os::fd::OwnedFd;

    fn pages(count: u64) -> (OwnedFd, Mapping) {
        let len = count * page_size();
        let file = memfd::create(len).expect("a memfd");
        let mapping = Mapping::new(&file, len).expect("a mapping");
        (file, mapping)
    }

    fn allocated(file: &OwnedFd) -> u64 {
        memfd::allocated(file).expect("its size") / page_size()
    }

    /// The flags by which the kernel shows what was advised for a mapping.
    fn flags_of(start: NonNull<u8>) -> String {
        let maps = fs::read_to_string("/proc/self/smaps").expect("the mappings");
        let start = format!("{:08x}-", start.addr());
        let from = maps.lines().skip_while(|line| !line.starts_with(&start));
        let flags = from.skip(1).find(|line| line.starts_with("VmFlags:"));
        flags.expect("a kernel with smaps has flags").to_owned()
    }

    /// Checks that huge pages were asked for, for the mapping at `start`, or that they were not. A
    /// kernel without them forgets it.
    #[track_caller]
    pub(crate) fn asks_for_huge_pages(start: NonNull<u8>, asks: bool) {
        let has_them = fs::exists("/sys/kernel/mm/transparent_hugepage").is_ok_and(|has| has);
        let flags = flags_of(start);
        assert_eq!(flags.contains(" hg"), asks && has_them, "{flags}");
    }

    #[test]
    fn a_page_is_as_long_as_the_kernel_says() {
        let says = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).expect("a size");
        assert_eq!(Some(page_size()), says.map(|size| size as u64));
        assert_eq!(HUGE_PAGE, 2 * 1024 * 1024);
    }

    #[test]
    fn exactly_the_pages_of_a_range_are_allocated() {
        let (file, mapping) = pages(8);
        assert_eq!((mapping.len(), allocated(&file)), (8 * page_size(), 0));
        mapping.populate(page_size()..4 * page_size()).expect("three pages");
        assert_eq!(allocated(&file), 3);
        let told = bytes_with_memory(&file, mapping.len()).expect("a writable file");
        // Before Linux 6.5, and under some filters, the kernel does not tell.
        // SAFETY: without a descriptor, the call looks at nothing else.
        let refused = unsafe { libc::syscall(CACHESTAT, -1, 0, 0, 0) };
        let tells = Errno::result(refused) == Err(Errno::EBADF);
        assert_eq!(told, tells.then_some(3 * page_size()));
        // SAFETY: the content is not needed, and there is no reference to it.
        let removed = unsafe { mapping.remove(page_size() + 1..5 * page_size() - 1) };
        assert_eq!(removed.expect("a mapping that can be written"), 2 * page_size());
        assert_eq!(allocated(&file), 1);
        // SAFETY: as above.
        let removed = unsafe { mapping.remove(page_size() + 1..2 * page_size()) };
        assert_eq!(removed.expect("nothing to do"), 0, "no whole page");
        assert_eq!(allocated(&file), 1);
    }

    #[test]
    fn huge_pages_are_asked_for_where_one_fits() {
        for (len, is_long_enough) in [(HUGE_PAGE, true), (HUGE_PAGE - page_size(), false)] {
            let (_file, mapping) = pages(len / page_size());
            mapping.advise_huge_pages();
            let flags = flags_of(mapping.start());
            // A fork does not get it, and a core dump leaves it out.
            assert!(flags.contains(" dc") && flags.contains(" dd"), "{flags}");
            asks_for_huge_pages(mapping.start(), is_long_enough);
        }
    }

    #[test]
    fn a_call_is_made_again_after_an_interruption_and_not_after_another_error() {
        let mut answers = [io::ErrorKind::Interrupted, io::ErrorKind::OutOfMemory].into_iter();
        let outcome = uninterrupted(|| answers.next().map_or(Ok(()), |kind| Err(kind.into())));
        assert_eq!(outcome.expect_err("no memory").kind(), io::ErrorKind::OutOfMemory);
        let mut calls = 0;
        let outcome = uninterrupted(|| {
            calls += 1;
            if calls < 3 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        });
        assert_eq!((outcome.expect("it ended"), calls), ((), 3));
    }

    #[test]
    fn only_a_descriptor_that_may_write_may_be_told_nothing() {
        let (file, _mapping) = pages(1);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let reader = File::open(&path).expect("it can be opened again");
        let writer = File::options().write(true).open(&path).expect("it can be opened again");
        assert!(is_writable(file.as_fd()).expect("its flags"));
        assert!(!is_writable(reader.as_fd()).expect("its flags"));
        assert!(!is_writable(writer.as_fd()).expect("its flags"), "it cannot be mapped");
        // A filter of this process refused the call, or the kernel did.
        assert_eq!(untold(Errno::EPERM, file.as_fd()).expect("a filter"), None);
        assert!(untold(Errno::EPERM, reader.as_fd()).is_err(), "else a sender could choose that");
        assert_eq!(untold(Errno::ENOSYS, reader.as_fd()).expect("an older kernel"), None);
    }
}
