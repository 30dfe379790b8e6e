//! Posts numbered messages, some with a buffer or a port, and checks those of the other end, which
//! may be killed at any time. `test/exchange.mjs` is the same in JavaScript.
//!
//!     exchange child LIMIT [FILE]            at the parent port; FILE holds the count of posts
//!     exchange parent ROUNDS SEED COMMAND…   starts the command in each round, and kills it

use messageport::{Buffer, MessageChannel, MessagePort, PostError, RecvError, TransferError};
use messageport::{Transferable, Worker, parent_port};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, thread};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Messages that may be on their way in one direction.
const WINDOW: u64 = 256;
const BUFFER_EVERY: u64 = 8;
const PORT_EVERY: u64 = 32;
const BUFFER_BYTES: usize = 4096;
/// Messages in the queue of a port that moves.
const LINES: u64 = 4;

#[derive(Serialize, Deserialize)]
struct Numbered {
    /// `None` in a message that only says what was seen.
    number: Option<u64>,
    /// Numbered messages that its sender has received.
    seen: u64,
}

/// A port at the side of the conversation. Its lines come back from the other end.
struct Side {
    port: MessagePort,
    next: u64,
    /// It arrived: each line is sent back. The other kind is closed after its last line.
    echoes: bool,
}

struct Exchange<'p> {
    port: &'p MessagePort,
    limit: u64,
    posted: u64,
    received: u64,
    /// Of what was posted here, as the other end says.
    acknowledged: u64,
    told: u64,
    sides: Vec<Side>,
    file: Option<File>,
}

fn main() -> Outcome {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["child", limit, file @ ..] => {
            let file = file.first().map(File::create).transpose()?;
            let port = parent_port()?;
            let mut exchange = Exchange::new(&port, limit.parse()?, file);
            while exchange.step()? {}
            exchange.finish()
        }
        ["parent", rounds, seed, program, rest @ ..] => {
            parent(rounds.parse()?, seed.parse()?, program, rest)
        }
        _ => Err("the role is missing, or its arguments".into()),
    }
}

impl<'p> Exchange<'p> {
    fn new(port: &'p MessagePort, limit: u64, file: Option<File>) -> Exchange<'p> {
        Exchange {
            port,
            limit,
            posted: 0,
            received: 0,
            acknowledged: 0,
            told: 0,
            sides: Vec::new(),
            file,
        }
    }

    /// Receives what is there and posts what fits. Returns whether the conversation goes on.
    fn step(&mut self) -> Outcome<bool> {
        let before = (self.received, self.posted);
        for _ in 0..64 {
            if !self.receive()? {
                return Ok(false);
            }
        }
        self.read_sides()?;
        while self.posted < self.limit && self.posted - self.acknowledged < WINDOW {
            if !self.post_next()? {
                break;
            }
        }
        if self.told + WINDOW / 4 < self.received || self.is_complete() && self.told < self.received
        {
            self.post(&Numbered { number: None, seen: self.received }, Vec::new())?;
        }
        if before == (self.received, self.posted) {
            thread::sleep(Duration::from_micros(20));
        }
        Ok(true)
    }

    fn is_complete(&self) -> bool {
        self.received == self.limit && self.posted == self.limit
    }

    /// Returns false at the end of the conversation.
    fn receive(&mut self) -> Outcome<bool> {
        let event = match self.port.try_recv() {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(true),
            Err(RecvError::Closed { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let Numbered { number, seen } = event.value()?;
        if seen < self.acknowledged || seen > self.posted {
            return Err(format!("{seen} messages of {} were seen", self.posted).into());
        }
        self.acknowledged = seen;
        let Some(number) = number else { return Ok(true) };
        if number != self.received {
            return Err(format!("{number} instead of {}", self.received).into());
        }
        self.received += 1;
        let expected = match number {
            number if number % PORT_EVERY == 1 => (1, 0, 0),
            number if number.is_multiple_of(BUFFER_EVERY) => (0, 1, 0),
            _ => (0, 0, 0),
        };
        if event.transferred() != expected {
            return Err(format!("{number} came with {:?}", event.transferred()).into());
        }
        for buffer in event.take_buffers()? {
            if buffer.len() != BUFFER_BYTES || buffer.iter().any(|byte| *byte != number as u8) {
                return Err(format!("the buffer of {number} has other bytes").into());
            }
        }
        for port in event.take_ports()? {
            self.sides.push(Side { port, next: 0, echoes: true });
        }
        Ok(true)
    }

    fn read_sides(&mut self) -> Outcome {
        let mut open = Vec::new();
        for mut side in self.sides.drain(..) {
            if side.read()? {
                open.push(side);
            }
        }
        self.sides = open;
        Ok(())
    }

    /// Posts the next message; returns false if there is no room for it now.
    fn post_next(&mut self) -> Outcome<bool> {
        let number = self.posted;
        let message = Numbered { number: Some(number), seen: self.received };
        let mut list = Vec::new();
        let mut kept = None;
        if number % PORT_EVERY == 1 {
            let MessageChannel { port1, port2 } = MessageChannel::new()?;
            for line in 0..LINES {
                port1.post_value(&line)?;
            }
            kept = Some(port1);
            list.push(port2.into());
        } else if number.is_multiple_of(BUFFER_EVERY) {
            list.push(Buffer::from_slice(&[number as u8; BUFFER_BYTES])?.into());
        }
        if !self.post(&message, list)? {
            return Ok(false);
        }
        self.posted += 1;
        if let Some(file) = &self.file {
            file.write_all_at(&self.posted.to_le_bytes(), 0)?;
        }
        self.sides.extend(kept.map(|port| Side { port, next: 0, echoes: false }));
        Ok(true)
    }

    fn post(&mut self, message: &Numbered, list: Vec<Transferable>) -> Outcome<bool> {
        match self.port.post_value_with(message, list).map_err(TransferError::into_parts) {
            Ok(()) => {
                self.told = message.seen;
                Ok(true)
            }
            // The end shows when it is received.
            Err((PostError::Closed { .. }, _)) => Ok(true),
            Err((PostError::QueueFull { .. } | PostError::TooManyInFlight, _)) => Ok(false),
            Err((error, _)) => Err(error.into()),
        }
    }

    /// The other end is gone: so are the ends that it held.
    fn finish(mut self) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.sides.is_empty() {
            self.read_sides()?;
            if Instant::now() > deadline {
                return Err(format!("{} ports do not end", self.sides.len()).into());
            }
        }
        Ok(())
    }
}

impl Side {
    /// Returns false once the port has ended.
    fn read(&mut self) -> Outcome<bool> {
        loop {
            let line: u64 = match self.port.try_recv() {
                Ok(Some(event)) => event.value()?,
                Ok(None) => return Ok(true),
                Err(RecvError::Closed { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            if line != self.next || line >= LINES {
                return Err(format!("line {line} instead of {}", self.next).into());
            }
            self.next += 1;
            if self.echoes {
                match self.port.post_value(&line) {
                    Ok(()) | Err(PostError::Closed { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            } else if self.next == LINES {
                return Ok(false);
            }
        }
    }
}

/// Starts the command in each round, and kills it at a random moment. Then nothing is left of it.
fn parent(rounds: u64, seed: u64, program: &str, rest: &[&str]) -> Outcome {
    let mut random = seed.wrapping_mul(2) + 1;
    let mut before = None;
    let (mut received, mut posted) = (0, 0);
    for round in 0..rounds {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut command = Command::new(program);
        command.args(rest);
        let (port, mut process) = Worker::spawn(command)?.split();
        let mut exchange = Exchange::new(&port, u64::MAX, None);
        let last = random % 4000;
        while exchange.received < last && exchange.step()? {}
        process.kill()?;
        while exchange.step()? {}
        if exchange.received < last {
            return Err(format!("round {round}: only {} messages came", exchange.received).into());
        }
        (received, posted) = (received + exchange.received, posted + exchange.posted);
        exchange.finish()?;
        process.wait()?;
        drop(port);
        let now = settled(before)?;
        if *before.get_or_insert(now) != now {
            return Err(format!("round {round}: {now:?} instead of {before:?}").into());
        }
    }
    println!("{received} received, {posted} posted");
    Ok(())
}

/// The open descriptors and the mapped shared memory, once they are as expected or do not change.
fn settled(expected: Option<(usize, usize)>) -> Outcome<(usize, usize)> {
    let mut now = census()?;
    for _ in 0..500 {
        if expected.is_none_or(|expected| now == expected) {
            break;
        }
        thread::sleep(Duration::from_millis(10));
        now = census()?;
    }
    Ok(now)
}

fn census() -> Outcome<(usize, usize)> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mapped = maps.lines().filter(|line| line.contains("memfd:")).count();
    Ok((fs::read_dir("/proc/self/fd")?.count(), mapped))
}
