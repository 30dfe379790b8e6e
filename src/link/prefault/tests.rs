//! Which pages are allocated, and when idle ones are given back: with a clock that the test sets.

use super::*;
use crate::os::mapping::page_size;
use crate::ring::consumer::{Consumer, Peek};
use crate::ring::lane;
use crate::wire::record::Format;
use std::os::unix::fs::MetadataExt;

const CAPACITY: u64 = 64 << 10;
const LIMIT: u64 = 1 << 20;
const MOMENT: Duration = Duration::from_millis(1);

/// One lane over a real region, and what its producer knows of pages.
struct Rig {
    region: Arc<Region>,
    producer: Producer,
    consumer: Consumer,
    prefault: Prefault,
    /// The clock.
    now: Instant,
    at_rest: u64,
}

impl Rig {
    fn new() -> Rig {
        let region = Region::create(CAPACITY, LIMIT, 0).expect("a region");
        let (producer, consumer) = lane::fresh(&region.lane(0), *region.geometry(), 0);
        let at_rest = memory(&region);
        let (prefault, now) = (Prefault::new(region.clone(), 0), Instant::now());
        Rig { region, producer, consumer, prefault, now, at_rest }
    }

    /// Posts as the sending half of a trusted end does. Returns whether there was room.
    fn post(&mut self, len: u64) -> bool {
        let Ok(plan) = self.producer.plan(len) else { return false };
        let from = self.producer.cursor();
        self.prefault.ensure(&plan, from).expect("memory");
        self.producer.stage(plan, len as u32, Format::Bytes);
        let _ = self.producer.commit();
        let here = self.producer.cursor().segment;
        if self.prefault.is_spread(here) {
            let in_use = (from.segment, here);
            self.prefault
                .reclaim_idle(&self.producer, in_use, self.now)
                .expect("pages that are given back");
        }
        true
    }

    fn receive(&mut self) -> bool {
        match self.consumer.peek().expect("an honest lane") {
            Peek::Message(record) => {
                self.consumer.take(&record);
                let _ = self.consumer.release(record.end);
                true
            }
            _ => false,
        }
    }

    /// Fills the lane, and drains it.
    fn burst(&mut self) {
        while self.post(4000) {}
        while self.receive() {}
    }

    /// Posts and receives small messages until the lane has returned to the base segment and gone
    /// round it twice.
    fn trickle(&mut self) {
        for _ in 0..2 * CAPACITY / 1024 + 200 {
            assert!(self.post(1000) && self.receive());
        }
        assert_eq!(self.producer.cursor().segment, 0);
    }
}

/// Bytes of pages that a region has.
fn memory(region: &Region) -> u64 {
    let file = region.memfd().try_clone_to_owned().expect("a descriptor");
    std::fs::File::from(file).metadata().expect("fstat").blocks() * 512
}

#[test]
fn a_burst_finds_the_pages_of_the_last_one_until_they_were_idle_for_long() {
    let mut rig = Rig::new();
    rig.burst();
    let full = memory(&rig.region);
    assert!(full > LIMIT * 9 / 10, "{full} bytes");
    for _ in 0..5 {
        rig.now += IDLE - MOMENT;
        rig.trickle();
        assert!(memory(&rig.region) >= full, "pages were given back too early");
        rig.burst();
    }
    // The base segment first: the segment that it leaves was in use until then.
    rig.trickle();
    rig.now += IDLE;
    rig.trickle();
    let left = memory(&rig.region);
    assert!(left <= rig.at_rest + CAPACITY, "{left} bytes are left of {full}");
    rig.burst();
    assert!(memory(&rig.region) >= full, "what was given back comes again");
}

#[test]
fn segments_that_are_in_use_keep_their_pages_however_late_it_is() {
    let mut rig = Rig::new();
    while rig.post(4000) {
        rig.now += IDLE;
    }
    let mut received = 0;
    while rig.receive() {
        received += 1;
    }
    let posted = rig.producer.counters().messages;
    assert_eq!(received, posted, "a page with an unread message was given back");
}

#[test]
fn a_control_record_makes_one_page() {
    let mut rig = Rig::new();
    let cursor = rig.producer.cursor();
    rig.prefault.ensure_control(cursor).expect("memory");
    let made = memory(&rig.region) - rig.at_rest;
    assert_eq!(made, page_size());
    assert_eq!(rig.prefault.made(0), page_size());
}

#[test]
fn a_segment_gets_its_pages_in_small_steps_at_first_and_in_large_ones_then() {
    let mut rig = Rig::new();
    let mut made = Vec::new();
    while rig.post(1000) {
        made.push(rig.prefault.made(2));
    }
    made.dedup();
    let small = (0..=4).map(|step| step * SMALL_STEP);
    let large = (2..=rig.region.geometry().segment_len(2) / LARGE_STEP).map(|n| n * LARGE_STEP);
    assert_eq!(made, small.chain(large).collect::<Vec<_>>());
}

#[test]
fn all_free_segments_but_the_first_give_their_pages_back() {
    let mut rig = Rig::new();
    assert_eq!(rig.prefault.reclaim(&rig.producer).expect("none"), 0);
    assert!((0..4).all(|current| !rig.prefault.is_spread(current)));
    rig.burst();
    let current = rig.producer.cursor().segment;
    assert!(rig.prefault.is_spread(current) && rig.prefault.is_spread(0));
    rig.trickle();
    let full = memory(&rig.region);
    let freed = rig.prefault.reclaim(&rig.producer).expect("pages that are given back");
    assert!(freed > CAPACITY, "of more than one segment");
    assert_eq!(full - memory(&rig.region), freed);
    assert!(!rig.prefault.is_spread(0), "only the first segment has pages");
    rig.burst();
    let current = rig.producer.cursor().segment;
    rig.trickle();
    for segment in (1..rig.region.geometry().segments()).filter(|segment| *segment != current) {
        rig.prefault.made[segment as usize] = 0;
    }
    assert!(rig.prefault.is_spread(0) && !rig.prefault.is_spread(current));
}

/// The lane jumps back from the middle of a segment: that page stays, as the jump is in it, at its
/// beginning or elsewhere.
#[test]
fn a_segment_that_was_left_keeps_the_page_of_the_jump_alone() {
    for record in [4016, 4096] {
        let mut rig = Rig::new();
        while rig.producer.cursor().segment != 2 || rig.prefault.made(2) < 2 * LARGE_STEP {
            assert!(rig.post(record - HEADER_LEN));
        }
        while rig.receive() {}
        assert!(rig.producer.unreleased().is_ok());
        let vacated = rig.producer.cursor();
        let offset = vacated.offset(rig.region.geometry());
        assert_eq!(offset.is_multiple_of(4096), record == 4096);
        rig.prefault.ensure_control(vacated).expect("memory");
        rig.prefault.ensure_control(Cursor::start(0)).expect("memory");
        assert!(rig.producer.go_to_base().expect("an empty lane").is_some());
        let (full, made) = (memory(&rig.region), rig.prefault.made(2));
        let freed = rig.prefault.reclaim_vacated(vacated).expect("pages that are given back");
        assert_eq!(freed, made - page_size());
        assert_eq!(full - memory(&rig.region), freed);
        assert_eq!(rig.prefault.made(2), 0);
        assert!(!rig.receive(), "the jump leads back");
        assert!(rig.post(1000) && rig.receive());
    }
}
