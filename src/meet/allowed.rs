//! Which users' processes a listener gives ports to, by the kernel's credentials.

use crate::error::SystemError;
use crate::link::endpoint::PeerCredentials;
use crate::os::name;
use crate::os::socket;
use std::os::fd::BorrowedFd;

/// The users and groups that may connect besides the listener's own user.
#[derive(Debug, Default)]
pub(super) struct Allowed {
    users: Vec<u32>,
    groups: Vec<u32>,
}

impl Allowed {
    pub(super) fn users(&mut self, users: impl IntoIterator<Item = u32>) {
        self.users.extend(users);
    }

    pub(super) fn groups(&mut self, groups: impl IntoIterator<Item = u32>) {
        self.groups.extend(groups);
    }

    /// Whether the process that has connected is one of them: by its user, its group, or one of its
    /// supplementary groups, all as they were when it connected.
    pub(super) fn includes(
        &self,
        socket: BorrowedFd<'_>,
        credentials: PeerCredentials,
    ) -> Result<bool, SystemError> {
        let PeerCredentials { uid, gid, .. } = credentials;
        if uid == name::user() || self.users.contains(&uid) || self.groups.contains(&gid) {
            return Ok(true);
        }
        if self.groups.is_empty() {
            return Ok(false);
        }
        Ok(socket::groups(socket)?.iter().any(|group| self.groups.contains(group)))
    }
}
