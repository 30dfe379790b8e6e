//! Counters for people and tools.

use crate::link::endpoint::Endpoint;
use crate::wire::label::PortLabels;
use crate::wire::layout::RECORD_ALIGN;
use std::sync::atomic::Ordering::Relaxed;

/// Counters of one lane since it was made.
///
/// The numbers are in shared memory, and the peer writes some of them, so a hostile peer can
/// falsify those. This crate makes no decision by them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneStats {
    /// Messages posted.
    pub messages: u64,
    /// Payload bytes posted.
    pub bytes: u64,
    /// Messages that the receiver had taken when it last gave room back.
    pub received: u64,
    /// How often the sender woke the receiver.
    pub wakes: u64,
    /// Posts that did not fit.
    pub full: u64,
    /// Jumps into a larger segment.
    pub growth: u64,
    /// Bytes in the ring now, headers and padding included.
    pub depth: u64,
}

/// Counters of both directions of a port.
///
/// ```
/// let channel = messageport::MessageChannel::new()?;
/// channel.port1.post_bytes(b"four")?;
/// assert_eq!(channel.port1.stats().sent.messages, 1);
/// assert_eq!(channel.port2.stats().received.bytes, 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortStats {
    /// From this end to the other.
    pub sent: LaneStats,
    /// From the other end to this one.
    pub received: LaneStats,
    /// What people call this end and its channel.
    pub labels: PortLabels,
}

/// What was posted and not yet taken by the peer.
///
/// Exact while the peer is idle or after it closed normally. A peer that takes short messages by
/// [`try_iter`](crate::MessagePort::try_iter) gives their room back together, and until then they
/// count. So if a receiver is killed, up to 4 KiB of messages may count that it had taken, or one
/// that it was just taking. A hostile peer can falsify it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages.
    pub messages: u64,
    /// Bytes in the ring, headers and padding included.
    pub bytes: u64,
}

impl Endpoint {
    /// Counters of the lane that this end produces.
    pub(crate) fn sent(&self) -> LaneStats {
        self.lane_stats(self.outgoing())
    }

    /// Counters of the lane that this end consumes.
    pub(crate) fn received(&self) -> LaneStats {
        self.lane_stats(self.incoming())
    }

    // Relaxed, all: numbers for people.
    fn lane_stats(&self, lane: usize) -> LaneStats {
        let memory = self.region().lane(lane);
        let lane = memory.lane();
        // Without the code of a close.
        let tail = lane.producer.tail.load(Relaxed) & !(RECORD_ALIGN - 1);
        LaneStats {
            messages: lane.produced.messages.load(Relaxed),
            bytes: lane.produced.bytes.load(Relaxed),
            received: lane.consumed.messages.load(Relaxed),
            wakes: lane.produced.wakes.load(Relaxed),
            full: lane.produced.full.load(Relaxed),
            growth: lane.produced.growth.load(Relaxed),
            depth: tail.wrapping_sub(lane.consumer.head.load(Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::link::transfer;
    use crate::wire::record::{CloseKind, Format};

    #[test]
    fn the_depth_is_the_bytes_of_unread_records_also_behind_a_close() {
        let ((mut sending, _), _peer) =
            transfer::create_pair(4096, 4096, 0, false, Default::default())
                .expect("a small channel");
        let mut depth = 0;
        for (len, record) in [(8, 16), (20, 48), (0, 16), (100, 128)] {
            sending.stage_bytes(&vec![1; len], Format::Bytes).expect("room");
            sending.commit();
            depth += record;
            assert_eq!(sending.endpoint().sent().depth, depth);
        }
        sending.close(CloseKind::Dropped);
        assert_eq!(sending.endpoint().sent().depth, depth);
    }
}
