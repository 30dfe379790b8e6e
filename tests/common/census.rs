//! What a process holds: what a test must give back.

use super::role::has_role;
use super::{DEADLINE, proc, region};
use std::fmt::Display;
use std::fs;
use std::thread;
use std::time::Instant;

/// Descriptors, and what keeps regions alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    pub descriptors: usize,
    /// Descriptors of regions.
    pub memfds: usize,
    /// Mappings of regions.
    pub mappings: usize,
}

impl Census {
    /// Counts what this process holds. The process must play a role: in the harness's own process,
    /// other tests open and close descriptors at the same time.
    pub fn take() -> Census {
        assert!(has_role(), "a census needs a process of its own: see `common::role::play`");
        let links = descriptors();
        let maps = fs::read_to_string(proc("self/maps")).expect("a process has mappings");
        Census {
            descriptors: links.len(),
            memfds: links.iter().filter(|link| link.contains(REGION)).count(),
            mappings: maps.lines().filter(|line| line.contains(REGION)).count(),
        }
    }

    /// Waits until this process holds no more than it did at this census, and fails when it never
    /// does: the kernel may close what was in flight a moment later. It may hold less: a thread may
    /// have been about to close something when the census was taken.
    #[track_caller]
    pub fn wait_for(self, when: impl Display) {
        let deadline = Instant::now() + DEADLINE / 3;
        let mut now = Census::take();
        while now.holds_more_than(self) {
            assert!(
                Instant::now() < deadline,
                "{when}: expected {self:?}, found {now:?}\n{:#?}\n{}",
                descriptors(),
                region::show_all(),
            );
            thread::yield_now();
            now = Census::take();
        }
    }

    fn holds_more_than(self, other: Census) -> bool {
        self.descriptors > other.descriptors
            || self.memfds > other.memfds
            || self.mappings > other.mappings
    }
}

/// What each descriptor of this process leads to.
fn descriptors() -> Vec<String> {
    fs::read_dir(proc("self/fd"))
        .expect("a process has descriptors")
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        // The one by which this very directory is read.
        .filter(|link| !link.ends_with("/fd"))
        .collect()
}

/// Whether this process has no children any more, the dead ones included.
pub fn has_no_children() -> bool {
    nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG))
        == Err(nix::errno::Errno::ECHILD)
}

/// What a region is called in `/proc`.
pub const REGION: &str = "memfd:messageport";
