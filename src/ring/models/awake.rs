//! A side whose waker omitted its fences until now.

use super::*;
use crate::ring::awake::Before;
use crate::sync::barrier;

/// As `messages`, of a consumer that was awake until it waits for the first one.
pub(super) fn for_messages() {
    let mut lane = Lane::new(Geometry::new(128, 128), &[1; 2]);
    lane.consumer.stay_awake();
    assert!(lane.producer.fences_in_vain());
    lane.producer.omit_fences();
    lane.run();
}

/// As `room`, of a producer that was awake until it waits.
pub(super) fn for_room() {
    let mut lane = Lane::new(Geometry::new(128, 128), &[1; 4]);
    lane.preload(3, 0);
    lane.producer.stay_awake();
    assert!(lane.consumer.fences_in_vain());
    lane.consumer.omit_fences();
    lane.run();
}

/// The kernel's part before a side arms its flag.
pub(super) fn act(before: Before) {
    if before == Before::Barrier {
        barrier();
    }
}
