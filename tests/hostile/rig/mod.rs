//! A peer that keeps the protocol until it chooses not to, against a victim that does everything a
//! program can: eight strategies, each in a process of its own, in two threads.
//!
//! A run counts receives. `MESSAGEPORT_HOSTILE_RECEIVES` asks for more of them, of all strategies
//! together, and for the report. What must never be fails the test in both forms; a call of more
//! than a second is reported by the long one.

mod attachments;
mod attacker;
mod peer;
mod tally;
mod victim;

use crate::common::census::Census;
use crate::common::messages::Rng;
use crate::common::role::{play, say};
use crate::common::watchdog::progress;
use crate::common::{wait_until, wanted};
use attachments::Attachments;
use attacker::{Attacker, Strategy};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;
use tally::Tally;
use victim::Victim;

/// Receives of all strategies in the short form.
const SHORT_RUN: u64 = 200_000;
const STRATEGIES: u64 = 8;
const RECEIVES: &str = "MESSAGEPORT_HOSTILE_RECEIVES";

/// The peer of the present port. The attacking thread works with it; so does the victim now and
/// then, as the other thread may not run for a while on a loaded machine.
struct Desk {
    stage: Mutex<Stage>,
    is_over: AtomicBool,
}

struct Stage {
    attacker: Attacker,
    attachments: Attachments,
    accusations: Vec<String>,
}

struct Over<'d>(&'d Desk);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Relaxed);
    }
}

impl Desk {
    fn new(attacker: Attacker) -> Desk {
        let (attachments, accusations) = (Attachments::new(), Vec::new());
        let stage = Mutex::new(Stage { attacker, attachments, accusations });
        Desk { stage, is_over: AtomicBool::new(false) }
    }

    /// What the attacking thread does.
    fn attack(&self) {
        while !self.is_over.load(Relaxed) {
            let had_room = self.stage.lock().expect("no step panics").step(true);
            if !had_room {
                thread::yield_now();
            }
        }
    }

    /// A step in place of the attacking thread, if that is not at it.
    fn help(&self) {
        if let Ok(mut stage) = self.stage.try_lock() {
            stage.step(false);
        }
    }

    /// Puts another peer in the place of the present one, which is dropped outside of the lock.
    fn replace(&self, attacker: Attacker) -> Attacker {
        let mut stage = self.stage.lock().expect("no step panics");
        std::mem::replace(&mut stage.attacker, attacker)
    }

    /// What the victim did wrong since this was last asked.
    fn accusations(&self) -> Vec<String> {
        std::mem::take(&mut self.stage.lock().expect("no step panics").accusations)
    }
}

impl Stage {
    fn step(&mut self, is_beside: bool) -> bool {
        let had_room = self.attacker.step(&mut self.attachments, is_beside);
        self.accusations.extend(self.attacker.accusation());
        had_room
    }
}

fn run(strategy: Strategy) {
    let before = Census::take();
    let goal = wanted(RECEIVES, SHORT_RUN).div_ceil(STRATEGIES);
    let mut rng = Rng(wanted("MESSAGEPORT_TEST_SEED", 1) + strategy as u64);
    let mut next = || {
        let provoked = Arc::new(AtomicBool::new(false));
        let (port, peer) = peer::pair();
        let mut attacker = Attacker::new(peer, strategy, Rng(rng.next()), provoked.clone());
        attacker.fill();
        (port, attacker, Rng(rng.next()), provoked)
    };
    let (_, attacker, ..) = next();
    let (desk, mut tally, start) = (Desk::new(attacker), Tally::default(), Instant::now());
    thread::scope(|scope| {
        let _over = Over(&desk);
        scope.spawn(|| desk.attack());
        while tally.receives < goal {
            let (port, attacker, seed, provoked) = next();
            drop(desk.replace(attacker));
            tally.ports += 1;
            Victim::new(&mut tally, &desk, seed, provoked).live(port);
            for what in desk.accusations() {
                tally.finding(&what);
            }
            progress();
        }
    });
    drop(desk);
    let elapsed = start.elapsed();
    wait_until("every descriptor is closed", || Census::take() == before);
    let after = Census::take();
    if std::env::var(RECEIVES).is_ok() {
        for line in tally.report(&format!("{strategy:?}"), elapsed) {
            say(&line);
        }
        say(&format!("  descriptors: {} before, {} after", before.descriptors, after.descriptors));
    }
    tally.check();
}

macro_rules! strategies {
    ($($name:ident: $strategy:ident,)+) => {$(
        #[test]
        fn $name() {
            fn victim() {
                run(Strategy::$strategy);
            }
            play(concat!("rig::", stringify!($name)), &[("victim", victim)]);
        }
    )+};
}

strategies! {
    f28_random_words_end_the_port_at_worst: RandomWords,
    f28_plausible_lies_end_the_port_at_worst: PlausibleLies,
    f28_headers_that_flicker_end_the_port_at_worst: FlickeringHeaders,
    f29_payloads_that_flicker_end_nothing: FlickeringPayloads,
    f28_heads_of_what_was_not_read_end_the_port_at_worst: Heads,
    f1_packets_that_lie_end_the_port_at_worst: Packets,
    f27_a_doorbell_that_rings_urgently_ends_the_port_at_worst: Doorbell,
    f28_holes_under_unread_records_end_the_port_at_worst: Holes,
}
