//! Which pages shared memory gets, and how many huge ones this process has mapped.

use std::fs;

/// The setting `advise`, in force until this is dropped.
pub struct Setting {
    before: String,
}

impl Setting {
    /// Switches to `advise`.
    pub fn advise() -> Result<Setting, String> {
        let before = in_force();
        let setting = Setting { before };
        match fs::write(SHMEM_ENABLED, "advise") {
            Ok(()) if in_force() == "advise" => Ok(setting),
            Ok(()) => Err("the kernel did not take the setting".to_owned()),
            Err(error) => Err(format!("{SHMEM_ENABLED} cannot be set: {error}")),
        }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // Without permission it was not changed either.
        let _ = fs::write(SHMEM_ENABLED, &self.before);
    }
}

/// The word in brackets.
pub fn in_force() -> String {
    let text = fs::read_to_string(SHMEM_ENABLED).unwrap_or_default();
    let word = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    word.unwrap_or("unknown").to_owned()
}

/// MiB of huge pages of shared memory that this process has mapped.
pub fn huge_mib() -> u64 {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let field = |line: &str| -> Option<u64> {
        let rest = line.strip_prefix("ShmemPmdMapped:")?;
        rest.trim().strip_suffix(" kB")?.parse().ok()
    };
    smaps.lines().filter_map(field).sum::<u64>() >> 10
}

const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
