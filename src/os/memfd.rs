//! Memory that has a descriptor: memfd_create(2) and its seals.

use crate::error::{BufferError, SystemError};
use crate::os::{named, uninterrupted};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::fstat;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::sys::uio::pwrite;
use nix::unistd::ftruncate;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

/// A fresh memfd of `len` zero bytes, sealed so that its length can never change and no further
/// seal can be added: no process can truncate it under a mapping, or lock out its next owner. It
/// uses no memory until its pages are touched.
pub(crate) fn create_sealed(len: u64) -> Result<OwnedFd, SystemError> {
    let fd = create(len)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(FIXED_LENGTH)).map_err(named("fcntl(F_ADD_SEALS)"))?;
    Ok(fd)
}

/// A fresh memfd of `len` zero bytes, to be filled and then frozen by `freeze`.
pub(crate) fn create(len: u64) -> Result<OwnedFd, SystemError> {
    let plain = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let no_exec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let fd = match memfd_create(c"messageport", plain | no_exec) {
        // Linux before 6.3 does not know the flag; then the file may be executable, as all were.
        Err(Errno::EINVAL) => memfd_create(c"messageport", plain),
        answer => answer,
    }
    .map_err(named("memfd_create"))?;
    set_len(&fd, len)?;
    Ok(fd)
}

/// Sets the length of a memfd that is not sealed, and that no other process has.
pub(crate) fn set_len(fd: impl AsFd, len: u64) -> Result<(), SystemError> {
    uninterrupted(|| ftruncate(fd.as_fd(), len as i64)).map_err(named("ftruncate"))
}

/// Writes all of `bytes` at a place of a memfd that no other process has, and allocates the pages
/// for them. The kernel zeroes no page that is written whole.
pub(crate) fn write_all(fd: impl AsFd, bytes: &[u8], at: u64) -> Result<(), SystemError> {
    let (mut rest, mut at) = (bytes, at);
    while !rest.is_empty() {
        match pwrite(fd.as_fd(), rest, at as i64) {
            Err(Errno::EINTR) => {}
            // No file in memory answers so; without this a caller would wait for ever.
            Ok(0) => return Err(named("pwrite")(Errno::EIO)),
            Ok(written) => {
                rest = &rest[written..];
                at += written as u64;
            }
            Err(errno) => return Err(named("pwrite")(errno)),
        }
    }
    Ok(())
}

/// Bytes of a memfd of our own that have memory.
pub(crate) fn allocated(fd: impl AsFd) -> Result<u64, SystemError> {
    let stat = fstat(fd).map_err(named("fstat"))?;
    Ok(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512))
}

/// Seals a memfd forever against any change of its bytes. No other process may have it, and it
/// must not be mapped for writing.
pub(crate) fn freeze(fd: impl AsFd) -> Result<(), SystemError> {
    let began = Instant::now();
    loop {
        match fcntl(fd.as_fd(), FcntlArg::F_ADD_SEALS(FROZEN)) {
            // The kernel itself uses a page at the moment, for example to move it; it has waited
            // already.
            Err(Errno::EBUSY) if began.elapsed() < PATIENCE => thread::sleep(NAP),
            answer => return answer.map(drop).map_err(named("fcntl(F_ADD_SEALS)")),
        }
    }
}

/// Seals a memfd so that only those who have it mapped can write to it, and none can free its pages
/// or change its length.
pub(crate) fn seal_for_others(fd: impl AsFd) -> Result<(), SystemError> {
    fcntl(fd.as_fd(), FcntlArg::F_ADD_SEALS(FIXED_LENGTH | FUTURE_WRITE))
        .map(drop)
        .map_err(named("fcntl(F_ADD_SEALS)"))
}

/// Makes a memfd of another library ready to be read in place: allocates all of it, and seals it
/// forever. Returns its length in bytes. It may be sealed already.
pub(crate) fn adopt(fd: impl AsFd) -> Result<u64, BufferError> {
    let unsuitable = |what| Err(BufferError::Unsuitable { what });
    let seals = match fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS) {
        Err(Errno::EINVAL) => return unsuitable("it is no memfd"),
        answer => SealFlag::from_bits_retain(answer.map_err(named("fcntl(F_GET_SEALS)"))?),
    };
    let length = || fstat(fd.as_fd()).map_err(named("fstat")).map(|stat| stat.st_size);
    if seals.contains(FROZEN) {
        return Ok(u64::try_from(length()?).unwrap_or(0));
    }
    if seals.contains(SealFlag::F_SEAL_SEAL) {
        return unsuitable("its seals are final, and do not keep it from being changed");
    }
    let system = uninterrupted(|| fstatfs(fd.as_fd())).map_err(named("fstatfs"))?;
    if system.filesystem_type() != TMPFS_MAGIC {
        return unsuitable(NOT_ON_TMPFS);
    }
    let len = length()?;
    if len > 0 && !seals.contains(SealFlag::F_SEAL_WRITE) {
        match allocate(fd.as_fd(), len) {
            Err(Errno::EBADF) => return unsuitable("it is open for reading only"),
            answer => answer.map_err(named("fallocate"))?,
        }
    }
    if let Err(error) = freeze(fd.as_fd()) {
        return match error.source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EBUSY) => unsuitable("a process has it mapped for writing"),
            Some(Errno::EPERM) => unsuitable("it is open for reading only"),
            _ => Err(error.into()),
        };
    }
    // No process can change it any more.
    Ok(u64::try_from(length()?).unwrap_or(0))
}

/// Allocates the first `len` bytes.
///
/// In parts: before Linux 6.10, a signal ends a call that allocates, and the kernel frees all that
/// this call has allocated. One call that takes longer than the pause between two signals would be
/// repeated for ever.
fn allocate(fd: BorrowedFd<'_>, len: i64) -> Result<(), Errno> {
    let mut from = 0;
    while from < len {
        let part = PART.min(len - from);
        uninterrupted(|| fallocate(fd, FallocateFlags::empty(), from, part))?;
        from += part;
    }
    Ok(())
}

/// Bytes that the kernel allocates within some 50 µs on a busy machine.
const PART: i64 = 64 << 10;

/// The largest file that this process may make, in bytes; a larger `ftruncate` raises SIGXFSZ. The
/// kernel has none longer than `i64::MAX`, also without a limit.
pub(crate) fn file_size_limit() -> Result<u64, SystemError> {
    let (soft, _) = getrlimit(Resource::RLIMIT_FSIZE).map_err(named("getrlimit"))?;
    Ok(soft.min(i64::MAX as u64))
}

/// The address space that this process may use, in bytes.
pub(crate) fn address_space_limit() -> Result<u64, SystemError> {
    getrlimit(Resource::RLIMIT_AS).map(|(soft, _)| soft).map_err(named("getrlimit"))
}

/// What a received descriptor was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemfdInfo {
    /// Cannot shrink or grow, nor be sealed further.
    pub sealed: bool,
    /// No process can write to it either.
    pub frozen: bool,
    /// Its pages cannot be freed, and only who has mapped it before can write to it.
    pub keeps_pages: bool,
    /// Plain shared memory: not a file on a disk, not huge pages.
    pub plain_memory: bool,
    /// Bytes.
    pub len: u64,
    /// Bytes that have memory: fewer than `len` if there are holes.
    pub allocated: u64,
    /// Identifies the object among all that live: device and inode.
    pub identity: (u64, u64),
}

/// Examines a received descriptor.
///
/// Makes only calls that no other holder of the object can delay: F_GET_SEALS, fstat and fstatfs
/// never wait for the inode's lock. F_ADD_SEALS would.
pub(crate) fn examine(fd: impl AsFd) -> Result<MemfdInfo, SystemError> {
    let seals = match fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS) {
        Err(Errno::EINVAL) => SealFlag::empty(),
        answer => SealFlag::from_bits_retain(answer.map_err(named("fcntl(F_GET_SEALS)"))?),
    };
    if !seals.contains(FIXED_LENGTH) {
        // Nothing more is asked: on a file system of the peer's the next calls may wait.
        return Ok(MemfdInfo {
            sealed: false,
            frozen: false,
            keeps_pages: false,
            plain_memory: false,
            len: 0,
            allocated: 0,
            identity: (0, 0),
        });
    }
    let system = uninterrupted(|| fstatfs(fd.as_fd())).map_err(named("fstatfs"))?;
    let stat = fstat(fd.as_fd()).map_err(named("fstat"))?;
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(MemfdInfo {
        sealed: true,
        frozen: seals.contains(SealFlag::F_SEAL_WRITE),
        keeps_pages: seals.intersects(SealFlag::F_SEAL_WRITE | FUTURE_WRITE),
        plain_memory: system.filesystem_type() == TMPFS_MAGIC,
        len: count(stat.st_size),
        allocated: count(stat.st_blocks).saturating_mul(512),
        identity: (stat.st_dev, stat.st_ino),
    })
}

/// Whether a received descriptor is a file in memory, and so small that its last close, which frees
/// its pages, takes no relevant time.
///
/// F_GET_SEALS succeeds for such files only, and `fstat` asks no daemon about them.
pub(crate) fn is_small(fd: impl AsFd) -> bool {
    fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS).is_ok()
        && fstat(fd.as_fd()).is_ok_and(|stat| stat.st_blocks <= SMALL)
}

/// Identifies the object behind a descriptor of our own.
pub(crate) fn identity(fd: impl AsFd) -> Result<(u64, u64), SystemError> {
    fstat(fd.as_fd()).map(|stat| (stat.st_dev, stat.st_ino)).map_err(named("fstat"))
}

/// Why memory of huge pages is no buffer, for example.
pub(crate) const NOT_ON_TMPFS: &str = "it is not on tmpfs";
/// How long to retry sealing a memfd whose pages are in use.
const PATIENCE: Duration = Duration::from_secs(2);
/// Blocks of 512 bytes: a mebibyte, which is freed in about 30 µs.
const SMALL: i64 = 2048;
const NAP: Duration = Duration::from_millis(1);
const FIXED_LENGTH: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);
/// Linux 5.1.
const FUTURE_WRITE: SealFlag = SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE);
/// Nothing can change it, and no seal can be added.
const FROZEN: SealFlag = FIXED_LENGTH.union(SealFlag::F_SEAL_WRITE);
