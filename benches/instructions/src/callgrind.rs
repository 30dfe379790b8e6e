//! Runs this program under callgrind, and reads the file that it writes.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Instructions of a run or of a round.
#[derive(Clone, Copy)]
pub struct Count {
    /// Of this executable: the crate, Rust's standard library and this program's loop.
    pub own: f64,
    /// Of shared libraries: the C library's copies, which depend on its version and the processor.
    pub shared: f64,
}

/// Instructions of one round: from two runs, so that what comes before the first one cancels out.
pub fn count(mode: &str, directory: &Path) -> Result<Count, String> {
    let few = run(mode, FEW, directory)?;
    let many = run(mode, MANY, directory)?;
    let rounds = (MANY - FEW) as f64;
    Ok(Count { own: (many.own - few.own) / rounds, shared: (many.shared - few.shared) / rounds })
}

fn run(mode: &str, rounds: usize, directory: &Path) -> Result<Count, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let file = directory.join("callgrind.out");
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", file.display()));
    command.arg(&program).args([mode, &rounds.to_string()]);
    let output = command.output().map_err(|error| {
        format!("valgrind could not be started ({error}); install it (Debian: valgrind)")
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{mode} under valgrind ended with {}:\n{said}", output.status));
    }
    let text = fs::read_to_string(&file)
        .map_err(|error| format!("valgrind wrote no {}: {error}", file.display()))?;
    parse(&text, &program.display().to_string())
}

/// Sums the lines of costs by the object that they belong to. Lines of an object follow its `ob=`;
/// what a callee cost stands behind each `calls=` once more.
fn parse(text: &str, program: &str) -> Result<Count, String> {
    let mut names = HashMap::new();
    let (mut own, mut shared, mut total) = (0, 0, None);
    let (mut is_own, mut is_call) = (false, false);
    for line in text.lines() {
        if let Some(object) = line.strip_prefix("ob=").or(line.strip_prefix("cob=")) {
            // A name stands behind its number where it comes for the first time.
            let (number, name) = object.split_once(' ').unwrap_or((object, ""));
            if !name.is_empty() {
                names.insert(number, name);
            }
            if line.starts_with("ob=") {
                is_own = names.get(number) == Some(&program);
            }
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if let Some(value) = line.strip_prefix("totals: ") {
            total = value.parse::<u64>().ok();
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            if std::mem::take(&mut is_call) {
                continue;
            }
            let cost = line.rsplit(' ').next().and_then(|cost| cost.parse::<u64>().ok());
            let cost =
                cost.ok_or_else(|| format!("callgrind wrote a line without cost: {line}"))?;
            *if is_own { &mut own } else { &mut shared } += cost;
        }
    }
    if total != Some(own + shared) || own == 0 {
        let sum = own + shared;
        return Err(format!(
            "callgrind says {total:?} instructions, and its lines {sum}, of which {own} are of \
             {program}: src/callgrind.rs does not understand this version's format"
        ));
    }
    Ok(Count { own: own as f64, shared: shared as f64 })
}

/// Rounds of the two runs; both hold a whole number of batches more or less.
const FEW: usize = 10_000;
const MANY: usize = 30_000;
