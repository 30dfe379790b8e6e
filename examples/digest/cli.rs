//! The command line.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use clap::Parser;

use crate::output;
use crate::protocol;
use crate::standard;

/// What the command line asks for.
pub enum Invocation {
    /// Nothing more: help was printed, or an error.
    Exit(ExitCode),
    /// To be a worker of the parent process.
    Worker {
        /// Whether the parent trusts this process and is trusted.
        trusted: bool,
    },
    /// To digest files.
    Digest(Options),
}

/// What to digest, and how.
pub struct Options {
    /// The names, in the order given.
    pub files: Vec<OsString>,
    /// How many worker processes.
    pub workers: usize,
    /// Whether payloads are used in place.
    pub trusted: bool,
    /// Whether to race processes against threads.
    pub compare: bool,
}

/// Print SHA-256 checksums as sha256sum does, computed by one worker process per core.
///
/// With no FILE, the sources of this crate. When FILE is -, read standard input.
///
/// Standard output and the exit status are those of sha256sum; progress and a summary line go to
/// standard error.
#[derive(Parser)]
#[command(name = protocol::NAME, version, verbatim_doc_comment)]
struct Arguments {
    /// Files to digest; - is standard input
    #[arg(value_name = "FILE")]
    files: Vec<OsString>,

    /// Number of worker processes [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,

    /// Let both sides use each other's messages in place, without a private copy
    #[arg(long)]
    trusted: bool,

    /// Do the work on threads, on processes and on trusted processes, and print the ratio
    #[arg(long, conflicts_with = "trusted")]
    compare: bool,

    /// Serve the process that started this one.
    #[arg(long, hide = true, conflicts_with_all = ["files", "workers", "compare"])]
    worker: bool,
}

/// Reads the command line of this process.
pub fn parse() -> Invocation {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(answer) => {
            if !answer.use_stderr()
                && let Err(error) = standard::output()
            {
                output::report_write_error(&error);
                return Invocation::Exit(ExitCode::FAILURE);
            }
            let _ = answer.print();
            // 1 where clap would say 2: the exit codes are sha256sum's.
            let code = if answer.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            return Invocation::Exit(code);
        }
    };
    if arguments.worker {
        return Invocation::Worker { trusted: arguments.trusted };
    }
    let mut files = arguments.files;
    if files.is_empty() {
        match own_sources() {
            Ok(sources) => files = sources,
            Err(error) => {
                output::report(format_args!("the sources of this crate: {error}"));
                return Invocation::Exit(ExitCode::FAILURE);
            }
        }
    }
    let workers = arguments.workers.map_or_else(cores, usize::from);
    let (trusted, compare) = (arguments.trusted, arguments.compare);
    Invocation::Digest(Options { files, workers, trusted, compare })
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// All files under the crate's `src`, sorted; relative where that is the shorter name of the same.
fn own_sources() -> io::Result<Vec<OsString>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = env::current_dir().is_ok_and(|directory| directory == root);
    let mut folders = vec![if here { PathBuf::from("src") } else { root.join("src") }];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let found = if entry.file_type()?.is_dir() { &mut folders } else { &mut files };
            found.push(entry.path());
        }
    }
    files.sort();
    Ok(files.into_iter().map(PathBuf::into_os_string).collect())
}
