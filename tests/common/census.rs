//! What a process holds: what a test must give back.

use std::fs;

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
    /// Counts what this process holds. Only for a process in which nothing else runs.
    pub fn take() -> Census {
        let links: Vec<_> = fs::read_dir("/proc/self/fd")
            .expect("a process has descriptors")
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            // The one by which this very directory is read.
            .filter(|link| !link.to_string_lossy().ends_with("/fd"))
            .collect();
        let maps = fs::read_to_string("/proc/self/maps").expect("a process has mappings");
        Census {
            descriptors: links.len(),
            memfds: links.iter().filter(|link| link.to_string_lossy().contains(REGION)).count(),
            mappings: maps.lines().filter(|line| line.contains(REGION)).count(),
        }
    }
}

/// Whether this process has no children any more, the dead ones included.
pub fn has_no_children() -> bool {
    nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG))
        == Err(nix::errno::Errno::ECHILD)
}

/// What a region is called in `/proc`.
pub const REGION: &str = "memfd:messageport";
