//! What comes with messages: ports with false capsules, memory that is no buffer, packets alone.

use super::peer::Peer;
use crate::common::messages::Rng;
use crate::common::parts::{ATTACHMENTS, Parts, send};
use crate::common::region::{self, HEADER, Region};
use messageport::{Buffer, MessageChannel, MessagePort};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

const PORT: u64 = 1;
const BUFFER: u64 = 2;
const DESCRIPTOR: u64 = 3;

/// One end of a pair and one buffer, which are sent again and again.
pub struct Attachments {
    _far: MessagePort,
    parts: Parts,
    region: Region,
    /// The header and the first records, as they were before anything lied.
    honest: Vec<u64>,
    buffer: OwnedFd,
    null: OwnedFd,
}

const LIMIT: u64 = 64 << 10;
const LEN: u64 = 3000;
/// Where the lanes start in the header.
const LANES: usize = 0x80;
/// Bytes of records that are written again each time.
const RECORDS: usize = 1024;

impl Attachments {
    pub fn new() -> Attachments {
        let builder = MessageChannel::builder().capacity(4096).limit(LIMIT as usize);
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        for number in 0..20u64 {
            port1.post_message(&(number, "words".to_owned())).expect("room");
        }
        let parts = Parts::of(port2);
        let region = Region::map(File::from(parts.duplicate(0)));
        let area = region.area(0, 0);
        let places = (0..HEADER).chain(area..area + RECORDS).step_by(8);
        let honest = places.map(|place| region.word(place).load(Relaxed)).collect();
        let mut buffer = Buffer::from_slice(&[7; LEN as usize]).expect("a buffer");
        buffer.seal().expect("seals");
        let buffer = buffer.as_fd().expect("a sealed buffer").try_clone_to_owned();
        let null = File::open("/dev/null").expect("a device").into();
        Attachments {
            _far: port1,
            parts,
            region,
            honest,
            buffer: buffer.expect("a descriptor"),
            null,
        }
    }

    /// Sends the port, with one to three words of its capsule changed or none, and changes its
    /// region while it is under way.
    pub fn send_port(&mut self, peer: &mut Peer, rng: &mut Rng) {
        let mut words = self.parts.words.clone();
        // Mostly cursors: what says how large the region is, is compared with the region itself.
        for _ in 0..rng.below(4) {
            let cursors = 6 + rng.below(6) as usize;
            let any = rng.below(words.len() as u64) as usize;
            let index = if rng.below(4) == 0 { any } else { cursors };
            words[index] = match rng.below(5) {
                0 => rng.next(),
                4 => words[index] ^ 1 << rng.below(8),
                1 => words[index].wrapping_add(16 * rng.below(64)),
                2 => words[index].wrapping_sub(16 * rng.below(64)),
                _ => rng.below(8),
            };
        }
        let entry = [PORT].into_iter().chain(words).collect::<Vec<_>>();
        self.mend();
        let descriptors = self.parts.borrowed();
        if self.post(peer, &entry, &descriptors, rng) {
            for _ in 0..rng.below(6) {
                self.change_region(rng);
            }
        }
    }

    /// Writes any words over those that the port will look at, most often none of those that say
    /// what the region is: no port would be taken in.
    fn change_region(&self, rng: &mut Rng) {
        let place = match rng.below(4) {
            0 => region::tail(rng.below(2) as usize),
            1 => region::head(rng.below(2) as usize),
            2 => region::message_sleeper(rng.below(2) as usize),
            _ if rng.below(16) == 0 => 8 * rng.below(LANES as u64 / 8) as usize,
            _ => self.region.area(rng.below(2) as usize, 16 * rng.below(64) as usize),
        };
        let value = match rng.below(4) {
            0 => rng.next(),
            1 => 16 * rng.below(LIMIT / 8),
            _ => 16 * rng.below(64),
        };
        self.region.word(place).store(value, Relaxed);
    }

    /// Writes the header and the first records as they were.
    fn mend(&self) {
        let area = self.region.area(0, 0);
        let places = (0..HEADER).chain(area..area + RECORDS).step_by(8);
        for (place, word) in places.zip(&self.honest) {
            self.region.word(place).store(*word, Relaxed);
        }
    }

    pub fn send_buffer(&mut self, peer: &mut Peer, rng: &mut Rng) {
        let len = match rng.below(4) {
            0 => rng.next(),
            1 => LEN + rng.below(17) - 8,
            _ => LEN,
        };
        self.post(peer, &[BUFFER, len], &[self.buffer.as_fd()], rng);
    }

    pub fn send_descriptor(&mut self, peer: &mut Peer, rng: &mut Rng) {
        self.post(peer, &[DESCRIPTOR], &[self.null.as_fd()], rng);
    }

    pub fn send_packet_alone(&mut self, peer: &mut Peer, rng: &mut Rng) {
        let sequence = peer.sequence.wrapping_add(rng.below(3));
        send_packet(peer, sequence, &[DESCRIPTOR], &[self.null.as_fd()]);
    }

    /// A packet of words that may be anything, and a record that says it is there.
    pub fn send_nonsense(&mut self, peer: &mut Peer, rng: &mut Rng) {
        let words: Vec<u64> = (0..rng.below(40)).map(|_| rng.below(6)).collect();
        let descriptors = [self.null.as_fd(), self.buffer.as_fd(), self.null.as_fd()];
        self.post(peer, &words, &descriptors[..rng.below(4) as usize], rng);
    }

    /// Sends a packet, and posts the record beside which it travels.
    fn post(
        &self,
        peer: &mut Peer,
        entry: &[u64],
        descriptors: &[BorrowedFd<'_>],
        rng: &mut Rng,
    ) -> bool {
        let sequence = peer.sequence;
        let count = descriptors.len() as u64;
        // The record first, as it may not fit; it is committed when its packet is there.
        if !peer.stage_beside(count.max(1), sequence, rng) {
            return false;
        }
        if !send_packet(peer, sequence, entry, descriptors) {
            peer.unstage();
            return false;
        }
        peer.sequence = sequence.wrapping_add(1);
        peer.commit();
        true
    }
}

fn send_packet(peer: &Peer, sequence: u64, words: &[u64], descriptors: &[BorrowedFd<'_>]) -> bool {
    let mut bytes = b"MPPACKET".to_vec();
    for word in [sequence].iter().chain(words) {
        bytes.extend(word.to_le_bytes());
    }
    send(&peer.parts.descriptors[ATTACHMENTS], &bytes, descriptors).is_ok()
}
