//! The directory in memory in which peers leave their files, and its removal.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::peers::iceoryx;

/// A directory of this process alone.
pub struct Private {
    path: String,
}

impl Private {
    /// Makes the directory, and removes those of processes that were killed before they could.
    pub fn new() -> Self {
        for entry in fs::read_dir(MEMORY).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.strip_prefix(NAME).unwrap_or_default();
            let pid = number.split('_').next().unwrap_or_default();
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
        let prefix = iceoryx::prefix(&self.path);
        for entry in fs::read_dir(MEMORY).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
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
/// What the directory's name begins with; iceoryx2's files have the same beginning.
const NAME: &str = "messageport-peers.";
