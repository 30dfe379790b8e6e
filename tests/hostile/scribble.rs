//! A peer that writes what it likes, where it likes.

use crate::common::messages::Rng;
use crate::common::region::{self, AREA, HEADER, Region};
use std::sync::atomic::Ordering::Relaxed;

/// Kinds of scribbling: random words soon end a port, plausible ones come further.
#[derive(Clone, Copy, Debug)]
pub enum Aim {
    /// Any word of the whole region.
    Everything,
    /// Any word of the header.
    Header,
    /// Cursors that an honest peer might have.
    Cursors,
    /// The words that say who sleeps and who has left.
    Flags,
    /// Any word of the areas.
    Payload,
    /// Headers that an honest peer might write.
    Records,
    /// All of these in turn.
    Mixed,
}

pub const AIMS: [Aim; 7] = [
    Aim::Everything,
    Aim::Header,
    Aim::Cursors,
    Aim::Flags,
    Aim::Payload,
    Aim::Records,
    Aim::Mixed,
];

/// Writes some words.
pub fn scribble(region: &Region, aim: Aim, rng: &mut Rng) {
    for _ in 0..16 {
        let aim = match aim {
            Aim::Mixed => AIMS[rng.below(6) as usize],
            aim => aim,
        };
        write_one(region, aim, rng);
    }
}

fn write_one(region: &Region, aim: Aim, rng: &mut Rng) {
    let lane = rng.below(2) as usize;
    match aim {
        Aim::Everything => {
            let place = rng.below(region.len() as u64 / 8) as usize * 8;
            region.word(place).store(rng.next(), Relaxed);
        }
        Aim::Header => {
            let place = rng.below(HEADER as u64 / 8) as usize * 8;
            region.word(place).store(rng.next(), Relaxed);
        }
        Aim::Cursors => {
            let place = if rng.below(2) == 0 { region::tail(lane) } else { region::head(lane) };
            // Mostly forward, sometimes back, sometimes off by a byte.
            let step = match rng.below(32) {
                0 => 1,
                1 => 16u64.wrapping_neg(),
                count => count * 16,
            };
            region.word(place).fetch_add(step, Relaxed);
        }
        Aim::Flags => {
            let place = region::message_sleeper(lane) + 4 * rng.below(2) as usize;
            region.half_word(place).store(rng.below(4) as u32, Relaxed);
            if rng.below(1000) == 0 {
                region.half_word(region::reader_gone(lane)).store(rng.below(4) as u32, Relaxed);
            }
        }
        Aim::Payload => {
            let place = AREA + rng.below((region.len() - AREA) as u64 / 8) as usize * 8;
            region.word(place).store(rng.next(), Relaxed);
        }
        Aim::Records | Aim::Mixed => {
            let place = region.area(lane, rng.below(region.limit() as u64 / 16) as usize * 16);
            let (len, kind) = (rng.below(200), 1 + rng.below(9));
            let (len, detail) = match kind {
                1 | 2 => (len, 0),
                region::SMALL => (len, region::small_detail(rng, len)),
                _ => (0, rng.below(4)),
            };
            region.write_record(place, region::record(len, kind, 0), detail);
        }
    }
}
