//! The targets of the project (`docs/performance-notes.md`), judged by what this run says.
//!
//! Nothing is asserted, since nothing about time holds on every machine. A target that is missed is
//! printed like one that is reached, with what it was compared with.

use crate::comparison::{Cell, RowResult};
use crate::harness::report::usual_distance;
use crate::rows::Unit;
use crate::subjects::Kind;
use crate::table::{best_peer, figure, ratio_of, summary};

/// What a figure is divided by.
#[derive(Clone, Copy)]
enum Base {
    /// A subject of the same row.
    Subject(&'static str),
    /// A subject of another row.
    Of(&'static str, &'static str),
    /// The fastest peer of the row between processes.
    BestPeer,
    /// The fastest of those that take messages of any length.
    BestVariable,
    /// Nothing: the figure itself is judged, in the row's unit.
    Absolute,
}

struct Target {
    number: u32,
    row: &'static str,
    subject: &'static str,
    base: Base,
    /// Not to be exceeded.
    most: f64,
}

const fn target(
    number: u32,
    row: &'static str,
    subject: &'static str,
    base: Base,
    most: f64,
) -> Target {
    Target { number, row, subject, base, most }
}

use Base::{Absolute, BestPeer, BestVariable, Of, Subject};

/// The table of targets. A rate 1.5 times as high is a time of 1 / 1.5. Targets 11, 13, 15, 16, 17
/// and 19 are about this crate alone: its own benchmarks and tests judge them.
const TARGETS: &[Target] = &[
    target(1, "trip-64-typed", "messageport-typed", BestPeer, 1.0),
    target(1, "trip-64-typed", "messageport-typed", Subject("two-lines"), 1.7),
    target(2, "trip-1K", "messageport", BestPeer, 1.0),
    target(2, "trip-1K-typed", "messageport-typed", BestPeer, 1.0),
    target(3, "way-8-burst", "messageport", BestVariable, 1.0 / 1.5),
    target(3, "way-8", "messageport", BestVariable, 1.0),
    target(4, "way-64", "messageport", BestPeer, 1.0),
    target(4, "way-1K", "messageport", BestPeer, 1.0),
    target(4, "way-64K", "messageport", BestPeer, 1.0),
    target(5, "way-64", "messageport-loan", BestPeer, 1.0 / 1.2),
    target(6, "asleep-64", "messageport", Subject("stream-doorbell"), 1.1),
    target(6, "asleep-64", "messageport", Subject("futex"), 1.3),
    target(7, "wake-50us", "messageport", Subject("futex"), 1.1),
    target(7, "wake-2ms", "messageport", Subject("futex"), 1.1),
    target(8, "handoff-1M", "messageport-pooled", BestPeer, 1.0),
    target(8, "handoff-1M", "messageport-loan", BestPeer, 1.0),
    target(8, "handoff-16M", "messageport-pooled", BestPeer, 1.0),
    target(8, "handoff-256M", "messageport-pooled", BestPeer, 1.0),
    target(8, "handoff-256M", "messageport-pooled", Of("handoff-1M", "messageport-pooled"), 1.2),
    target(9, "handoff-1M-read", "messageport-fresh", Subject("bare-memfd"), 1.2),
    target(9, "handoff-16M-read", "messageport-fresh", Subject("bare-memfd"), 1.2),
    target(10, "transfer", "messageport", Subject("bare-calls"), 2.0),
    target(12, "create", "messageport", Absolute, 40_000.0),
    target(12, "memory", "messageport", Absolute, 16_384.0),
    // Both ends in one process share the memory's descriptor.
    target(12, "descriptors", "messageport", Absolute, 6.0),
    target(14, "trip-64", "messageport", Subject("messageport-trusted"), 1.3),
    target(14, "trip-1K", "messageport", Subject("messageport-trusted"), 1.3),
    target(14, "trip-64-typed", "messageport-typed", Subject("messageport-trusted-typed"), 1.3),
    target(14, "trip-1K-typed", "messageport-typed", Subject("messageport-trusted-typed"), 1.3),
    target(14, "way-8", "messageport", Subject("messageport-trusted"), 1.3),
    target(14, "way-64", "messageport", Subject("messageport-trusted"), 1.3),
    target(14, "way-1K", "messageport", Subject("messageport-trusted"), 1.3),
    target(18, "way-4K", "messageport", Subject("slots"), 1.5),
    target(18, "way-64K", "messageport", Subject("slots"), 1.5),
    target(18, "way-256K", "messageport", Subject("slots"), 1.5),
    target(18, "way-1M", "messageport", Subject("slots"), 1.5),
];

/// Prints each target of the rows that were measured, and every row in which a peer is faster.
pub fn print(results: &[RowResult], is_quick: bool) {
    println!("\nBars (16: throughput as the hardware's own limit at that size):");
    let (mut reached, mut missed) = (0, 0);
    for target in TARGETS {
        let Some((text, is_reached)) = judge(target, results) else { continue };
        println!("  {text}");
        if is_reached {
            reached += 1;
        } else {
            missed += 1;
        }
    }
    println!("  {reached} reached, {missed} missed");
    println!("Rows in which a peer is faster than every one of ours:");
    let mut lost = 0;
    for result in results {
        if let Some(text) = loss(result) {
            println!("  {text}");
            lost += 1;
        }
    }
    if lost == 0 {
        println!("  none");
    }
    if is_quick {
        println!("quick mode: too few operations for these figures to say anything");
    }
}

fn judge(target: &Target, results: &[RowResult]) -> Option<(String, bool)> {
    let result = find_row(results, target.row)?;
    let index = find(result, target.subject)?;
    let own = middle(result, index)?;
    let Target { number, row, subject, most, .. } = target;
    let begin = format!("target {number}: {row} {subject}");
    let against =
        |base: usize| Some((ratio_of(result, index, base)?, result.cells[base].name.to_owned()));
    let (ratio, base) = match target.base {
        Absolute => {
            let unit = result.row.unit();
            let (own_text, most_text) = (figure(unit, own), figure(unit, *most));
            let is_reached = own <= *most;
            let text = format!("{begin} {own_text}, at most {most_text}: {}", verdict(is_reached));
            return Some((text, is_reached));
        }
        Subject(name) => against(find(result, name)?)?,
        Of(row, name) => {
            let other = find_row(results, row)?;
            (own / middle(other, find(other, name)?)?, format!("{row} {name}"))
        }
        BestPeer => against(best_peer(result, |cell| cell.kind.is_peer())?)?,
        BestVariable => against(best_peer(result, |cell| cell.kind == Kind::Peer)?)?,
    };
    let is_reached = ratio <= *most;
    let verdict = verdict(is_reached);
    Some((
        format!("{begin} takes {ratio:.2} times {base}, at most {most:.2}: {verdict}"),
        is_reached,
    ))
}

fn verdict(is_reached: bool) -> &'static str {
    if is_reached { "reached" } else { "missed" }
}

/// Names the peer that is faster than all of ours, if there is one.
fn loss(result: &RowResult) -> Option<String> {
    let best = best_peer(result, |cell| cell.kind.is_peer())?;
    let ours = best_peer(result, |cell: &Cell| cell.kind == Kind::Ours)?;
    let (own, least) = (middle(result, ours)?, middle(result, best)?);
    let unit = result.row.unit();
    // A ratio of times is that of each repetition; a ratio to zero has no meaning.
    let ratio = if unit == Unit::Time { ratio_of(result, ours, best)? } else { own / least };
    let is_lost = if unit == Unit::Time { ratio > 1.0 } else { own > least };
    let times = if ratio.is_finite() { format!(" ({ratio:.2} times)") } else { String::new() };
    let (own, least) = (figure(unit, own), figure(unit, least));
    let (ours, best) = (result.cells[ours].name, result.cells[best].name);
    is_lost.then(|| format!("{}: {ours} {own}, {best} {least}{times}", result.row.id))
}

fn find_row<'a>(results: &'a [RowResult], id: &str) -> Option<&'a RowResult> {
    results.iter().find(|result| result.row.id == id)
}

fn find(result: &RowResult, name: &str) -> Option<usize> {
    result.cells.iter().position(|cell| cell.name == name)
}

fn middle(result: &RowResult, index: usize) -> Option<f64> {
    summary(&result.series[index], usual_distance(&result.series)).map(|summary| summary.median)
}
