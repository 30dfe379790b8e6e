//! A consumer that takes messages in batches, and reads ahead.

use super::*;

/// As `room`, while the consumer takes one of several messages in a batch, and then no more.
pub(super) fn batch() {
    let mut lane = Lane::new(Geometry::new(128, 128), &[1; 4]);
    lane.preload(3, 0);
    let Lane { mut producer, mut consumer, bells, units, .. } = lane;
    let producer_bells = bells.clone();
    let posting = thread::spawn(move || {
        assert!(post_waiting(&mut producer, &producer_bells, 3, units[3], false));
    });
    let record = next_waiting(&mut consumer, &bells, false);
    read(&consumer, &record, 0, units[0]);
    consumer.take(&record);
    if !consumer.release_quietly() {
        bells.room.wake(consumer.release(record.end));
    }
    bells.room.wake(consumer.end_batch());
    posting.join().expect("the producer ends");
}

/// As `quick`, while the consumer copies what is there at once, and takes and releases each message
/// of its copy.
pub(super) fn ahead() {
    let mut lane = Lane::new(Geometry::new(128, 128), &[1, 1, 1, 1, 2, 1]);
    lane.is_quick = true;
    lane.preload(4, 1);
    let Lane { mut producer, mut consumer, units, posted, mut taken, .. } = lane;
    let posting = thread::spawn(move || {
        (posted..units.len())
            .find(|&number| post(&mut producer, number, units[number], true).is_err())
            .unwrap_or(units.len())
    });
    let mut copy = Vec::new();
    for _ in 0..4 {
        taken += usize::from(receive_ahead(&mut consumer, &mut copy, taken, units[taken]));
    }
    let posted = posting.join().expect("the producer ends");
    while taken < posted {
        assert!(receive_ahead(&mut consumer, &mut copy, taken, units[taken]), "one is lost");
        taken += 1;
    }
}

/// Receives message `number` from a copy of what comes next, which is made if there is none.
/// Returns whether it was there.
fn receive_ahead(
    consumer: &mut Consumer,
    copy: &mut Vec<[u64; 2]>,
    number: usize,
    units: u64,
) -> bool {
    if consumer.ahead_at(consumer.position()).is_none() {
        if !matches!(consumer.peek().expect("an honest peer"), Peek::Message(_)) {
            return false;
        }
        let start = consumer.window().offset();
        let read = |unit| consumer.memory().read_unit(start + 16 * unit);
        *copy = (0..consumer.unread() / 16).map(read).collect();
        consumer.copied_ahead(copy.len());
    }
    let left = &copy[consumer.ahead_at(consumer.position()).expect("it was just copied")];
    for unit in 0..units {
        assert_eq!(left[1 + unit as usize], [number as u64, unit], "message {number}");
    }
    let position = consumer.position();
    consumer.take_copied_at(position, 16 + 16 * units, 16 * units as u32);
    assert_eq!(consumer.release_all(), Wake::NoSleeper);
    true
}
