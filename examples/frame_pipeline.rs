//! 4K frames through three steps, each a process: one makes them, one filters them, and two show
//! the same memory. No byte is copied on the way.
//!
//! ```text
//! cargo run --release --example frame_pipeline        # 10 frames
//! cargo run --release --example frame_pipeline 500
//! ```
#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::process::Command;
use std::time::Instant;

use messageport::{Buffer, MessageChannel, MessagePort, RecvError, Worker, parent_port};

const FRAME: usize = 3840 * 2160 * 4;
const VIEWERS: usize = 2;
/// Frames that were made and not seen yet.
const AHEAD: u64 = 3;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    match env::args().nth(1).as_deref() {
        Some("filter") => filter(parent_port()?),
        Some("viewer") => viewer(parent_port()?),
        frames => make(frames.unwrap_or("10").parse()?),
    }
}

/// Makes the frames, and says how many went through in a second.
fn make(frames: u64) -> Result<(), Failure> {
    let start = |role: &str| -> Result<Worker, Failure> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(role);
        Ok(Worker::spawn(command)?)
    };
    let filter = start("filter")?;
    let viewers = [start("viewer")?, start("viewer")?];
    for viewer in &viewers {
        let MessageChannel { port1, port2 } = MessageChannel::new()?;
        filter.port().post_text_with("a viewer", [port1.into()])?;
        viewer.port().post_text_with("the filter", [port2.into()])?;
    }
    let sum_of = |viewer: &Worker| -> Result<u64, Failure> {
        Ok(viewer.port().recv()?.data::<u64>()?.to_native())
    };
    let began = Instant::now();
    for number in 0..frames + AHEAD {
        if number < frames {
            let mut frame = Buffer::new(FRAME)?;
            frame.bytes_mut()?.fill(number as u8);
            filter.port().post_message_with(&number, [frame.into()])?;
        }
        if let Some(seen) = number.checked_sub(AHEAD) {
            for viewer in &viewers {
                if sum_of(viewer)? != u64::from(!(seen as u8)) * FRAME as u64 {
                    return Err(format!("frame {seen} is another one").into());
                }
            }
        }
    }
    let taken = began.elapsed().as_secs_f64();
    let local = in_one_thread(frames.min(30));
    println!(
        "{:.0} frames a second through three processes; {local:.0} by one thread that uses its \
         memory again",
        frames as f64 / taken
    );
    Ok(())
}

/// Inverts each frame, and gives the result to all viewers.
fn filter(port: MessagePort) -> Result<(), Failure> {
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS {
        viewers.push(port.recv()?.take_port()?);
    }
    loop {
        let event = match port.recv() {
            Ok(event) => event,
            Err(RecvError::Closed { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let number = event.data::<u64>()?.to_native();
        let frame = event.take_buffer()?;
        let mut filtered = Buffer::new(FRAME)?;
        invert(&frame, filtered.bytes_mut()?);
        filtered.seal()?;
        for viewer in &viewers {
            viewer.post_message_with(&number, [filtered.clone().into()])?;
        }
    }
}

/// Looks at each frame, and tells the sum of its bytes.
fn viewer(port: MessagePort) -> Result<(), Failure> {
    let filter = port.recv()?.take_port()?;
    loop {
        match filter.recv() {
            Ok(event) => port.post_message(&sum(&event.take_buffer()?))?,
            Err(RecvError::Closed { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn invert(from: &[u8], to: &mut [u8]) {
    for (from, to) in from.iter().zip(to) {
        *to = !from;
    }
}

fn sum(frame: &[u8]) -> u64 {
    let part = |part: &[u8]| part.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    frame.chunks(4096).map(part).sum()
}

/// The same work without processes: frames a second.
fn in_one_thread(frames: u64) -> f64 {
    let (mut frame, mut filtered) = (vec![0u8; FRAME], vec![0u8; FRAME]);
    let began = Instant::now();
    for number in 0..frames {
        frame.fill(number as u8);
        invert(&frame, &mut filtered);
        for _ in 0..VIEWERS {
            std::hint::black_box(sum(&filtered));
        }
    }
    frames as f64 / began.elapsed().as_secs_f64()
}
