//! Counts the instructions of a post and its receipt in one thread, and compares them with the
//! stored counts. `run`, beside this crate, builds and starts it; docs/performance-notes.md says
//! how to read what it prints.

mod callgrind;
mod modes;
mod stored;

use std::path::Path;
use std::process::ExitCode;

use callgrind::Count;
use modes::{LOOP, MODES};
use stored::{Stored, TOLERANCE, Verdict};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        [directory] => compare(Path::new(directory)),
        [directory, "--store"] => store(Path::new(directory)),
        [mode, rounds] => return run(mode, rounds),
        _ => Err("usage: messageport-instructions DIRECTORY [--store], by `run`".to_owned()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("instructions: {error}");
        ExitCode::FAILURE
    })
}

/// What is counted: this program under callgrind.
fn run(mode: &str, rounds: &str) -> ExitCode {
    let mode = MODES.iter().find(|one| one.name == mode);
    match (mode, rounds.parse()) {
        (Some(mode), Ok(rounds)) => {
            mode.run(rounds);
            ExitCode::SUCCESS
        }
        _ => ExitCode::FAILURE,
    }
}

/// Counts each mode, prints it, and says which have more instructions than the stored ones.
fn compare(directory: &Path) -> Result<ExitCode, String> {
    let stored = Stored::read()?;
    let is_comparable = stored.compiler == COMPILER;
    println!("instructions of one round, {COMPILER}:");
    let (mut worse, mut is_better) = (Vec::new(), false);
    for mode in MODES {
        let count = callgrind::count(mode.name, directory)?;
        let mut line = describe(mode.name, count);
        if mode.name == LOOP {
            println!("{line}, in each of the above");
            check_loop(count)?;
            continue;
        }
        if is_comparable {
            line += &match stored.find(mode.name) {
                Some(stored) => format!(", stored {stored:.1}"),
                None => ", not stored".to_owned(),
            };
            let verdict = stored.judge(mode.name, count.own);
            is_better |= matches!(verdict, Verdict::Fewer(_));
            match verdict {
                Verdict::Equal => {}
                Verdict::Fewer(percent) => line += &format!(": {percent:.1} % fewer"),
                Verdict::More(percent) => {
                    line += &format!(": {percent:.1} % more");
                    worse.push(line.trim().to_owned());
                }
                Verdict::New => worse.push(line.trim().to_owned()),
            }
        }
        if let Some(target) = mode.target {
            let all = count.own + count.shared;
            let verdict = if all <= target { "reached" } else { "missed" };
            line += &format!(" (target 16: at most {target:.0}: {verdict})");
        }
        println!("{line}");
    }
    if !is_comparable {
        println!("not compared: the stored counts were made by {}", stored.compiler);
        return Ok(ExitCode::from(NOT_COMPARED));
    }
    if is_better {
        println!("hint: store the lower counts: benches/instructions/run --store");
    }
    if worse.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(format!(
        "more than {TOLERANCE} % above the stored count, or not stored:\n  {}\nMake the path \
         shorter. If the count is meant, store it with `benches/instructions/run --store`, and \
         say why in the commit.",
        worse.join("\n  ")
    ))
}

/// Counts each mode, and writes the counts to the file of the repository.
fn store(directory: &Path) -> Result<ExitCode, String> {
    let mut stored = Stored::new(COMPILER);
    for mode in MODES {
        let count = callgrind::count(mode.name, directory)?;
        println!("{}", describe(mode.name, count));
        if mode.name == LOOP {
            check_loop(count)?;
        } else {
            stored.push(mode.name, count.own);
        }
    }
    stored.write()?;
    println!("stored for {COMPILER}");
    Ok(ExitCode::SUCCESS)
}

fn describe(mode: &str, count: Count) -> String {
    let shared = match count.shared {
        shared if shared < 0.5 => String::new(),
        shared => format!(" and {shared:.1} of shared libraries"),
    };
    format!("  {mode}: {:.1}{shared}", count.own)
}

fn check_loop(count: Count) -> Result<(), String> {
    if count.own + count.shared < MOST_OF_LOOP {
        return Ok(());
    }
    Err(format!("a round that does nothing takes {:.1}, expected < {MOST_OF_LOOP}", count.own))
}

/// Set by build.rs.
const COMPILER: &str = env!("COMPILER");
/// What the loop of this program may add to a count.
const MOST_OF_LOOP: f64 = 5.0;
/// The exit code of a check that could not be made; `.ci/run` counts it as skipped.
const NOT_COMPARED: u8 = 77;
