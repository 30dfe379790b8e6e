//! Names in the file system by which processes of one user meet: unix(7), flock(2).
//!
//! This module and `rendezvous.rs` define how names are stored on disk. Names are files in the
//! *names directory*: `$XDG_RUNTIME_DIR/messageport` if the user owns the runtime directory,
//! otherwise `messageport-<user>` in the temporary directory. A listener can also use any other
//! path.
//!
//! ```text
//! path              | made by          | may be removed by           | proved how
//! ------------------+------------------+-----------------------------+---------------------------
//! the names         | its first user   | no process                  | owner and mode are checked
//! directory, 0700   |                  |                             | at each use
//! <name>, a packet  | its listener     | the process that made it,   | same process, device, inode
//! socket, 0600, or  |                  | on drop                     |
//! 0666 for others   |                  | a later listener, under the | a connection is refused, so
//!                   |                  | lock                        | no process listens
//! <name>.lock       | a listener that  | the same listener, once it  | it holds the file's lock,
//!                   | takes a name     | has the name                | which ends with its process
//! broadcast.<name>/ | the first member | a member that leaves        | rmdir fails unless it is
//! 0700              |                  |                             | empty
//!  <member>.new     | a joiner, until  | the joiner                  | it has just made it
//!                   | it listens       | any joiner, after 5 seconds | a connection is refused
//!  <member>         | the joiner, by   | its maker, when it leaves   | same process
//!                   | a rename         | any joiner                  | a connection is refused; no
//!                   |                  |                             | two members share a name
//! ```
//!
//! System services remove old files from temporary directories. `systemd-tmpfiles` keeps a socket
//! that the kernel lists under its path, and every file in a directory that a process has locked.
//! So a listener binds its socket at the real path if that fits into a socket address, and
//! listeners and members hold a shared lock on their directory.

mod identity;

use crate::error::{OPEN_LOCK, SystemError, flaw_of_path};
use crate::os::process::Maker;
use crate::os::socket::{Socket, fresh, refuse_descriptors};
use crate::os::{has_proc, named, no_proc, uninterrupted};
use nix::errno::Errno;
#[allow(deprecated)]
use nix::fcntl::flock;
use nix::fcntl::{AT_FDCWD, AtFlags, FlockArg, OFlag, openat};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt,
    listen, socket,
};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub(crate) use identity::{check_group, check_identity, check_user, user};

/// Process, user and group of the peer at the time when the socket was connected.
pub(crate) fn credentials(socket: BorrowedFd<'_>) -> Result<(u32, u32, u32), SystemError> {
    let found = getsockopt(&socket, PeerCredentials).map_err(named("getsockopt(SO_PEERCRED)"))?;
    Ok((found.pid() as u32, found.uid(), found.gid()))
}

/// An open and locked directory that only this user can enter. While it is locked,
/// `systemd-tmpfiles` removes nothing from it.
pub(crate) struct Directory {
    file: LockedFile,
    path: PathBuf,
}

/// Why a directory cannot be used.
pub(crate) enum NoDirectory {
    /// Its type, owner or mode is wrong.
    Flaw(PathBuf, &'static str),
    System(SystemError),
}

impl From<SystemError> for NoDirectory {
    fn from(error: SystemError) -> NoDirectory {
        NoDirectory::System(error)
    }
}

/// The path of the names directory.
pub(crate) fn names_path() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    // `sudo -E` passes another user's directory on. If root made files there, that user could not
    // use them.
    let is_ours = |path: &PathBuf| {
        let found = fs::metadata(path);
        path.is_absolute() && found.is_ok_and(|found| found.is_dir() && found.uid() == user())
    };
    match runtime.filter(is_ours) {
        Some(runtime) => runtime.join("messageport"),
        None => std::env::temp_dir().join(format!("messageport-{}", user())),
    }
}

/// Opens the names directory, and creates it if it does not exist.
pub(crate) fn names_directory() -> Result<Directory, NoDirectory> {
    for _ in 0..MOST_ATTEMPTS {
        if let Some((directory, _)) = Directory::make(names_path())? {
            return Ok(directory);
        }
    }
    Err(NoDirectory::Flaw(names_path(), "it is removed again and again"))
}

impl Directory {
    /// Opens the directory, and creates it if it does not exist. Returns whether it was created.
    /// Returns `None` if another process removed it meanwhile, or is cleaning it up: try again.
    pub(crate) fn make(path: PathBuf) -> Result<Option<(Directory, bool)>, NoDirectory> {
        let made = match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(NoDirectory::Flaw(path, "the directory above it is not there"));
            }
            // If it exists, opening it below finds what is wrong. If not, this error is the reason.
            Err(source) => match fs::symlink_metadata(&path) {
                Ok(_) => false,
                Err(_) => return Err(SystemError { call: "mkdir", source }.into()),
            },
        };
        if made {
            // The umask may have removed permissions. This process has just created the directory,
            // and checks it below.
            let _ = fs::set_permissions(&path, Permissions::from_mode(0o700));
        }
        let Some(file) = open_own_directory(&path)? else { return Ok(None) };
        match LockedFile::lock(File::from(file), FlockArg::LockSharedNonblock) {
            Ok(file) => Ok(Some((Directory { file, path }, made))),
            Err(Errno::EWOULDBLOCK) => {
                // Another process is cleaning it up.
                thread::sleep(Duration::from_millis(1));
                Ok(None)
            }
            Err(errno) => Err(named("flock")(errno).into()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A short path of a file in it. It leads into this directory even if the directory was moved
    /// or removed.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.file.0.as_raw_fd()).into()
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.0.as_fd()
    }
}

/// Opens a directory, and checks that only this user can enter it. `None` if it does not exist.
fn open_own_directory(path: &Path) -> Result<Option<OwnedFd>, NoDirectory> {
    let flaw = |what| Err(NoDirectory::Flaw(path.to_owned(), what));
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = match uninterrupted(|| openat(AT_FDCWD, path, flags, Mode::empty())) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ENOTDIR | Errno::ELOOP) => return flaw("it is no directory"),
        Err(Errno::EACCES) => return flaw("this user may not enter it"),
        Err(errno) => return Err(named("open")(errno).into()),
    };
    let found = fstat(&file).map_err(named("fstat"))?;
    if found.st_uid != user() {
        return flaw("it is another user's");
    }
    if found.st_mode & 0o077 != 0 {
        return flaw("others than its user may enter it");
    }
    if found.st_mode & 0o700 != 0o700 {
        // It was created under another umask, or its creator has not set the mode yet.
        fchmod(&file, Mode::S_IRWXU).map_err(named("fchmod"))?;
    }
    Ok(Some(file))
}

/// If the names directory exists, checks that only this user can enter it.
pub(crate) fn check_names_directory() -> Result<(), NoDirectory> {
    open_own_directory(&names_path()).map(drop)
}

/// The path of a listener: a file in an open directory.
pub(crate) struct Place {
    directory: PlaceDirectory,
    name: OsString,
    /// Absolute.
    path: PathBuf,
}

enum PlaceDirectory {
    OfNames(Directory),
    Other(OwnedFd),
}

impl Place {
    /// A name in the names directory.
    pub(crate) fn of_name(directory: Directory, name: &str) -> Place {
        let path = directory.path.join(name);
        Place { directory: PlaceDirectory::OfNames(directory), name: name.into(), path }
    }

    /// A file at any path. A relative path is resolved now, so a later change of the working
    /// directory has no effect.
    pub(crate) fn of_path(path: &Path) -> Result<Place, SystemError> {
        check_path(path, "bind")?;
        let path =
            std::path::absolute(path).map_err(|source| SystemError { call: "getcwd", source })?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(is_directory());
        };
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(is_directory());
        }
        let directory = PlaceDirectory::Other(open_directory(parent)?);
        Ok(Place { name: name.to_owned(), directory, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn directory(&self) -> BorrowedFd<'_> {
        match &self.directory {
            PlaceDirectory::OfNames(directory) => directory.as_fd(),
            PlaceDirectory::Other(directory) => directory.as_fd(),
        }
    }

    fn look(&self, name: &OsStr) -> Result<FileStat, Errno> {
        fstatat(self.directory(), name, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// Locks the file next to it. `None` if another process holds the lock.
    fn lock(&self) -> Result<Option<NameLock<'_>>, SystemError> {
        let mut name = self.name.clone();
        name.push(LOCK_ENDING);
        let flags = OFlag::O_RDWR
            | OFlag::O_CREAT
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC
            | OFlag::O_NONBLOCK;
        loop {
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            let file = uninterrupted(|| openat(self.directory(), &*name, flags, mode));
            let file = File::from(file.map_err(named(OPEN_LOCK))?);
            let kind = fstat(&file).map_err(named("fstat"))?;
            if !has_kind(&kind, SFlag::S_IFREG) || kind.st_size != 0 {
                // This file belongs to another program, so it must not be removed.
                return Err(named(OPEN_LOCK)(Errno::EEXIST));
            }
            let file = match LockedFile::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err(Errno::EWOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(named("flock")(errno)),
            };
            // The previous owner may have removed this file. Then a lock on it excludes no process.
            if self.look(&name).is_ok_and(|found| identity(&found) == identity(&kind)) {
                return Ok(Some(NameLock { place: self, name, _file: file }));
            }
        }
    }

    /// Whether a process listens here. Removes the socket file of a listener that was killed.
    fn is_taken(&self) -> Result<bool, SystemError> {
        // A file of another type stays, and `bind` then fails with EADDRINUSE.
        if !self.look(&self.name).is_ok_and(|found| has_kind(&found, SFlag::S_IFSOCK)) {
            return Ok(false);
        }
        match connect_to(&self.path) {
            Ok(Connected::NoListener) => {
                self.remove();
                Ok(false)
            }
            Ok(Connected::Yes(_) | Connected::Busy) => Ok(true),
            // A process listens with another type of socket.
            Err(error) if error.source.raw_os_error() == Some(libc::EPROTOTYPE) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl Place {
    fn remove(&self) {
        let _ = unlinkat(self.directory(), &*self.name, UnlinkatFlags::NoRemoveDir);
    }

    /// Starts to listen on a socket that was just bound here. Returns the identity of its file.
    fn begin(&self, socket: &OwnedFd) -> Result<(u64, u64), SystemError> {
        let found = self.look(&self.name).map_err(named("fstatat"))?;
        if found.st_mode & 0o777 != PRIVATE.bits() {
            // The umask has removed permissions of this user.
            self.set_mode(identity(&found), PRIVATE)?;
        }
        listen(socket, Backlog::new(BACKLOG).expect("a small number")).map_err(named("listen"))?;
        Ok(identity(&found))
    }
}

impl Place {
    /// Sets the mode of the socket's file, and of no other file: a process that may write to the
    /// directory can have put a link in its place.
    fn set_mode(&self, socket: (u64, u64), mode: Mode) -> Result<(), SystemError> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open = || openat(self.directory(), &*self.name, flags, Mode::empty());
        let file = uninterrupted(open);
        let file = file.map_err(named("openat"))?;
        let found = fstat(&file).map_err(named("fstat"))?;
        if identity(&found) != socket || !has_kind(&found, SFlag::S_IFSOCK) {
            let what = "another file is in the place of the socket: listen in a directory that \
                        only this user may write to";
            let source = io::Error::new(io::ErrorKind::AlreadyExists, what);
            return Err(SystemError { call: "openat", source });
        }
        // The file itself, whatever has its name by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        match fchmodat(AT_FDCWD, &*path, mode, FchmodatFlags::FollowSymlink) {
            Err(Errno::ENOENT) if !has_proc() => Err(no_proc("fchmodat")),
            answer => answer.map_err(named("fchmodat")),
        }
    }
}

/// The locked file of a process that is taking a name. One process at a time can hold it. The
/// kernel unlocks it when that process ends.
struct NameLock<'p> {
    place: &'p Place,
    name: OsString,
    _file: LockedFile,
}

impl Drop for NameLock<'_> {
    fn drop(&mut self) {
        // The lock is still held, so no other process can have locked this file.
        let _ = unlinkat(self.place.directory(), &*self.name, UnlinkatFlags::NoRemoveDir);
    }
}

/// Listens at `place`. Returns the packet socket and its file. `None` if another process listens
/// there, or is taking the name.
pub(crate) fn listen_at(place: Place) -> Result<Option<(OwnedFd, SocketFile)>, SystemError> {
    let address = Address::of(&place.path)?;
    if place.look(&place.name).is_ok_and(|found| has_kind(&found, SFlag::S_IFDIR)) {
        return Err(is_directory());
    }
    let Some(lock) = place.lock()? else { return Ok(None) };
    if place.is_taken()? {
        return Ok(None);
    }
    let socket = new_socket()?;
    // The kernel gives the file the mode of the socket.
    fchmod(&socket, PRIVATE).map_err(named("fchmod"))?;
    // Clients have bytes to say, and nothing else.
    refuse_descriptors(socket.as_fd());
    bind(socket.as_raw_fd(), &address.value).map_err(|errno| match errno {
        Errno::ENOENT if address.is_short() && !has_proc() => no_proc(ADDRESS),
        errno => named("bind")(errno),
    })?;
    let listening = place.begin(&socket);
    let identity = match listening {
        Ok(identity) => identity,
        Err(error) => {
            place.remove();
            return Err(error);
        }
    };
    // Only now: until the socket listens, its file looks like one of a dead listener.
    drop(lock);
    Ok(Some((socket, SocketFile { place, identity, maker: Maker::this() })))
}

/// The file of a listening socket. Dropping this removes the file.
pub(crate) struct SocketFile {
    place: Place,
    identity: (u64, u64),
    maker: Maker,
}

impl SocketFile {
    /// Lets processes of every user connect. The listener decides which ones it serves.
    pub(crate) fn open_to_others(&self) -> Result<(), SystemError> {
        self.place.set_mode(self.identity, Mode::from_bits_retain(0o666))
    }

    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If another process removed this file and listens here now, the file is not ours. While
        // our socket listens, no listener of this crate can take the name between the check and
        // the removal.
        let found = self.place.look(&self.place.name);
        let is_ours = found.is_ok_and(|found| identity(&found) == self.identity);
        if is_ours && self.maker.is_this() {
            self.place.remove();
        }
    }
}

fn identity(found: &FileStat) -> (u64, u64) {
    (found.st_dev, found.st_ino)
}

fn has_kind(found: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == kind
}

/// A file that this process has locked. The lock goes with it, whatever the kernel answers: nix's
/// `Flock` panics when it is dropped and the kernel refuses that call.
#[derive(Debug)]
struct LockedFile(File);

impl LockedFile {
    fn lock(file: File, how: FlockArg) -> nix::Result<LockedFile> {
        flock_file(&file, how)?;
        Ok(LockedFile(file))
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // A copy of the descriptor, in a child that was just forked, does not keep the lock then.
        // After an error the close gives it back.
        let _ = flock_file(&self.0, FlockArg::Unlock);
    }
}

#[allow(deprecated)]
fn flock_file(file: &File, how: FlockArg) -> nix::Result<()> {
    uninterrupted(|| flock(file.as_raw_fd(), how))
}

/// Checks that a file can have the path that `call` is about. To the kernel an empty one is no path
/// at all.
fn check_path(path: &Path, call: &'static str) -> Result<(), SystemError> {
    match flaw_of_path(path) {
        Some(_) => Err(SystemError { call, source: io::ErrorKind::InvalidInput.into() }),
        None => Ok(()),
    }
}

/// That a listener's path is one of a directory.
fn is_directory() -> SystemError {
    SystemError { call: "bind", source: io::ErrorKind::IsADirectory.into() }
}

fn open_directory(path: &Path) -> Result<OwnedFd, SystemError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    uninterrupted(|| openat(AT_FDCWD, path, flags, Mode::empty()))
        .map_err(named("open of the directory"))
}

/// Accepts the next connection, if there is one.
pub(crate) fn accept(listening: BorrowedFd<'_>) -> Result<Option<Socket>, SystemError> {
    loop {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        match accept4(listening.as_raw_fd(), flags) {
            Ok(number) => return Ok(Some(Socket::new(fresh(number)))),
            Err(Errno::EAGAIN) => return Ok(None),
            // A client that has disconnected does not concern the others.
            Err(Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(errno) => return Err(named("accept4")(errno)),
        }
    }
}

/// The result of an attempt to connect.
pub(crate) enum Connected {
    Yes(Socket),
    /// No process listens there.
    NoListener,
    /// The backlog of the listener is full: try again.
    Busy,
}

/// Connects to `path`. Never waits.
pub(crate) fn connect_to(path: &Path) -> Result<Connected, SystemError> {
    check_path(path, "connect")?;
    let address = match Address::of(path) {
        Err(error) => match error.source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                return Ok(Connected::NoListener);
            }
            _ => return Err(error),
        },
        Ok(address) => address,
    };
    let socket = new_socket()?;
    match connect(socket.as_raw_fd(), &address.value) {
        Ok(()) => Ok(Connected::Yes(Socket::new(socket))),
        Err(Errno::ENOENT | Errno::ENOTDIR) if address.is_short() && !has_proc() => {
            Err(no_proc(ADDRESS))
        }
        Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR) => Ok(Connected::NoListener),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Connected::Busy),
        Err(errno) => Err(named("connect")(errno)),
    }
}

/// The address of a socket at a path: the path itself if it fits, otherwise a path through the
/// descriptor of its directory.
struct Address {
    value: UnixAddr,
    directory: Option<OwnedFd>,
}

impl Address {
    fn of(path: &Path) -> Result<Address, SystemError> {
        if let Ok(value) = UnixAddr::new(path) {
            return Ok(Address { value, directory: None });
        }
        let too_long = || named(ADDRESS)(Errno::ENAMETOOLONG);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(too_long());
        };
        let directory = open_directory(parent)?;
        let short = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let value = UnixAddr::new(&Path::new(&short).join(name)).map_err(|_| too_long())?;
        Ok(Address { value, directory: Some(directory) })
    }

    fn is_short(&self) -> bool {
        self.directory.is_some()
    }
}

/// Through /proc, a path of more than 107 bytes is reached as well.
const ADDRESS: &str = "the address of a socket";

pub(super) fn new_socket() -> Result<OwnedFd, SystemError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(named("socket"))
}

pub(super) fn address(path: &Path) -> Result<UnixAddr, SystemError> {
    UnixAddr::new(path).map_err(named("the address of a socket"))
}

/// The mode of a socket that only this user can connect to.
const PRIVATE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
/// The ending of the lock file.
pub(crate) const LOCK_ENDING: &str = ".lock";
/// How often to create the directory while other processes remove it or clean it up.
const MOST_ATTEMPTS: u32 = 1000;
/// The most clients that can wait to be accepted.
const BACKLOG: i32 = 128;
