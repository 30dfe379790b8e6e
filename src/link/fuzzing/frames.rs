//! Pools of frames between ends that do not trust each other, one of which lies and writes to the
//! counts at any time.

use super::{LOW, MOST_LEN, MOST_SLOTS};
use crate::link::pool::{
    FIRST_RECEIVER, Frame, PeerPool, PoolMaker, PoolMemory, Pooled, PooledBuffer,
};
use crate::os::memfd;
use crate::os::reaper::Foreign;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

/// Accepts a pool of frames that another process made, and uses it at both ends.
///
/// The first sixteen bytes are two numbers: slots and length, and in the top bits of the first what
/// is claimed or sent instead. Each following six bytes are one use of the pool, or one write of
/// the end that lies to the counts. The maker never has a slot twice, finds one while it says that
/// one is free, and is the only one that changes its bytes; the receiver reads frames of the length
/// that was said. There is no panic, no hang and no access outside of the memory. Returns whether
/// the pool was accepted.
pub fn foreign_frames(data: &[u8]) -> bool {
    let Some((head, uses)) = data.split_first_chunk::<16>() else { return false };
    let (first, second) = head.split_at(8);
    let [first, second] = [first, second].map(|it| u64::from_le_bytes(it.try_into().expect("8")));
    let (slots, len) = (1 + first % MOST_SLOTS, 1 + second % MOST_LEN);
    let made = PoolMemory::create_frames(slots as u32, len).expect("a small pool");
    let (memory, [counts, frames]) = made;
    let writes = File::from(counts.try_clone().expect("a descriptor is left"));
    let choice = first >> 61;
    let said = match choice {
        1 => (second & LOW, len),
        2 => (slots, second & LOW),
        3 => (1 + (second >> 32) % MOST_SLOTS, 1 + (second >> 40) % MOST_LEN),
        _ => (slots, len),
    };
    let other = || memfd::create(slots * len.next_multiple_of(4096)).expect("a descriptor is left");
    let sent: [OwnedFd; 2] = match choice {
        4 => [frames, counts],
        5 => [counts, other()],
        6 => [other(), frames],
        _ => [counts, frames],
    };
    let sent = sent.map(|descriptor| Foreign::new(descriptor, None));
    let Ok(peer) = PeerPool::of_frames(sent, said.0, said.1) else {
        assert!(choice != 0, "a pool as this crate makes it is accepted");
        return false;
    };
    assert!(!(4..7).contains(&choice), "other files were accepted");
    let mut play = Play {
        end: writes.metadata().expect("a file").len(),
        writes,
        said,
        maker: PoolMaker::new(memory),
        peer: Arc::new(peer),
        stamps: vec![0; slots as usize],
        stamp: 0,
        held: Vec::new(),
        received: Vec::new(),
    };
    uses.chunks_exact(6).take(128).for_each(|it| play.step(it));
    true
}

/// Both ends of a pool, and what they have of it.
struct Play {
    /// The file of the counts, and its bytes.
    writes: File,
    end: u64,
    /// Slots and bytes of each, as the receiver was told.
    said: (u64, u64),
    maker: PoolMaker,
    peer: Arc<PeerPool>,
    /// What the maker has last written to each slot.
    stamps: Vec<u8>,
    stamp: u8,
    held: Vec<PooledBuffer>,
    received: Vec<(u32, Frame)>,
}

impl Play {
    fn step(&mut self, code: &[u8]) {
        let place = u64::from(u16::from_le_bytes([code[1], code[2]]));
        match code[0] % 8 {
            // The counts more often than what is around them.
            0 => self.write(0x80 + place % (4 * MOST_SLOTS), code),
            1 => self.write(place, code),
            2 | 3 => self.take(),
            4 => self.hand_over(place as usize),
            5 => self.receive(u32::from_le_bytes(code[2..].try_into().expect("four bytes"))),
            6 => self.give_back(place as usize),
            _ => {
                self.receive(place as u32 % (2 * MOST_SLOTS as u32));
                assert!(!self.maker.reclaim(), "no slot of frames comes back by a lock");
                self.maker.memory().wait(Duration::ZERO, || !place.is_multiple_of(64));
            }
        }
    }

    fn write(&self, offset: u64, code: &[u8]) {
        let offset = offset.min(self.end - 4);
        self.writes.write_all_at(&code[2..], offset).expect("the file is as long");
    }

    /// The maker takes a slot and fills it.
    fn take(&mut self) {
        let in_use = self.maker.in_use() as usize;
        assert!((self.held.len()..=self.stamps.len()).contains(&in_use), "{in_use} in use");
        let Some(mut buffer) = self.maker.take() else {
            assert_eq!(in_use, self.stamps.len(), "a slot is free");
            return;
        };
        let slot = buffer.slot();
        assert!(self.held.iter().all(|other| other.slot() != slot), "slot {slot} twice");
        self.stamp = self.stamp.wrapping_add(1);
        buffer.fill(self.stamp);
        self.stamps[slot as usize] = self.stamp;
        self.held.push(buffer);
    }

    fn hand_over(&mut self, place: usize) {
        if self.held.is_empty() {
            return;
        }
        let buffer = self.held.swap_remove(place % self.held.len());
        let slot = buffer.slot();
        buffer.hand_to(FIRST_RECEIVER);
        buffer.mark_moved();
        self.receive(slot);
    }

    /// A record names a slot, of whichever end.
    fn receive(&mut self, slot: u32) {
        let Ok(found) = self.peer.received(slot) else {
            assert!(u64::from(slot) >= self.said.0, "slot {slot} of {}", self.said.0);
            return;
        };
        let Pooled::Frame(frame) = found else { panic!("{found:?} of a pool of frames") };
        assert_eq!(frame.len() as u64, self.said.1);
        self.look_at(slot, &frame);
        if self.received.len() < MOST_SLOTS as usize {
            self.received.push((slot, frame));
        }
    }

    /// What it holds is what the maker has written there, whatever the counts say.
    fn look_at(&self, slot: u32, frame: &Frame) {
        let from = usize::from(self.stamp) * 31 % frame.len();
        let mut part = vec![0; (frame.len() - from).min(1000)];
        frame.copy_to(from, &mut part);
        let stride = self.maker.memory().len().next_multiple_of(4096);
        let is_as_made = self.said.1.next_multiple_of(4096) == stride;
        if is_as_made && ((from + part.len()) as u64) <= self.maker.memory().len() {
            let stamp = self.stamps[slot as usize];
            assert!(part.iter().all(|byte| *byte == stamp), "slot {slot} was changed");
        }
    }

    /// Either end gives back what it has.
    fn give_back(&mut self, place: usize) {
        if place.is_multiple_of(4) && !self.held.is_empty() {
            drop(self.held.swap_remove(place % self.held.len()));
        } else if !self.received.is_empty() {
            let (slot, frame) = self.received.swap_remove(place % self.received.len());
            self.look_at(slot, &frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::fuzzing::corpus;
    use proptest::prelude::*;

    #[test]
    fn pools_of_the_corpus_do_no_harm_and_are_of_both_kinds() {
        let all: Vec<bool> = corpus("foreign_frames").map(|it| foreign_frames(&it)).collect();
        // The published crate has no corpus.
        assert!(all.is_empty() || all.contains(&true) && all.contains(&false));
    }

    #[test]
    fn what_is_made_as_it_should_be_is_accepted() {
        for code in 0..8 {
            assert!(foreign_frames(&[[0; 16].as_slice(), &[code; 600]].concat()));
        }
        assert!(!foreign_frames(&[[0xff; 8].as_slice(), &[0x80; 7]].concat()), "no whole head");
    }

    proptest! {
        #[test]
        fn pools_of_random_bytes_do_no_harm(
            head: [u8; 16], is_honest: bool, uses in prop::collection::vec(0u8.., 0..800),
        ) {
            let mut data = [head.as_slice(), &uses].concat();
            if is_honest {
                data[7] &= 0x1f;
            }
            foreign_frames(&data);
        }
    }
}
