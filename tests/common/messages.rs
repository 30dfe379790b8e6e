//! Streams of messages whose every byte follows from a seed and the message's number: what was
//! lost, torn, doubled or reordered does not compare equal.

use super::watchdog::progress;
use super::{DEADLINE, wait_until};
use messageport::{Format, MessageEvent, MessagePort, PostError, rkyv};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The text of an error and those of its sources.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// Small and reproducible: splitmix64.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number less than `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Spends up to `most` without a system call, to come at another instant each time.
    pub fn dawdle(&mut self, most: Duration) {
        let time = Duration::from_nanos(self.below(most.as_nanos() as u64 + 1));
        let start = Instant::now();
        while start.elapsed() < time {
            std::hint::spin_loop();
        }
    }
}

/// Posts numbers in bursts of random length, with random pauses, and stays until they are taken:
/// a receiver that has slept over one must not be woken by the end.
pub fn stop_and_go(port: &MessagePort, count: u64) {
    let mut rng = Rng(count);
    let mut posted = 0;
    while posted < count {
        for _ in 0..rng.below(50).min(count - posted) {
            port.post_message_timeout(&posted, DEADLINE).expect("room");
            posted += 1;
        }
        rng.dawdle(Duration::from_micros(100));
        progress();
    }
    wait_until("all messages are taken", || port.backlog().messages == 0);
}

/// A stream of messages from nothing to `MOST` bytes.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    pub seed: u64,
}

/// Bytes of the longest message of a stream.
pub const MOST: usize = 100 << 10;

/// A message as a type: with a number inside, a string outside.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, messageport::SafeArchive)]
pub struct Order {
    pub number: u64,
    pub body: String,
}

impl Stream {
    /// The content of a message: its number, as far as there is room, and then some of the pattern.
    pub fn message(self, number: u64) -> String {
        let hash = mix(self.seed ^ mix(number));
        let most = match hash >> 60 {
            0 => 1,
            1..=8 => 64,
            9..=12 => 2 << 10,
            13..=14 => 16 << 10,
            _ => MOST as u64 + 1,
        };
        let len = (mix(hash) % most) as usize;
        let start = (mix(hash ^ 1) % MOST as u64) as usize;
        let mut text = format!("{number:016x}");
        text.truncate(len);
        text.push_str(&pattern()[start..start + len - text.len()]);
        text
    }

    /// Posts a message, each number in its own way, and waits for room.
    pub fn post(self, port: &MessagePort, number: u64) -> Result<(), PostError> {
        let body = self.message(number);
        match number % WAYS {
            0 => port.post_bytes_timeout(body.as_bytes(), DEADLINE),
            1 => port.post_text_timeout(&body, DEADLINE),
            2 => port.post_message_timeout(&Order { number, body }, DEADLINE),
            3 => {
                port.wait_for_room(body.len(), DEADLINE)?;
                let mut loan = port.loan(body.len())?;
                loan.copy_from_slice(body.as_bytes());
                loan.post()
            }
            _ => {
                port.wait_for_room(body.len(), DEADLINE)?;
                let burst = port.burst();
                burst.stage_text(&body)?;
                burst.commit();
                Ok(())
            }
        }
    }

    /// Whether `event` is this message, to the last byte.
    pub fn matches(self, event: &MessageEvent<'_>, number: u64) -> bool {
        let body = self.message(number);
        match number % WAYS {
            0 | 3 => event.format() == Format::Bytes && event.bytes() == body.as_bytes(),
            2 => event
                .data::<Order>()
                .is_ok_and(|order| order.number == number && order.body.as_str() == body),
            _ => event.text().is_ok_and(|text| text == body),
        }
    }

    /// Fails unless `event` is this message.
    pub fn check(self, event: &MessageEvent<'_>, number: u64) {
        assert!(self.matches(event, number), "not message {number} of {self:?}: {event:?}");
    }
}

pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Random letters, twice as long as a message.
fn pattern() -> &'static str {
    static PATTERN: OnceLock<String> = OnceLock::new();
    PATTERN.get_or_init(|| {
        let mut rng = Rng(1);
        (0..2 * MOST).map(|_| char::from(b' ' + rng.below(95) as u8)).collect()
    })
}

/// Ways to post.
pub const WAYS: u64 = 5;
