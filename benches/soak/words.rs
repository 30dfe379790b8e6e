//! What the driver and its partners say to each other, and random numbers.

/// What a message is about, in its first byte. Eight bytes each follow for the numbers it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The same bytes back.
    Echo,
    /// The number of the message, and the instant of its post; the rest is a pattern. No reply.
    Stream,
    /// A reply with what was received: see `Partner::sum`.
    Sum,
    /// Everything that moved with it, back.
    Return,
    /// A number: the port that comes with it leads to the partner of this number.
    Link,
    /// How many messages are in the port that comes, and the numbers of the partners through which
    /// it has yet to go. The last one takes the messages and says so through the port.
    Chain,
    /// The port that comes takes requests.
    Serve,
    /// A number: a frame of a pool comes with it, whose pattern has this number.
    Frame,
    /// Join the broadcast channel; leave it. A reply when that is done.
    Join,
    Leave,
    /// What comes out of the port that comes goes back into it.
    Add,
    /// The rest is the path of a listener: connect, and echo.
    Dial,
}

const KINDS: [Kind; 12] = [
    Kind::Echo,
    Kind::Stream,
    Kind::Sum,
    Kind::Return,
    Kind::Link,
    Kind::Chain,
    Kind::Serve,
    Kind::Frame,
    Kind::Join,
    Kind::Leave,
    Kind::Add,
    Kind::Dial,
];

impl Kind {
    pub fn of(message: &[u8]) -> Kind {
        KINDS[usize::from(message[0])]
    }

    /// A message of this kind with these numbers.
    pub fn message(self, numbers: &[u64]) -> Vec<u8> {
        let mut message = vec![self as u8];
        numbers.iter().for_each(|number| message.extend(number.to_ne_bytes()));
        message
    }
}

/// Number `index` behind the kind.
pub fn number(message: &[u8], index: usize) -> u64 {
    let at = 1 + 8 * index;
    u64::from_ne_bytes(message[at..at + 8].try_into().expect("eight bytes"))
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(seed: u64, len: usize) -> impl Iterator<Item = u8> {
    let word = mix(seed).to_ne_bytes();
    (0..len).map(move |place| word[place % 8].wrapping_add((place / 8) as u8))
}

/// What a worker replies to a request, unless [`Fate`] says otherwise.
pub fn answer(request: u64) -> u64 {
    request.wrapping_mul(3).wrapping_add(1)
}

/// What a partner does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Answer,
    /// It answers after three milliseconds.
    Delay,
    Drop,
    Refuse,
}

impl Fate {
    pub fn of(request: u64) -> Fate {
        match request % 16 {
            0 => Fate::Drop,
            1 => Fate::Refuse,
            2 => Fate::Delay,
            _ => Fate::Answer,
        }
    }
}

/// Now, on the clock that all processes share, in nanoseconds.
pub fn now() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Random numbers that are the same for the same seed (splitmix64).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Mostly short, seldom long; at most `most`.
    pub fn len(&mut self, most: usize) -> usize {
        let most = most as u64 >> self.below(12);
        self.below(most + 1) as usize
    }
}

fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Longest time that a histogram tells from others: an hour.
pub const MOST_NANOS: u64 = 3_600_000_000_000;
