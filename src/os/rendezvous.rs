//! A directory in which any number of processes of one user have a socket each: unix(7), rename(2).
//!
//! What is in it is reached through its descriptor. So no path is too long for a socket's address,
//! and none leads elsewhere after the directory was removed and made again. The table in `name.rs`
//! says which process removes what.

use crate::error::SystemError;
use crate::os::name::{self, Connected, Directory, NoDirectory};
use crate::os::process::Maker;
use crate::os::{has_proc, named, no_proc};
use nix::errno::Errno;
use nix::fcntl::renameat;
use nix::sys::socket::{Backlog, bind, listen};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

/// An open directory of sockets.
pub(crate) struct Rendezvous {
    directory: Directory,
    maker: Maker,
}

impl Rendezvous {
    /// Makes the directory, or finds it. `None` if another process removed it meanwhile.
    pub(crate) fn make(path: &Path) -> Result<Option<Rendezvous>, NoDirectory> {
        let Some((directory, made)) = Directory::make(path.to_owned())? else { return Ok(None) };
        if !has_proc() {
            if made {
                let _ = fs::remove_dir(path);
            }
            return Err(no_proc("open(/proc/self/fd)").into());
        }
        Ok(Some(Rendezvous { directory, maker: Maker::this() }))
    }

    /// Where the directory is.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Whether this process opened it, and not one that this is a forked copy of.
    pub(crate) fn is_ours(&self) -> bool {
        self.maker.is_this()
    }

    /// A socket that listens under `name`. `None` if the directory was removed meanwhile, or the
    /// socket's file before it had its name.
    ///
    /// The name is not visible before the socket listens: a refused connection proves that the
    /// socket's owner has gone.
    pub(crate) fn listen(&self, name: &str) -> Result<Option<OwnedFd>, SystemError> {
        let new = format!("{name}{NEW_ENDING}");
        let socket = name::new_socket()?;
        match bind(socket.as_raw_fd(), &name::address(&self.place(&new))?) {
            Err(Errno::ENOENT) => return Ok(None),
            answer => answer.map_err(named("bind"))?,
        }
        let listening = listen(&socket, Backlog::MAXCONN).map_err(named("listen"));
        let renamed = listening.map(|()| renameat(&self.directory, &*new, &self.directory, name));
        match renamed {
            Ok(Ok(())) => Ok(Some(socket)),
            // Another process has taken it for a dead one's.
            Ok(Err(Errno::ENOENT)) => Ok(None),
            Ok(Err(errno)) => {
                self.remove(&new);
                Err(named("renameat")(errno))
            }
            Err(error) => {
                self.remove(&new);
                Err(error)
            }
        }
    }

    /// The names of the files that are there.
    pub(crate) fn names(&self) -> Result<Vec<String>, SystemError> {
        let failed = |call| move |source| SystemError { call, source };
        let mut names = Vec::new();
        let entries = loop {
            match fs::read_dir(self.place("")) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                answer => break answer.map_err(failed("open"))?,
            }
        };
        for entry in entries {
            // A name that is not text was not made by this crate.
            names.extend(entry.map_err(failed("getdents64"))?.file_name().into_string());
        }
        Ok(names)
    }

    /// Connects to the socket of a name. Never waits.
    pub(crate) fn connect(&self, name: &str) -> Result<Connected, SystemError> {
        name::connect_to(&self.place(name))
    }

    /// Removes a name, if it is there.
    pub(crate) fn remove(&self, name: &str) {
        let _ = unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir);
    }

    /// Removes the directory, which fails while anything is in it.
    pub(crate) fn remove_directory(&self) {
        let _ = fs::remove_dir(self.path());
    }

    /// Removes files that dead owners left behind on the way to their names. A living owner makes
    /// another file; but that must not happen to it all the time when many processes join and look:
    /// so only files that are some seconds old are removed.
    pub(crate) fn sweep(&self, names: &[String]) {
        for name in names.iter().filter(|name| name.ends_with(NEW_ENDING)) {
            let made = fs::symlink_metadata(self.place(name)).and_then(|found| found.modified());
            let is_old =
                made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > LONGEST_PASSAGE));
            if is_old && matches!(self.connect(name), Ok(Connected::NoListener)) {
                self.remove(name);
            }
        }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.directory.place(name)
    }
}

/// How long a socket may be on the way to its name, which takes two calls.
const LONGEST_PASSAGE: Duration = Duration::from_secs(5);
/// The ending of a socket's name before it listens.
const NEW_ENDING: &str = ".new";
/// The most connections that wait at such a socket.
pub(crate) const MOST_WAITING: usize = libc::SOMAXCONN as usize + 1;
