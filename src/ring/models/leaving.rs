//! One side leaves while the other one waits, or is about to.

use super::*;

/// The consumer leaves, while the producer waits for room that will not come.
pub(super) fn reader_gone() {
    let mut lane = Lane::new(Geometry::new(128, 128), &[1; 4]);
    lane.preload(3, 0);
    let Lane { mut producer, mut consumer, bells, .. } = lane;
    let producer_bells = bells.clone();
    let posting = thread::spawn(move || {
        let sent = post_waiting(&mut producer, &producer_bells, 3, 1, false);
        assert!(!sent, "there was no room");
    });
    bells.room.wake(consumer.close(CloseKind::Dropped));
    posting.join().expect("the producer ends");
}

/// The producer posts a message and leaves, by one store. The consumer, which may sleep, finds the
/// message and then the end.
pub(super) fn end() {
    let lane = Lane::new(Geometry::new(128, 128), &[1]);
    let Lane { mut producer, mut consumer, bells, units, .. } = lane;
    let producer_bells = bells.clone();
    let posting = thread::spawn(move || {
        // The close publishes the message as well.
        stage(&mut producer, 0, units[0], false).expect("there is room");
        producer_bells.message.wake(producer.close(CloseKind::Dropped));
    });
    let record = next_waiting(&mut consumer, &bells, false);
    bells.room.wake(receive(&mut consumer, &record, 0, units[0]));
    posting.join().expect("the producer ends");
    assert_eq!(consumer.peek(), Ok(Peek::Closed(CloseKind::Dropped)));
}

/// The same without a message.
pub(super) fn end_alone() {
    let lane = Lane::new(Geometry::new(128, 128), &[]);
    let Lane { mut producer, mut consumer, bells, .. } = lane;
    let producer_bells = bells.clone();
    let leaving = thread::spawn(move || {
        producer_bells.message.wake(producer.close(CloseKind::Closed));
    });
    loop {
        match consumer.peek().expect("an honest peer") {
            Peek::Closed(kind) => break assert_eq!(kind, CloseKind::Closed),
            Peek::Message(record) => panic!("no message was posted: {record:?}"),
            Peek::Empty => {
                if consumer.prepare_wait(Sleep::Doorbell) == Ok(Wait::Sleep) {
                    bells.message.sleep();
                    consumer.cancel_wait();
                }
            }
        }
    }
    leaving.join().expect("the producer ends");
}
