//! The Rust end of the tests and examples of the package: what it does is its first argument.

use messageport::{
    BroadcastChannel, Buffer, Format, MessageChannel, MessageEvent, MessagePort, PostError,
    Transferable, Value, Worker, parent_port,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::process::Command;
use std::thread;
use std::time::Duration;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    match arguments.first().map(String::as_str) {
        Some("echo") => echo(&parent_port()?),
        Some("values") => values(&parent_port()?),
        Some("orders") => orders(&parent_port()?),
        Some("frames") => frames(&parent_port()?),
        Some("ports") => ports(&parent_port()?),
        Some("refusing") => refusing(&parent_port()?),
        Some("hostile") => hostile(&parent_port()?, rest),
        Some("scribble") => scribble(&parent_port()?, rest),
        Some("stream") => stream(&parent_port()?),
        Some("chat") => chat(rest),
        Some("host") => host(rest),
        other => Err(format!("there is no role {other:?}").into()),
    }
}

/// Sends each message back, with everything that it brought.
fn echo(port: &MessagePort) -> Outcome {
    for event in port {
        let list = taken(&event)?;
        match event.format() {
            Format::Text => port.post_text_with(event.text()?, list)?,
            Format::Bytes => port.post_bytes_with(event.bytes(), list)?,
            Format::Value => port.post_encoded_value_with(event.bytes(), list)?,
            other => return Err(format!("unexpected {other:?}").into()),
        }
    }
    Ok(())
}

fn taken(event: &MessageEvent<'_>) -> Result<Vec<Transferable>, Box<dyn Error>> {
    let mut list: Vec<Transferable> = event.take_ports()?.into_iter().map(Into::into).collect();
    list.extend(event.take_buffers()?.into_iter().map(Transferable::from));
    list.extend(event.take_descriptors()?.into_iter().map(Transferable::from));
    Ok(list)
}

/// Decodes each value and encodes it again, so that both codecs have seen it.
fn values(port: &MessagePort) -> Outcome {
    for event in port {
        port.post_value(&event.value::<Value>()?)?;
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Order {
    item: String,
    count: u32,
    #[serde(default)]
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Receipt {
    total: f64,
    items: BTreeMap<String, u32>,
}

/// Reads what JavaScript posts as types of its own, and answers with one.
fn orders(port: &MessagePort) -> Outcome {
    for event in port {
        match event.value::<Vec<Order>>() {
            Ok(orders) => {
                let total = orders.iter().map(|order| 2.5 * f64::from(order.count)).sum();
                let notes: usize = orders.iter().map(|order| order.notes.len()).sum();
                let mut items: BTreeMap<_, _> =
                    orders.into_iter().map(|order| (order.item, order.count)).collect();
                items.insert("notes".to_string(), notes as u32);
                port.post_value(&Receipt { total, items })?;
            }
            Err(error) => port.post_text(&error.to_string())?,
        }
    }
    Ok(())
}

/// Inverts the pixels of frames: each message brings one in a buffer.
fn frames(port: &MessagePort) -> Outcome {
    for event in port {
        let frame = event.take_buffer()?;
        let mut inverted = Buffer::new(frame.len())?;
        for (to, from) in inverted.bytes_mut()?.iter_mut().zip(frame.iter()) {
            *to = !from;
        }
        port.post_bytes_with(event.bytes(), [inverted.into()])?;
    }
    Ok(())
}

/// What the two ends of a stream post, as `docs/node.md` says.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "type", content = "value", rename_all = "lowercase")]
enum Step<T> {
    Pull,
    Chunk(T),
    Close,
}

/// Reads a stream of numbers, which arrives as a port, and answers with their sum.
fn stream(port: &MessagePort) -> Outcome {
    let numbers = port.recv()?.take_ports()?.pop().ok_or("expected a stream")?;
    let mut sum = 0;
    numbers.post_value(&Step::<u32>::Pull)?;
    for event in &numbers {
        match event.value::<Step<u32>>()? {
            Step::Chunk(number) => sum += number,
            Step::Close => break,
            Step::Pull => return Err("the end that writes does not pull".into()),
        }
        numbers.post_value(&Step::<u32>::Pull)?;
    }
    port.post_value(&sum)?;
    for _ in port {}
    Ok(())
}

/// Makes a channel for each message, gives one end away, and answers on the other one.
fn ports(port: &MessagePort) -> Outcome {
    let mut kept = Vec::new();
    for event in port {
        let MessageChannel { port1, port2 } = MessageChannel::new()?;
        port1.post_text("queued before the move")?;
        port1.post_text(event.text()?)?;
        port.post_text_with("a port", [port2.into()])?;
        kept.push(port1);
    }
    for port in &kept {
        port.post_text("the last one")?;
    }
    Ok(())
}

/// Gives away a port whose channel refuses transfer lists, and answers there.
fn refusing(port: &MessagePort) -> Outcome {
    let MessageChannel { port1, port2 } = MessageChannel::builder().refuse_transfers().build()?;
    port.post_text_with("a port", [port2.into()])?;
    for event in &port1 {
        port1.post_text(event.text()?)?;
    }
    Ok(())
}

/// Random numbers that are the same in each run (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

fn number(rest: &[String], default: u64) -> u64 {
    rest.first().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Receives one clone of JavaScript, and posts that many messages that are none, or nearly one.
fn hostile(port: &MessagePort, rest: &[String]) -> Outcome {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut samples = Vec::new();
    for event in port {
        if event.format() == Format::Text {
            break;
        }
        samples.push((event.format(), event.bytes().to_vec()));
    }
    for _ in 0..number(rest, 10_000) {
        let (format, mut bytes) = samples[random.below(samples.len())].clone();
        // The mark of a clone stays.
        let start = if format == Format::Value { 0 } else { 8 };
        let len = bytes.len() - start;
        match random.below(4) {
            // Random bytes.
            0 => {
                bytes.truncate(start);
                let len = random.below(64);
                bytes.extend((0..len).map(|_| random.next() as u8));
            }
            // Some bytes changed: tags, lengths, indices.
            1 => {
                for _ in 0..=random.below(4) {
                    bytes[start + random.below(len)] = random.next() as u8;
                }
            }
            // An end that comes early.
            2 => bytes.truncate(start + random.below(len)),
            // A length of up to 2^32 - 1 somewhere.
            _ => {
                let at = start + random.below(len);
                bytes.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0x0f]);
            }
        }
        // Everything fits: the other end receives, or the post is tried again.
        loop {
            let posted = match format {
                Format::Value => port.post_encoded_value(&bytes),
                _ => port.post_bytes(&bytes),
            };
            match posted {
                Err(PostError::QueueFull { .. }) => thread::sleep(Duration::from_millis(1)),
                posted => break posted?,
            }
        }
    }
    port.post_message(&7u64)?;
    port.post_text_with("with a file", [fs::File::open("/dev/null")?.into()])?;
    port.post_text("end")?;
    // Until the other end has read all of it.
    while port.recv().is_ok() {}
    Ok(())
}

/// Writes random bytes over the shared memory while messages are posted.
fn scribble(port: &MessagePort, rest: &[String]) -> Outcome {
    let mut random = Random(number(rest, 1) * 2 + 1);
    let mut regions = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        if fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().contains("memfd:")) {
            regions.extend(fs::OpenOptions::new().read(true).write(true).open(&path));
        }
    }
    if regions.is_empty() {
        return Err("the port has no memory".into());
    }
    for round in 0..5_000 {
        let _ = port.post_text("a message among the noise");
        let region = &mut regions[0];
        // The words of the ring are at the beginning, the records behind 64 KiB.
        let at = if round % 2 == 0 { random.below(4096) } else { 0x10000 + random.below(4096) };
        region.seek(SeekFrom::Start(at as u64))?;
        let _ = region.write(&random.next().to_le_bytes());
    }
    Ok(())
}

/// Joins a chat, says one line and answers each greeting until it hears the end.
fn chat(rest: &[String]) -> Outcome {
    let name = rest.first().ok_or("the name of the channel is missing")?;
    let channel = BroadcastChannel::open(name)?;
    channel.post_text("rust: joined")?;
    loop {
        let message = channel.recv()?;
        match message.text()? {
            "end" => return Ok(()),
            line if line.ends_with(": hello") => channel.post_text("rust: welcome")?,
            _ => {}
        }
    }
}

/// Starts a program of JavaScript with a port, as a plug-in, and has it do some work.
fn host(rest: &[String]) -> Outcome {
    let (program, arguments) = rest.split_first().ok_or("the program is missing")?;
    let mut command = Command::new(program);
    command.args(arguments);
    let (port, mut process) = Worker::spawn(command)?.split();
    port.post_text("hello from Rust")?;
    println!("{}", port.recv()?.text()?);
    let pixels = Buffer::from_slice(&[1, 2, 3])?;
    port.post_text_with("pixels", [pixels.into()])?;
    let event = port.recv()?;
    println!("{} {:?}", event.text()?, &*event.take_buffer()?);
    drop(event);
    port.close();
    println!("{}", process.wait()?);
    Ok(())
}
