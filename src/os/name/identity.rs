//! Whether the number of a user or group identifies one: user_namespaces(7).

use crate::error::SystemError;
use crate::os::{has_proc, no_proc};
use nix::unistd::geteuid;
use std::fs::File;
use std::io::{self, Read};

/// The effective user of this process, which is what peers see on its sockets.
pub(crate) fn user() -> u32 {
    geteuid().as_raw()
}

/// Checks that the UID of this process identifies one user.
///
/// In a user namespace the kernel shows every user without a UID there as 65534. So 65534
/// identifies one user only in a namespace in which all users have numbers.
pub(crate) fn check_user() -> Result<(), SystemError> {
    check_identity(user())
}

/// The same for another user.
pub(crate) fn check_identity(number: u32) -> Result<(), SystemError> {
    USERS.check(number)
}

/// The same for a group.
pub(crate) fn check_group(number: u32) -> Result<(), SystemError> {
    GROUPS.check(number)
}

/// Which numbers of this user namespace are numbers outside of it: a file of the kernel.
struct Map {
    path: &'static str,
    /// The call that returns such a number, and the calls that read the file, for errors.
    number: &'static str,
    open: &'static str,
    read: &'static str,
}

const USERS: Map = Map {
    path: "/proc/self/uid_map",
    number: "geteuid",
    open: "open of /proc/self/uid_map",
    read: "read of /proc/self/uid_map",
};
const GROUPS: Map = Map {
    path: "/proc/self/gid_map",
    number: "getegid",
    open: "open of /proc/self/gid_map",
    read: "read of /proc/self/gid_map",
};

impl Map {
    fn check(&self, number: u32) -> Result<(), SystemError> {
        if number != OVERFLOW_ID || self.has_all()? {
            return Ok(());
        }
        let what = "in this user namespace the number 65534 stands for every user and group that \
                    has none here, so one cannot be told from others: give it a number";
        let source = io::Error::new(io::ErrorKind::PermissionDenied, what);
        Err(SystemError { call: self.number, source })
    }

    /// Whether every user or group has a number in this namespace.
    fn has_all(&self) -> Result<bool, SystemError> {
        let mut file = match File::open(self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return if has_proc() { Ok(false) } else { Err(no_proc(self.open)) };
            }
            answer => answer.map_err(|source| SystemError { call: self.open, source })?,
        };
        let mut map = String::new();
        file.read_to_string(&mut map).map_err(|source| SystemError { call: self.read, source })?;
        Ok(map.split_whitespace().eq(["0", "0", "4294967295"]))
    }
}

/// The number that the kernel shows for a user without a number in this user namespace.
const OVERFLOW_ID: u32 = 65534;

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &'static str) -> SystemError {
        Map { path, ..USERS }.check(OVERFLOW_ID).expect_err("this is no map of all users")
    }

    /// Otherwise a process that is out of descriptors is told that its user is the fault.
    #[test]
    fn a_map_that_cannot_be_read_is_an_error_of_its_call() {
        let error = refusal("/proc/self");
        assert_eq!(error.call, "read of /proc/self/uid_map");
        assert_eq!(error.source.raw_os_error(), Some(libc::EISDIR));
        let error = refusal("/proc/self/status/uid_map");
        assert_eq!(error.call, "open of /proc/self/uid_map");
        assert_eq!(error.source.raw_os_error(), Some(libc::ENOTDIR));
    }

    #[test]
    fn where_no_map_is_there_the_number_stands_for_several() {
        for path in ["/proc/self/no-such-file", "/dev/null"] {
            let error = refusal(path);
            assert_eq!(error.call, "geteuid");
            assert_eq!(error.source.kind(), io::ErrorKind::PermissionDenied);
        }
        Map { path: "/dev/null", ..USERS }.check(1000).expect("other numbers are of one user");
    }
}
