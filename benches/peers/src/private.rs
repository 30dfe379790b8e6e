//! The directory in memory in which peers leave their files, and its removal.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::peers::{crossbar, iceoryx};

/// A directory of this process alone.
pub struct Private {
    path: String,
}

impl Private {
    /// Makes the directory, and removes those of processes that were killed before they could.
    pub fn new() -> Self {
        for entry in fs::read_dir(MEMORY).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // The files of iceoryx2 and crossbar have the same name with a few changes.
            let number = NAMES.iter().find_map(|begin| name.strip_prefix(begin));
            let pid = number.unwrap_or_default().split(['_', '-']).next().unwrap_or_default();
            if pid.parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                remove(&entry.path());
            }
        }
        let path = format!("{MEMORY}/{NAME}{}", std::process::id());
        fs::DirBuilder::new().mode(0o700).create(&path).expect("a directory in memory");
        Self { path }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// Removes what a measurement has left.
    pub fn clear(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            remove(&entry.path());
        }
        let [pool, bus] = crossbar::prefixes(&self.path);
        let prefixes = [iceoryx::prefix(&self.path), pool, bus];
        for entry in fs::read_dir(MEMORY).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                remove(&entry.path());
            }
        }
    }

    /// Removes it with all that belongs to it. Call it last.
    pub fn remove(&self) {
        self.clear();
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn remove(path: &Path) {
    // What is gone already need not be removed.
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

const MEMORY: &str = "/dev/shm";
/// What the directory's name begins with.
const NAME: &str = "messageport-peers.";
/// That, and what the files of crossbar begin with.
const NAMES: [&str; 3] = [NAME, "crossbar-messageport-peers_", "crossbar-pod-messageport-peers_"];
