//! Names in the file system by which two processes of one user meet: unix(7), flock(2).

use crate::error::SystemError;
use crate::os::named;
use crate::os::socket::fresh;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt,
    listen, socket,
};
use nix::sys::stat::fstat;
use nix::unistd::getuid;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Process, user and group at the other end of a socket, when it was connected.
pub(crate) fn credentials(socket: BorrowedFd<'_>) -> Result<(u32, u32, u32), SystemError> {
    let found = getsockopt(&socket, PeerCredentials).map_err(named("getsockopt(SO_PEERCRED)"))?;
    Ok((found.pid() as u32, found.uid(), found.gid()))
}

/// Our own user.
pub(crate) fn user() -> u32 {
    getuid().as_raw()
}

/// The directory of this user's names: in the runtime directory, or else one of the user's own
/// under the temporary directory. Made if it is not there; it must be the user's alone.
pub(crate) fn directory() -> Result<PathBuf, (PathBuf, &'static str)> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let directory = match runtime.filter(|path| path.is_absolute() && path.is_dir()) {
        Some(runtime) => runtime.join("messageport"),
        None => std::env::temp_dir().join(format!("messageport-{}", user())),
    };
    // What is there already is looked at below.
    let _ = DirBuilder::new().mode(0o700).create(&directory);
    let wrong = match fs::symlink_metadata(&directory) {
        Err(_) => Some("it cannot be made"),
        Ok(found) => flaw(&found),
    };
    match wrong {
        Some(what) => Err((directory, what)),
        None => Ok(directory),
    }
}

/// What is wrong with something that should be a directory of the user's alone.
pub(super) fn flaw(found: &fs::Metadata) -> Option<&'static str> {
    match found {
        found if !found.is_dir() => Some("it is no directory"),
        found if found.uid() != user() => Some("it is another user's"),
        found if found.mode() & 0o077 != 0 => Some("others than its user may enter it"),
        _ => None,
    }
}

/// Whether a name can be a file's, in a directory of names.
pub(crate) fn is_name(name: &str) -> bool {
    // Locks stand beside the names.
    let is_special = name == "." || name == ".." || name.ends_with(LOCK_ENDING);
    (1..=64).contains(&name.len()) && !name.contains(['/', '\0']) && !is_special
}

/// A file that one process at a time holds; gone, and free, when that one ends.
pub(crate) struct Hold {
    path: PathBuf,
    _file: Flock<File>,
}

impl Hold {
    /// Takes hold of `path`. `None` if somebody else has it.
    pub(crate) fn take(path: PathBuf) -> Result<Option<Hold>, SystemError> {
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
                .open(&path)
                .map_err(|source| SystemError { call: "open", source })?;
            let kind = file.metadata().map_err(|source| SystemError { call: "fstat", source })?;
            if !kind.is_file() || kind.len() != 0 {
                // Somebody's own file, which is not ours to remove.
                let source = io::Error::from(io::ErrorKind::AlreadyExists);
                return Err(SystemError { call: "open", source });
            }
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, errno)) => return Err(named("flock")(errno)),
            };
            // Whoever let go of it has removed it meanwhile: then this is not the one to hold.
            let ours = fstat(&*file).map_err(named("fstat"))?.st_ino;
            if fs::symlink_metadata(&path).is_ok_and(|found| found.ino() == ours) {
                return Ok(Some(Hold { path, _file: file }));
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Before the lock goes, so that nobody can have taken it yet.
        let _ = fs::remove_file(&self.path);
    }
}

/// A listening packet socket at `path`, and the file that it is. The name must be free or a stale
/// socket's; the caller holds it.
pub(crate) fn listen_at(path: &Path) -> Result<(OwnedFd, SocketFile), SystemError> {
    let address = address(path)?;
    // Any other file stays, and `bind` says that the address is in use.
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(path).map_err(|source| SystemError { call: "unlink", source })?;
    }
    let socket = new_socket()?;
    bind(socket.as_raw_fd(), &address).map_err(named("bind"))?;
    let found = fs::symlink_metadata(path);
    let found = found.map_err(|source| SystemError { call: "lstat", source })?;
    let file = SocketFile { path: path.to_owned(), identity: (found.dev(), found.ino()) };
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .map_err(|source| SystemError { call: "chmod", source })?;
    listen(&socket, Backlog::new(BACKLOG).expect("a small number")).map_err(named("listen"))?;
    Ok((socket, file))
}

/// The file of a listening socket, removed when this goes.
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another's, if somebody has removed ours and listens there now.
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The next connection, if one waits.
pub(crate) fn accept(listening: BorrowedFd<'_>) -> Result<Option<OwnedFd>, SystemError> {
    loop {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        match accept4(listening.as_raw_fd(), flags) {
            Ok(number) => return Ok(Some(fresh(number))),
            Err(Errno::EAGAIN) => return Ok(None),
            // One that has gone again is no failure of the others.
            Err(Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(errno) => return Err(named("accept4")(errno)),
        }
    }
}

/// What became of an attempt to connect.
pub(crate) enum Connected {
    Yes(OwnedFd),
    /// Nobody listens there.
    Nobody,
    /// So many wait that this one has to try again.
    Busy,
}

/// Connects to `path`. Never waits.
pub(crate) fn connect_to(path: &Path) -> Result<Connected, SystemError> {
    let (address, socket) = (address(path)?, new_socket()?);
    match connect(socket.as_raw_fd(), &address) {
        Ok(()) => Ok(Connected::Yes(socket)),
        Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR) => Ok(Connected::Nobody),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Connected::Busy),
        Err(errno) => Err(named("connect")(errno)),
    }
}

pub(super) fn new_socket() -> Result<OwnedFd, SystemError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(named("socket"))
}

pub(super) fn address(path: &Path) -> Result<UnixAddr, SystemError> {
    UnixAddr::new(path).map_err(named("the address of a socket"))
}

/// What the file that holds a name ends in.
pub(crate) const LOCK_ENDING: &str = ".lock";
/// Clients that may wait to be let in.
const BACKLOG: i32 = 128;
