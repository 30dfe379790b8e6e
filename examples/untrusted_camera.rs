//! A stream of frames from a program that is not trusted: the camera writes them into memory that
//! is used again and again, and the viewer copies each part before it looks at it.
//!
//! ```text
//! cargo run --release --example untrusted_camera        # 30 frames
//! cargo run --release --example untrusted_camera 1000
//! ```
#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::process::Command;
use std::time::{Duration, Instant};

use messageport::{BufferPool, Frame, MessagePort, RecvError, Worker, parent_port};

const WIDTH: usize = 1920;
const HEIGHT: usize = 1080;
const SIZE: (u32, u32) = (WIDTH as u32, HEIGHT as u32);
/// Bytes of a line: four for each pixel.
const LINE: usize = WIDTH * 4;
/// Frames that are being written or viewed at any time.
const FRAMES: u32 = 3;

type Failure = Box<dyn Error + Send + Sync>;

/// What the camera says about a frame. It may be a lie, so the viewer checks it.
#[messageport::message]
struct Picture {
    number: u64,
    width: u32,
    height: u32,
}

fn main() -> Result<(), Failure> {
    match env::args().nth(1).as_deref() {
        Some("camera") => {
            let frames = env::args().nth(2).ok_or("the number of frames is missing")?;
            film(parent_port()?, frames.parse()?)
        }
        frames => view(frames.unwrap_or("30").parse()?),
    }
}

/// Writes frames in place, and hands them over without a copy.
fn film(port: MessagePort, frames: u64) -> Result<(), Failure> {
    let pool = BufferPool::for_untrusted(&port, FRAMES, LINE * HEIGHT)?;
    for number in 0..frames {
        // Waits until the viewer has dropped an earlier frame.
        let mut frame = pool.take_timeout(Duration::from_secs(10))?;
        for (y, line) in frame.chunks_exact_mut(LINE).enumerate() {
            line.fill(shade(number, y));
        }
        let picture = Picture { number, width: SIZE.0, height: SIZE.1 };
        port.post_message_pooled(&picture, frame)?;
    }
    Ok(())
}

/// Starts the camera, checks its frames, and says how many came in a second.
fn view(frames: u64) -> Result<(), Failure> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("camera").arg(frames.to_string());
    let mut camera = Worker::spawn(command)?;
    let began = Instant::now();
    let mut seen = 0;
    loop {
        let event = match camera.port().recv() {
            Ok(event) => event,
            Err(RecvError::Closed { .. }) => break,
            Err(error) => return Err(error.into()),
        };
        let picture = event.deserialize::<Picture>()?;
        let frame = event.take_frame()?;
        if picture.number != seen || (picture.width, picture.height) != SIZE {
            return Err(format!("frame {seen} is another one: {}", picture.number).into());
        }
        check(&frame, seen)?;
        seen += 1;
        // The frame is dropped here, and its memory goes back to the camera.
    }
    let taken = began.elapsed().as_secs_f64();
    if seen != frames || !camera.wait()?.success() {
        return Err(format!("the camera ended after {seen} of {frames} frames").into());
    }
    println!("{seen} frames of {WIDTH} by {HEIGHT} pixels, {:.0} a second", seen as f64 / taken);
    Ok(())
}

/// Looks at the first and the last pixel of each line.
///
/// The camera can write to the frame at any time, so each line is copied first, and only the copy
/// is looked at: what was checked stays as it was. A line stays in the first cache of a core.
fn check(frame: &Frame, number: u64) -> Result<(), Failure> {
    if frame.len() != LINE * HEIGHT {
        return Err(format!("a frame of {} bytes, expected {}", frame.len(), LINE * HEIGHT).into());
    }
    let mut line = [0; LINE];
    for y in 0..HEIGHT {
        frame.copy_to(y * LINE, &mut line);
        if [line[0], line[LINE - 1]] != [shade(number, y); 2] {
            return Err(format!("line {y} of frame {number} has another shade").into());
        }
    }
    Ok(())
}

/// A gradient that moves down by a line with each frame.
fn shade(number: u64, y: usize) -> u8 {
    (number as usize + y) as u8
}
