//! The stored counts, and what is said of a count beside its stored one.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

pub struct Stored {
    /// With which the counts were made, and for which target.
    pub compiler: String,
    counts: Vec<(String, f64)>,
}

/// What a count is beside the stored one.
pub enum Verdict {
    Equal,
    /// By so many percent.
    Fewer(f64),
    More(f64),
    New,
}

impl Stored {
    pub fn new(compiler: &str) -> Self {
        Self { compiler: compiler.to_owned(), counts: Vec::new() }
    }

    /// Reads the file of the repository.
    pub fn read() -> Result<Self, String> {
        let path = path();
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("{} could not be read: {error}", path.display()))?;
        let mut stored = Self::new("");
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            if name == "compiler" {
                value.clone_into(&mut stored.compiler);
            } else {
                let count = value.trim().parse().map_err(|_| {
                    format!("{}: {line:?} is not a mode and its count", path.display())
                })?;
                stored.push(name, count);
            }
        }
        Ok(stored)
    }

    pub fn push(&mut self, mode: &str, count: f64) {
        self.counts.push((mode.to_owned(), count));
    }

    pub fn write(&self) -> Result<(), String> {
        let mut text = format!("{HEADER}compiler {}\n", self.compiler);
        for (mode, count) in &self.counts {
            let _ = writeln!(text, "{mode} {count:.1}");
        }
        let path = path();
        fs::write(&path, text)
            .map_err(|error| format!("{} could not be written: {error}", path.display()))
    }

    pub fn find(&self, mode: &str) -> Option<f64> {
        self.counts.iter().find(|(name, _)| name == mode).map(|(_, count)| *count)
    }

    pub fn judge(&self, mode: &str, count: f64) -> Verdict {
        let Some(stored) = self.find(mode) else { return Verdict::New };
        let percent = (count / stored - 1.0) * 100.0;
        match percent {
            _ if percent > TOLERANCE => Verdict::More(percent),
            _ if percent < -TOLERANCE => Verdict::Fewer(-percent),
            _ => Verdict::Equal,
        }
    }
}

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/stored.txt"))
}

/// Percent by which a count may differ.
pub const TOLERANCE: f64 = 3.0;
const HEADER: &str =
    "# Instructions of a post and its receipt: docs/performance-notes.md#instructions.
# Written by benches/instructions/run --store.
";
