//! Pools and buffers of a peer that lies about them, and writes to them at any time.
//!
//! A pool exists between ends that trust each other, so it promises nothing about the content of
//! its slots. Its lengths and its words are checked nevertheless: a peer's mistake must not cause
//! an access outside.

use super::{LOW, MOST_LEN, MOST_SLOTS};
use crate::error::SystemError;
use crate::link::buffer::Buffer;
use crate::link::pool::{PeerPool, PoolMaker, PoolMemory, Pooled, PooledBuffer, total};
use crate::os::memfd;
use crate::os::reaper::Foreign;
use std::fs::File;
use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

/// Accepts a pool and a buffer that another process made, and uses what is accepted.
///
/// The first sixteen bytes are two numbers, whose top bits choose what is made and what is claimed
/// about it. Each following six bytes are one use of the pool or one write of the peer's, and all
/// of them are the content of the buffer. What is accepted has the claimed length, and there is no
/// panic, no hang and no access outside of the memory. Returns whether the pool and the buffer were
/// accepted.
pub fn foreign_memory(data: &[u8]) -> [bool; 2] {
    let Some((head, rest)) = data.split_first_chunk::<16>() else { return [false; 2] };
    let (first, second) = head.split_at(8);
    let [first, second] = [first, second].map(|it| u64::from_le_bytes(it.try_into().expect("8")));
    [pool(first, second, rest), buffer(first, second, rest)]
}

fn pool(first: u64, second: u64, uses: &[u8]) -> bool {
    let (slots, len) = (1 + first % MOST_SLOTS, 1 + second % MOST_LEN);
    let memory = PoolMemory::create(slots as u32, len).expect("a small pool");
    let descriptor =
        memory.descriptor().expect("one").try_clone_to_owned().expect("a descriptor is left");
    let file = File::from(descriptor.try_clone().expect("a descriptor is left"));
    let said = match first >> 56 & 3 {
        0 | 1 => (slots, len),
        2 => (first & LOW, len),
        _ => (slots, second & LOW),
    };
    let is_honest = said == (slots, len);
    let Ok(peer) = PeerPool::new(Foreign::new(descriptor, None), said.0, said.1) else {
        assert!(!is_honest, "a pool as this crate makes it is accepted");
        return false;
    };
    let end = file.metadata().expect("a file").len();
    assert_eq!(total(said.0, said.1), Some(end), "what is accepted is as long as was said");
    let mut play = Play {
        file,
        end,
        len: said.1,
        peer: Arc::new(peer),
        maker: PoolMaker::new(memory),
        held: Vec::new(),
    };
    uses.chunks_exact(6).take(64).for_each(|it| play.step(it));
    true
}

/// Both ends of a pool, and the buffers that they have.
struct Play {
    file: File,
    /// Bytes of the file.
    end: u64,
    /// Bytes of a slot for the receiver.
    len: u64,
    peer: Arc<PeerPool>,
    maker: PoolMaker,
    held: Vec<PooledBuffer>,
}

impl Play {
    fn step(&mut self, code: &[u8]) {
        let place = u64::from(u16::from_le_bytes([code[1], code[2]]));
        match code[0] % 8 {
            // The peer writes: the words more often than what follows them.
            0 => self.write(place % 4, code),
            1 => self.write(0x80 + place % (4 * MOST_SLOTS), code),
            2 => self.write(place, code),
            3 => self.receive(place as u32 % (2 * MOST_SLOTS as u32)),
            4 => self.receive(u32::from_le_bytes(code[2..].try_into().expect("four bytes"))),
            5 => self.take(),
            6 => self.give_back(place as usize),
            // A sleep of no time costs the kernel many times what all the rest does.
            _ => self.maker.memory().wait(Duration::ZERO, || !place.is_multiple_of(64)),
        }
    }

    fn write(&self, offset: u64, code: &[u8]) {
        let offset = offset.min(self.end - 4);
        self.file.write_all_at(&code[2..], offset).expect("the file is as long");
    }

    fn receive(&mut self, slot: u32) {
        let Ok(Pooled::Buffer(buffer)) = self.peer.received(slot) else { return };
        assert_eq!(buffer.len() as u64, self.len);
        self.hold(buffer);
    }

    fn take(&mut self) {
        let _ = black_box(self.maker.in_use());
        if let Some(buffer) = self.maker.take() {
            self.hold(buffer);
        }
    }

    fn hold(&mut self, mut buffer: PooledBuffer) {
        black_box(buffer.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
        *buffer.last_mut().expect("no slot is empty") = 7;
        if self.held.len() < MOST_SLOTS as usize {
            self.held.push(buffer);
        }
    }

    fn give_back(&mut self, place: usize) {
        if !self.held.is_empty() {
            self.held.swap_remove(place % self.held.len());
        }
    }
}

fn buffer(first: u64, second: u64, content: &[u8]) -> bool {
    let choice = first >> 58;
    let len = match choice & 3 {
        0 | 1 => content.len() as u64,
        2 => second % MOST_LEN,
        _ => 0,
    };
    let said = if second >> 63 == 0 { len } else { second & LOW };
    let descriptor = match choice >> 2 & 3 {
        0 => filled(len, content).and_then(|memfd| memfd::freeze(&memfd).map(|()| memfd)),
        1 => filled(len, content),
        2 => memfd::create_sealed(len),
        _ => Ok(File::open("/dev/null").expect("it is there").into()),
    };
    is_taken(descriptor.expect("a descriptor is left"), said, choice >> 4 & 1 == 0)
}

/// Memory that begins with `content`, as far as it fits.
fn filled(len: u64, content: &[u8]) -> Result<OwnedFd, SystemError> {
    let file = File::from(memfd::create(len)?);
    let some = content.len().min(len as usize);
    file.write_all_at(&content[..some], 0).expect("the file is as long");
    Ok(file.into())
}

/// Takes a buffer in, and uses it.
fn is_taken(descriptor: OwnedFd, said: u64, is_trusted: bool) -> bool {
    let Ok(buffer) = Buffer::import(Foreign::new(descriptor, None), said, is_trusted) else {
        return false;
    };
    assert!(buffer.is_sealed() && buffer.len() as u64 == said);
    black_box(buffer.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
    for _ in 0..2 {
        let _ = black_box(buffer.access::<Vec<String>>().map(|words| words.len()));
    }
    let mut private = buffer.into_mut().expect("memory for its pages");
    private.fill(7);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::fuzzing::corpus;

    #[test]
    fn memory_of_the_corpus_does_no_harm_and_is_of_both_kinds() {
        let all: Vec<[bool; 2]> = corpus("foreign_memory").map(|it| foreign_memory(&it)).collect();
        for which in 0..2 {
            // The published crate has no corpus.
            let has = |answer| all.is_empty() || all.iter().any(|it| it[which] == answer);
            assert!(has(true) && has(false), "{which}: some are accepted, some refused");
        }
    }

    #[test]
    fn honest_memory_is_accepted() {
        assert_eq!(foreign_memory(&[[0; 16].as_slice(), &[5; 600]].concat()), [true, true]);
    }
}
