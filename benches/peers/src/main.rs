//! messageport beside other ways of talking to another process, under one harness, in one run.
//!
//! The process that the user starts measures nothing itself: it starts a runner for each
//! measurement (`runner.rs`), and the runner starts the other side (`exchange.rs`). Both are this
//! executable again.

#[macro_use]
mod sized;

mod bars;
mod comparison;
mod entries;
mod exchange;
mod handoffs;
mod harness;
mod own;
mod peers;
mod plot;
mod private;
mod rows;
mod runner;
mod subjects;
mod table;
mod targets;
mod transport;
mod typed_trips;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use comparison::{Comparison, Failures, OtherProfile};
use harness::machine::Machine;
use subjects::{Entry, Promises};

/// Compares messageport with other ways of talking to another process, in one run.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Some rows, one short repetition each: shows that everything works, in about a minute.
    #[arg(long)]
    quick: bool,
    /// Rows whose id contains one of these words.
    #[arg(long, value_delimiter = ',', value_name = "WORD,…")]
    rows: Vec<String>,
    /// Subjects whose name contains one of these words, and the limits.
    #[arg(long, value_delimiter = ',', value_name = "WORD,…")]
    only: Vec<String>,
    /// Repetitions of each measurement.
    #[arg(long, value_name = "COUNT")]
    repetitions: Option<u32>,
    /// Writes every figure of every run.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Measures our subjects also as this other profile builds them, in turns: `--against lto`.
    #[arg(long, value_name = "PROFILE")]
    against: Option<String>,
    /// Draws the time of a message by size and round trips by percentile; FILE.points.csv has the points.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Draws FILE.svg again from FILE.points.csv, and measures nothing.
    #[arg(long, value_name = "FILE.svg")]
    redraw: Option<PathBuf>,
    /// Names the rows, and the subjects with their configurations, and measures nothing.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    if harness::child::serve(&subjects::roles()) || runner::serve() {
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    if arguments.list {
        list();
        return ExitCode::SUCCESS;
    }
    if let Some(path) = &arguments.redraw {
        return match plot::redraw(path) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("plot: {} could not be drawn: {error}", path.display());
                ExitCode::FAILURE
            }
        };
    }
    let machine = Machine::detect();
    if machine.pair.is_none() {
        println!("nothing measured: both sides would share one core");
        return ExitCode::SUCCESS;
    }
    let other = match arguments.against.map(OtherProfile::build).transpose() {
        Ok(other) => other,
        Err(error) => {
            eprintln!("--against: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mode = if arguments.quick { ", quick mode" } else { "" };
    println!("{machine}, profile {}{mode}", table::profile());
    let comparison = Comparison {
        machine,
        is_quick: arguments.quick,
        rows: arguments.rows,
        only: arguments.only,
        repetitions: arguments.repetitions.unwrap_or(if arguments.quick { 1 } else { 5 }),
        other,
    };
    let results = comparison.run();
    table::print_legend(&results);
    targets::print(&results, arguments.quick);
    let mut code = ExitCode::SUCCESS;
    let mut report = |what: &str, path: &PathBuf, written: Result<(), String>| match written {
        Ok(()) => println!("{what}: {}", path.display()),
        Err(error) => {
            eprintln!("{what}: {} could not be written: {error}", path.display());
            code = ExitCode::FAILURE;
        }
    };
    if let Some(path) = &arguments.csv {
        report("figures", path, table::write_csv(path, &results).map_err(|e| e.to_string()));
    }
    if let Some(path) = &arguments.plot {
        report("plot", path, plot::draw(path, &results).map_err(|e| e.to_string()));
    }
    let failures = Failures::of(&results);
    if !failures.lines.is_empty() {
        println!("measurements that failed: {}", failures.lines.len());
        for line in &failures.lines {
            println!("  {line}");
        }
    }
    // That another library stops or crashes is a result, and printed as one.
    if failures.own > 0 {
        code = ExitCode::FAILURE;
    }
    code
}

fn list() {
    println!("rows (* in quick mode):");
    for row in rows::all() {
        println!("  {}{}  {}", row.id, if row.is_quick { "*" } else { "" }, row.title);
    }
    println!("subjects:");
    for Entry { name, kind, promises, about, .. } in subjects::all() {
        let Promises { length, loss } = promises;
        println!("  {name} ({}; length: {length}; loss: {loss})  {about}", kind.name());
    }
}
