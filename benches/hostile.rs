//! How long calls take beside a hostile peer, and how long an honest client waits whose server has
//! one. Prints the two tables of `docs/safety.md`.
//!
//! With `MESSAGEPORT_BENCH_QUICK` the floods last for fractions of a second. Medians that are far
//! above those of the same run without a flood are named behind the table. Nothing is asserted, as
//! in the other benchmarks: nothing about time holds on every machine.

#![allow(unsafe_code, missing_docs)]

#[path = "hostile/attacks.rs"]
mod attacks;
#[path = "hostile/calls.rs"]
mod calls;
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "hostile/floods.rs"]
mod floods;
#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../tests/kernel/locked.rs"]
mod locked;
#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../tests/hostile/rig/peer.rs"]
mod peer;
#[path = "hostile/play.rs"]
mod play;
#[path = "hostile/served.rs"]
mod served;

use std::time::Duration;

fn main() {
    if play::serve() {
        return;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = std::env::var_os("MESSAGEPORT_BENCH_QUICK").is_some_and(|value| value != "0")
        || !arguments.iter().any(|argument| argument == "--bench");
    let wanted = |name: &str| {
        let mut filters = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
        filters.peek().is_none() || filters.any(|filter| name.contains(filter.as_str()))
    };
    println!("hostile on {}{}", play::machine(), if quick { ", quick mode" } else { "" });
    if wanted("floods") {
        let time = Duration::from_millis(if quick { 300 } else { 4000 });
        for miss in floods::run(time) {
            println!("missed: {miss}");
        }
    }
    if wanted("calls") {
        calls::run(Duration::from_millis(if quick { 200 } else { 3000 }));
    }
}
