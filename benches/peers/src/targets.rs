//! The bars of the project, judged by what this run says.
//!
//! Nothing is asserted, since nothing about time holds on every machine. A bar that is missed is
//! printed like one that is reached, with what it was compared with.

use crate::bars::{BARS, Bar, Base, Grade, Judged, MOST_OF_LTO};
use crate::comparison::{Cell, RowResult};
use crate::harness::machine::Distance;
use crate::harness::report::usual_distance;
use crate::rows::Unit;
use crate::subjects::Kind;
use crate::table::{fastest, figure, profile, ratio_of, summary};

/// What was said so far.
#[derive(Default)]
struct Tally {
    reached: u32,
    missed: u32,
    stretches_reached: u32,
    stretches_missed: u32,
}

/// Prints each bar of the table with its verdict, and every row in which a peer is faster.
pub fn print(results: &[RowResult], is_quick: bool) {
    println!("\nBars:");
    let mut tally = Tally::default();
    for bar in &BARS {
        print_bar(bar, results, &mut tally);
    }
    let Tally { reached, missed, stretches_reached, stretches_missed } = tally;
    println!(
        "{reached} reached, {missed} missed; stretch: {stretches_reached} reached, \
         {stretches_missed} missed"
    );
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

fn print_bar(bar: &Bar, results: &[RowResult], tally: &mut Tally) {
    let Bar { number, title, judged, elsewhere } = bar;
    println!("  {number} {title}");
    let judge =
        |judged| judge(judged, results, tally).map(|line| line + other_pair(judged, results));
    let mut lines: Vec<String> = judged.iter().filter_map(judge).collect();
    if *number == 15 {
        lines.extend(against_other_profile(results, tally));
    }
    for line in &lines {
        println!("      {line}");
    }
    if lines.is_empty() && !judged.is_empty() {
        let mut rows: Vec<&str> = judged.iter().map(|judged| judged.row).collect();
        rows.sort_unstable();
        rows.dedup();
        println!("      not measured in this run: --rows {}, without --only", rows.join(","));
    }
    if !elsewhere.is_empty() && (*number != 15 || lines.is_empty()) {
        println!("      not measured here, but by {elsewhere}");
    }
}

/// `None` if this run has no figure for it.
fn judge(judged: &Judged, results: &[RowResult], tally: &mut Tally) -> Option<String> {
    let result = results.iter().find(|result| result.row.id == judged.row)?;
    let subjects = judged.subjects;
    let index = fastest(result, |cell| cell.kind == Kind::Ours && subjects.contains(&cell.name))?;
    let name = result.cells[index].name;
    let Judged { row, most, stretch, grade, .. } = judged;
    let base = match judged.base {
        Base::Absolute => {
            let unit = result.row.unit();
            let own = middle(result, index)?;
            let (own_text, most_text) = (figure(unit, own), figure(unit, *most));
            let verdict = tally.count(own <= *most);
            return Some(format!("{row} {name} {own_text}, at most {most_text}: {verdict}"));
        }
        Base::Subject(name) => {
            result.cells.iter().position(|cell| cell.name == name && cell.other.is_none())?
        }
        Base::BestPeer => fastest(result, |cell| cell.kind.is_peer())?,
        Base::BestVariable => fastest(result, |cell| cell.kind == Kind::Peer)?,
    };
    let ratio = ratio_of(result, index, base)?;
    let kind = match judged.base {
        Base::BestPeer => ", the fastest",
        Base::BestVariable => ", the fastest of any length",
        _ => "",
    };
    let said = format!("{row} {name} takes {ratio:.2} times {}{kind}", result.cells[base].name);
    let is_reached = ratio <= *most;
    match grade {
        Grade::Bar => {
            let mut text = format!("{said}, at most {most:.2}: {}", tally.count(is_reached));
            if let Some(stretch) = stretch {
                let verdict = tally.count_stretch(ratio <= *stretch);
                text += &format!("; stretch {stretch:.2}: {verdict}");
            }
            Some(text)
        }
        Grade::Stretch => {
            let verdict = tally.count_stretch(is_reached);
            Some(format!("{said}; stretch {most:.2}: {verdict}"))
        }
        Grade::WithHugePages if has_huge_pages() => {
            Some(format!("{said}, at most {most:.2}: {}", tally.count(is_reached)))
        }
        Grade::WithHugePages => Some(format!(
            "{said}; not judged, as shared memory has no huge pages here ({SHARED_HUGE_PAGES})"
        )),
    }
}

/// The bars mean two cores of one cache: says so behind a figure of other ones.
fn other_pair(judged: &Judged, results: &[RowResult]) -> &'static str {
    let row = results.iter().find(|result| result.row.id == judged.row);
    match row.map(|result| usual_distance(&result.series)) {
        Some(Distance::Far) => " (on a far pair; the bar means a near one)",
        Some(Distance::Core) => " (on threads of one core; the bar means a near pair)",
        _ => "",
    }
}

/// Each of our rows as cargo's default profile builds it, compared with the other profile.
fn against_other_profile(results: &[RowResult], tally: &mut Tally) -> Vec<String> {
    let mut lines = Vec::new();
    let is_default = profile() == DEFAULT_PROFILE;
    for result in results {
        for (other, cell) in result.cells.iter().enumerate() {
            let Some(profile) = &cell.other else { continue };
            let is_own = |own: &Cell| own.name == cell.name && own.other.is_none();
            let Some(own) = result.cells.iter().position(is_own) else { continue };
            // The bar is about what users get by default, whichever of the two this is.
            let (one, base) = if is_default { (own, other) } else { (other, own) };
            let Some(ratio) = ratio_of(result, one, base) else { continue };
            let (row, name) = (&result.row.id, cell.name);
            let base = if is_default { profile.name } else { "this profile" };
            let verdict = tally.count(ratio <= MOST_OF_LTO);
            lines.push(format!(
                "{row} {name} takes {ratio:.2} times that of {base}, at most {MOST_OF_LTO:.2}: \
                 {verdict}"
            ));
        }
    }
    lines
}

impl Tally {
    fn count(&mut self, is_reached: bool) -> &'static str {
        *if is_reached { &mut self.reached } else { &mut self.missed } += 1;
        verdict(is_reached)
    }

    fn count_stretch(&mut self, is_reached: bool) -> &'static str {
        let of_stretches =
            if is_reached { &mut self.stretches_reached } else { &mut self.stretches_missed };
        *of_stretches += 1;
        verdict(is_reached)
    }
}

fn verdict(is_reached: bool) -> &'static str {
    if is_reached { "reached" } else { "missed" }
}

/// Whether shared memory may have huge pages: the word in brackets is the setting.
fn has_huge_pages() -> bool {
    let text = std::fs::read_to_string(SHARED_HUGE_PAGES).unwrap_or_default();
    ["[always]", "[within_size]", "[force]"].iter().any(|setting| text.contains(setting))
}

/// Names the peer that is faster than all of ours, if there is one.
fn loss(result: &RowResult) -> Option<String> {
    let best = fastest(result, |cell| cell.kind.is_peer())?;
    let ours = fastest(result, |cell: &Cell| cell.kind == Kind::Ours)?;
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

fn middle(result: &RowResult, index: usize) -> Option<f64> {
    summary(&result.series[index], usual_distance(&result.series)).map(|summary| summary.median)
}

const DEFAULT_PROFILE: &str = "release";
const SHARED_HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
