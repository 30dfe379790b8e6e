//! A peer that is honest until it chooses not to be: the eight ways.

use super::attachments::Attachments;
use super::peer::{FROM, INTO, LIMIT, Peer, Staged};
use crate::common::messages::Rng;
use crate::common::parts::{ATTACHMENTS, DOORBELL};
use crate::common::region::{self, AREA, HEADER, JUMP, PADDING};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Random words anywhere, header words twice as often.
    RandomWords,
    /// Cursors, flags, counters and identity words that an honest peer might have written.
    PlausibleLies,
    /// The header of the next record flickers between two values.
    FlickeringHeaders,
    /// The payload of the next record flickers while it is copied.
    FlickeringPayloads,
    /// Room that was not read is given back; odd flags of sleepers.
    Heads,
    /// Packets and capsules that lie; records and packets that do not belong together.
    Packets,
    /// The doorbell rings too much, rings urgently, and is shut down.
    Doorbell,
    /// Pages are removed while they hold unread records.
    Holes,
}

/// The peer of one port.
pub struct Attacker {
    pub peer: Peer,
    strategy: Strategy,
    rng: Rng,
    /// Average number of steps between two attacks.
    calm: u64,
    /// Uses only attacks that must not end the port.
    is_gentle: bool,
    /// Set before the first attack that may end the port.
    provoked: Arc<AtomicBool>,
    /// The largest head that it published on lane `FROM`.
    given_back: u64,
    /// Steps for which it does nothing, so that the victim comes to where the lie is.
    quiet: u64,
    /// Times that a word flickers at most.
    rounds: u32,
}

impl Attacker {
    pub fn new(
        peer: Peer,
        strategy: Strategy,
        mut rng: Rng,
        provoked: Arc<AtomicBool>,
    ) -> Attacker {
        // Most flickers of a header have no effect: the victim must read it just then.
        let steps = if strategy == Strategy::FlickeringHeaders { 4 } else { 9 };
        let calm = 1 << rng.below(steps);
        let is_gentle = rng.below(2) == 0;
        Attacker {
            peer,
            strategy,
            rng,
            calm,
            is_gentle,
            provoked,
            given_back: 0,
            quiet: 0,
            rounds: 0,
        }
    }

    /// Fills the lane with honest messages, so that the victim has something to do.
    pub fn fill(&mut self) {
        let twins = self.twins();
        while self.peer.post_some(32, twins, &mut self.rng) {}
    }

    /// One step: some honest work, and now and then an attack. Says whether there was room for
    /// more messages. `is_beside`: the victim runs at the same time, so that it is worth while to
    /// have a word flicker for long.
    pub fn step(&mut self, attachments: &mut Attachments, is_beside: bool) -> bool {
        self.rounds = if is_beside { 4000 } else { 1 };
        if self.quiet > 0 {
            self.quiet -= 1;
            return false;
        }
        if self.rng.below(self.calm) == 0 {
            self.act(attachments);
            if self.rng.below(2) == 0 {
                // Left as it is for a while: the next commit publishes an honest tail again.
                return false;
            }
        }
        let twins = self.twins();
        let had_room = self.peer.post_some(24, twins, &mut self.rng);
        if self.strategy == Strategy::Heads {
            self.give_back();
        } else {
            self.peer.take_some(&mut self.rng);
        }
        had_room
    }

    /// What the victim has done wrong, as far as its words in the region tell.
    pub fn accusation(&self) -> Option<String> {
        // A strategy that scribbles over those words makes no accusation.
        let accuses = self.strategy != Strategy::RandomWords && self.strategy != Strategy::Heads;
        if accuses { self.peer.accusation() } else { None }
    }

    /// One in how many messages is one that ends as well where another one begins inside it.
    fn twins(&self) -> u64 {
        if self.strategy == Strategy::FlickeringHeaders { 2 } else { 1 << 20 }
    }

    fn act(&mut self, attachments: &mut Attachments) {
        match self.strategy {
            Strategy::RandomWords => self.scribble(),
            Strategy::PlausibleLies => self.lie(),
            Strategy::FlickeringHeaders => self.flicker_header(),
            Strategy::FlickeringPayloads => self.flicker_payload(),
            Strategy::Heads => self.odd_flags(),
            Strategy::Packets => self.send_packets(attachments),
            Strategy::Doorbell => self.ring(),
            Strategy::Holes => self.punch(),
        }
    }

    /// From now on the port may end, and with whatever reason.
    fn provoke(&self) {
        self.provoked.store(true, Release);
    }

    fn scribble(&mut self) {
        self.provoke();
        for _ in 0..1 + self.rng.below(4) {
            let most = if self.rng.below(3) < 2 { HEADER } else { self.peer.region.len() };
            let place = self.rng.below(most as u64 / 8) as usize * 8;
            self.peer.region.word(place).store(self.rng.next(), Relaxed);
        }
    }

    fn lie(&mut self) {
        let (region, rng) = (&self.peer.region, &mut self.rng);
        let off = |rng: &mut Rng| match rng.below(8) {
            0 => 1 + rng.below(15),
            1 => 16 * rng.below(1 << 13),
            _ => 16 * (1 + rng.below(6)),
        };
        let kind = if self.is_gentle { 2 + rng.below(2) } else { rng.below(16) };
        if !matches!(kind, 2 | 3) {
            self.provoked.store(true, Release);
        }
        if matches!(kind, 0 | 1 | 7) {
            self.quiet = rng.below(3000);
        }
        match kind {
            0 => {
                let tail = self.peer.tail().wrapping_add(off(rng));
                self.peer.writing.highest = self.peer.writing.highest.max(tail);
                region.word(region::tail(INTO)).store(tail, Release);
            }
            7 => {
                // Further than the lane is long: the victim must not follow, though something that
                // looks like a record is there.
                self.peer.writing.leave_bait(region);
                let tail = self.peer.tail().wrapping_add(LIMIT + 16 * (1 + rng.below(1 << 20)));
                region.word(region::tail(INTO)).store(tail, Release);
            }
            1 => {
                let tail = self.peer.tail().wrapping_sub(off(rng));
                region.word(region::tail(INTO)).store(tail, Release);
            }
            2 => {
                let flags = [
                    region::message_sleeper(INTO),
                    region::message_sleeper(FROM),
                    region::room_sleeper(INTO),
                    region::room_sleeper(FROM),
                ];
                let flag = flags[rng.below(4) as usize];
                region.half_word(flag).store(rng.below(4) as u32, Relaxed);
            }
            3 => {
                let counter =
                    region::tail(rng.below(2) as usize) + 0x180 + 8 * rng.below(19) as usize;
                let value = if rng.below(2) == 0 { 0 } else { u64::MAX };
                region.word(counter).store(value, Relaxed);
            }
            4 if rng.below(8) == 0 => {
                region.half_word(region::reader_gone(FROM)).store(rng.below(4) as u32, Relaxed);
            }
            5 => {
                let place = 8 * rng.below(8) as usize;
                let change = 1 << rng.below(64);
                region.word(place).fetch_xor(change, Relaxed);
            }
            6 => {
                let place = region::head(FROM);
                let step = off(rng);
                self.peer.reading.highest = u64::MAX - LIMIT;
                let head = region.word(place).load(Relaxed);
                let forth = rng.below(2) == 0;
                let head = if forth { head.wrapping_add(step) } else { head.wrapping_sub(step) };
                region.word(place).store(head, Release);
            }
            _ => self.replace_header(),
        }
    }

    /// Writes another plausible header over one that is unread, and in the long run over any.
    fn replace_header(&mut self) {
        let next = self.next_record();
        let (region, rng) = (&self.peer.region, &mut self.rng);
        let anywhere = region.area(INTO, 16 * rng.below(LIMIT / 16) as usize);
        let at = next.filter(|_| rng.below(8) != 0).map_or(anywhere, |record| record.at);
        let (header, detail) = match rng.below(4) {
            0 => (region::record(0, JUMP, 0), rng.below(40)),
            1 => (region::record(16 * rng.below(300), PADDING, 0), 0),
            _ => {
                let (len, kind) = (rng.below(5000), 1 + rng.below(9));
                let detail = match kind {
                    region::SMALL => region::small_detail(rng, len),
                    _ => rng.below(3),
                };
                (region::record(len, kind, rng.below(4)), detail)
            }
        };
        region.write_record(at, header, detail);
    }

    /// One of the records that the victim reads next.
    fn next_record(&mut self) -> Option<Staged> {
        // A flickering word has to be ahead of the victim, who goes on meanwhile.
        let ahead = if self.rounds > 1 { 40 } else { 4 };
        let index = self.rng.below(ahead);
        self.peer.unread(index)
    }

    /// Has a word flicker until the record that it belongs to is released, or for long enough.
    fn flicker(&mut self, at: usize, other: u64, record: &Staged) {
        let word = self.peer.region.word(at);
        let honest = word.load(Relaxed);
        for round in 0..self.rounds {
            word.store(other, Relaxed);
            word.store(honest, Relaxed);
            if round % 8 == 7 && self.peer.has_released(record.end) {
                return;
            }
        }
        if self.rng.below(2) == 0 {
            word.store(other, Relaxed);
        }
    }

    fn flicker_header(&mut self) {
        let Some(record) = self.next_record() else { return };
        if self.is_gentle {
            if let Some(twin) = record.twin {
                self.flicker(record.at, twin, &record);
            }
            return;
        }
        self.provoke();
        let rng = &mut self.rng;
        let (at, honest) = if rng.below(4) == 0 {
            (record.at + 8, record.detail)
        } else {
            (record.at, record.header)
        };
        let other = match rng.below(6) {
            0 => honest ^ (1 + rng.below(15)),
            1 => honest ^ 1 << rng.below(32),
            2 => honest & !(0xff << 32) | rng.below(8) << 32,
            3 => honest & !(0xff << 40) | rng.below(4) << 40,
            4 => honest ^ 1 << (48 + rng.below(16)),
            _ => honest.wrapping_add(16 * rng.below(256)),
        };
        self.flicker(at, other, &record);
    }

    fn flicker_payload(&mut self) {
        let Some(record) = self.next_record() else { return };
        // Not the lengths of small buffers, which may end the port: see `tests/smuggle/small.rs`.
        let is_small = record.header >> 32 & 0xff == region::SMALL;
        let lengths = if is_small { 4 * (record.detail >> 32) } else { 0 };
        let words = (record.len - lengths).div_ceil(8);
        if words == 0 {
            return;
        }
        // Of an archive what counts stands at its end.
        let rng = &mut self.rng;
        let word = if rng.below(2) == 0 { rng.below(words) } else { words - 1 };
        let at = record.at + 16 + 8 * word as usize;
        let honest = self.peer.region.word(at).load(Relaxed);
        let other = match rng.below(5) {
            0 => honest ^ 1 << rng.below(64),
            1 => rng.next(),
            2 => honest.wrapping_add(rng.below(1 << 16)),
            3 => honest.wrapping_sub(rng.below(1 << 16)),
            _ => (rng.below(1 << 10) as u32).wrapping_neg() as u64 | honest & 0xffff_ffff << 32,
        };
        self.flicker(at, other, &record);
    }

    /// Gives back any part of what the victim posted. A gentle one never takes it back: its victim
    /// cannot tell that nothing was read.
    fn give_back(&mut self) {
        let region = &self.peer.region;
        let tail = region.word(region::tail(FROM)).load(Acquire) & !region::END;
        let most = tail.saturating_sub(self.given_back) / 16;
        if self.is_gentle {
            self.given_back += 16 * self.rng.below(most + 1);
            region.word(region::head(FROM)).store(self.given_back, Release);
            return;
        }
        self.provoke();
        let from = tail.saturating_sub(LIMIT / 4).max(self.given_back);
        let units = (tail - from) / 16;
        let head = from + 16 * self.rng.below(units + 1);
        region.word(region::head(FROM)).store(head, Release);
        if self.rng.below(1024) == 0 {
            let head = tail.wrapping_add(16 * self.rng.below(1 << 13));
            region.word(region::head(FROM)).store(head, Release);
        }
    }

    fn odd_flags(&mut self) {
        let odd = [0, 1, 2, 3, 0x8000_0000, u32::MAX][self.rng.below(6) as usize];
        let flags = [region::message_sleeper(FROM), region::room_sleeper(INTO)];
        self.peer.region.half_word(flags[self.rng.below(2) as usize]).store(odd, Relaxed);
    }

    fn send_packets(&mut self, attachments: &mut Attachments) {
        let attack = self.rng.below(if self.is_gentle { 3 } else { 6 });
        if attack > 2 {
            self.provoke();
        }
        let (peer, rng) = (&mut self.peer, &mut self.rng);
        match attack {
            0 => attachments.send_port(peer, rng),
            1 => attachments.send_buffer(peer, rng),
            2 => attachments.send_descriptor(peer, rng),
            3 => {
                // A packet without a record, and a number that is not the next one.
                attachments.send_packet_alone(peer, rng);
            }
            4 => {
                let sequence = peer.sequence.wrapping_add(rng.below(3));
                peer.stage_beside(1 + rng.below(3), sequence, rng);
                peer.commit();
            }
            _ => attachments.send_nonsense(peer, rng),
        }
    }

    fn ring(&mut self) {
        let descriptor = self.peer.parts.descriptors[DOORBELL].as_raw_fd();
        match self.rng.below(if self.is_gentle { 3 } else { 4 }) {
            0 => self.peer.ring(&[7; 700]),
            1 => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_OOB;
                let _ = send(descriptor, &[7; 3][..1 + self.rng.below(3) as usize], flags);
            }
            2 => self.peer.ring(&[7]),
            _ => {
                self.provoke();
                let ways = [Shutdown::Read, Shutdown::Write, Shutdown::Both];
                let socket = [DOORBELL, ATTACHMENTS][self.rng.below(2) as usize];
                let socket = self.peer.parts.descriptors[socket].as_raw_fd();
                let _ = shutdown(socket, ways[self.rng.below(3) as usize]);
            }
        }
    }

    fn punch(&mut self) {
        let region = &self.peer.region;
        // The pages of the victim's own posts are no more than the peer's loss.
        let (start, len) = match self.rng.below(8) {
            _ if self.is_gentle => (region.area(FROM, 0), LIMIT as usize),
            0 => (0, AREA),
            1 => (AREA, region.len() - AREA),
            _ => (region.area(INTO, 0), LIMIT as usize),
        };
        if !self.is_gentle {
            self.provoke();
        }
        let pages = len as u64 / 4096;
        let first = self.rng.below(pages);
        let count = 1 + self.rng.below(pages - first).min(7);
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let start = (start as u64 + first * 4096) as i64;
        fallocate(&region.file, hole, start, (count * 4096) as i64).expect("a hole");
        // What stands there now is no record of the victim's: it is not looked at again.
        self.peer.reading.forgive();
    }
}
