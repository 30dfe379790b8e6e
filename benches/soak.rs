//! Everything that the crate does, at random, for as long as it is told: is anything lost, and does
//! anything drift?
//!
//! One driver process chooses actions by a seed, and knows what each has to result in: every
//! message arrives once, in order and whole; every request has one outcome; every port that moves
//! arrives with what is unread in it. It has one to 17 partner processes, which it starts, kills
//! and ends, and a pool of two workers, which it kills: two to 20 processes in all.
//!
//! `MESSAGEPORT_SOAK_SECONDS=3600 cargo bench --bench soak` runs for an hour. A line a minute says
//! what was done, how long messages took, and what the processes hold. Behind each of these slices
//! all partners but one end. Then the driver and that partner must hold as many descriptors and
//! mappings as behind the first slice, and about as much memory. Nothing is asserted about time.
//!
//! `MESSAGEPORT_SOAK_SEED=7` repeats the actions of a run, though not the instants of its kills.
//! `MESSAGEPORT_SOAK_FAULT` plants a fault, so that the soak can be seen to fail: see `Fault`.

#![allow(missing_docs)]

#[path = "soak/actions.rs"]
mod actions;
#[path = "soak/driver.rs"]
mod driver;
#[path = "soak/gauge.rs"]
mod gauge;
#[path = "soak/moves.rs"]
mod moves;
#[path = "soak/partner.rs"]
mod partner;
#[path = "soak/words.rs"]
mod words;

use std::env;
use std::time::{Duration, Instant};

use driver::Driver;
use gauge::{Gauge, Held};

fn main() {
    if partner::serve() {
        return;
    }
    let quick = env::var_os("MESSAGEPORT_BENCH_QUICK").is_some_and(|value| value != "0")
        || !env::args().any(|argument| argument == "--bench");
    let seconds = number("MESSAGEPORT_SOAK_SECONDS").unwrap_or(if quick { 2.0 } else { 20.0 });
    let seed = number("MESSAGEPORT_SOAK_SEED").map(|seed| seed as u64);
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    let slices = ((seconds / 60.0) as u32).max(LEAST_SLICES);
    let length = Duration::from_secs_f64(seconds / f64::from(slices));
    println!("soak: seed {seed}, {slices} slices of {length:.1?}, 2 to {} processes", MOST + 3);
    run(&mut Driver::new(seed, if quick { QUICK } else { MOST }), slices, length);
}

fn run(driver: &mut Driver, slices: u32, length: Duration) {
    // Less than a second may not have seen all that is opened once in a process.
    let slack = if length < Duration::from_secs(10) { 2 } else { 0 };
    gauge::print_heading();
    let mut rests: Vec<Held> = Vec::new();
    for slice in 0..slices {
        let (mut gauge, end) = (Gauge::new(), Instant::now() + length);
        // Whatever opens something once in a process has opened it behind the first slice.
        if slice == 0 {
            driver.act_each_once(&mut gauge);
        }
        while Instant::now() < end {
            driver.act(&mut gauge);
        }
        driver.look_at_all(&mut gauge);
        driver.rest(&mut gauge);
        let held = match rests.first() {
            None => driver.settled(),
            Some(first) => driver.wait_until_at_most(first, slack),
        };
        gauge.print(slice, &held);
        // The second rest is the measure of memory: the first still has what only the start needs.
        if let Some(second) = rests.get(1) {
            held.expect_no_growth(second);
        }
        rests.push(held);
    }
    println!("nothing was lost, and nothing has drifted: {}", driver.totals());
}

fn number(name: &str) -> Option<f64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, and expected is a number")))
}

/// Partners at the same time. With the driver and the workers of the pool there are three more.
const MOST: usize = 17;
const QUICK: usize = 4;
const LEAST_SLICES: u32 = 4;
