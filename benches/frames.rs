//! Frames per second of a pipeline of three processes, for each way of handing a frame over, beside
//! memory that is mapped before and carries nothing but the frames.
//!
//! A source writes each frame, a filter reads it and writes another one, and a sink reads that.
//! These are the same loops over the same bytes for every way, so the figures differ by what the
//! hand-over costs. A link holds three frames. The source and the sink are pinned to one core, the
//! filter to another; all of them sleep while they have nothing to do.
//!
//! As root it measures twice: with the pages that shared memory has by default, and with huge
//! pages. For these it sets `shmem_enabled` to `advise`, and restores it afterwards. With
//! `MESSAGEPORT_BENCH_QUICK` it leaves the setting alone, and takes a few small frames.

#![allow(unsafe_code, missing_docs)]

#[path = "frames/links.rs"]
mod links;
#[path = "frames/mapped.rs"]
mod mapped;
#[path = "frames/pages.rs"]
mod pages;
#[path = "frames/pipeline.rs"]
mod pipeline;

mod harness;

use harness::child;
use harness::machine::{self, Machine};
use links::Way;
use pages::Setting;
use pipeline::{Run, Size};

fn main() {
    if child::serve(pipeline::ROLES) {
        return;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = std::env::var_os("MESSAGEPORT_BENCH_QUICK").is_some_and(|value| value != "0")
        || !arguments.iter().any(|argument| argument == "--bench");
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let ways: Vec<Way> = Way::ALL
        .into_iter()
        .filter(|way| {
            *way == Way::Mapped || filter.is_none_or(|filter| way.name().contains(filter.as_str()))
        })
        .collect();
    let machine = Machine::detect();
    let Some(cores) = machine.pair else {
        return println!("frames: left out, all processes would share one core");
    };
    machine::pin(cores.0);
    println!("frames on {machine}{}", if quick { ", quick mode" } else { "" });
    let size = if quick { Size::QUICK } else { Size::FULL };
    measure(&ways, cores, size);
    if quick {
        return;
    }
    match Setting::advise() {
        Ok(setting) => {
            measure(&ways, cores, size);
            drop(setting);
        }
        Err(why) => println!("\nframes with huge pages: left out, {why}"),
    }
    child::disarm_deadline();
}

/// Runs every way in turns, so that a host that changes meanwhile strikes all of them, and prints
/// the table.
fn measure(ways: &[Way], cores: (usize, usize), size: Size) {
    let mut runs: Vec<Vec<Run>> = ways.iter().map(|_| Vec::new()).collect();
    for _ in 0..size.repetitions {
        for (way, runs) in ways.iter().zip(&mut runs) {
            child::arm_deadline();
            runs.push(pipeline::run(*way, cores, size));
        }
    }
    println!(
        "\n{} frames of {} bytes each, median of {} runs; shmem_enabled: {}\n",
        size.frames,
        size.bytes,
        size.repetitions,
        pages::in_force()
    );
    println!("| way | frames/s | least to most | beside memcpy | huge pages | goal |");
    println!("|---|---|---|---|---|---|");
    let rate = |runs: &[Run]| median(runs.iter().map(|run| run.rate).collect());
    let reference = rate(&runs[0]);
    for (way, runs) in ways.iter().zip(&runs) {
        let rates = runs.iter().map(|run| run.rate);
        let (least, most) = (rates.clone().fold(f64::MAX, f64::min), rates.fold(0.0, f64::max));
        let share = rate(runs) / reference;
        let huge = runs[0].huge_mib;
        let goal = way.goal(huge > 0).map_or(String::new(), |goal| {
            let judged = if share >= goal { "reached" } else { "missed" };
            format!("{goal:.2} {judged}")
        });
        let name = way.name();
        let rate = rate(runs);
        println!(
            "| {name} | {rate:.0} | {least:.0} to {most:.0} | {share:.2} | {huge} MiB | {goal} |"
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
