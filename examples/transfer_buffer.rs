//! Frames pass through three processes, and none of them copies a pixel.
//!
//! ```text
//! camera (this process) → meter → display → camera, which compares
//! ```
//!
//! A frame is a buffer. Posting it seals it against changes. The next process maps it, reads it in
//! place, and may pass it on.
//!
//! ```text
//! cargo run --release --example transfer_buffer [FRAMES]
//! ```

use std::env;
use std::error::Error;
use std::process::Command;
use std::time::Instant;

use messageport::{Buffer, MessageChannel, Worker, parent_port};

const WIDTH: usize = 1920;
const HEIGHT: usize = 1080;

fn main() -> Result<(), Box<dyn Error>> {
    match env::args().nth(1).as_deref() {
        Some("meter") => meter(),
        Some("display") => display(),
        count => camera(count.unwrap_or("30").parse()?),
    }
}

fn camera(frames: u32) -> Result<(), Box<dyn Error>> {
    let (meter, display) = (start("meter")?, start("display")?);
    let MessageChannel { port1, port2 } = MessageChannel::new()?;
    meter.port().post_text_with("to the display", [port1.into()])?;
    display.port().post_text_with("from the meter", [port2.into()])?;

    let start = Instant::now();
    for number in 0..frames {
        let mut frame = Buffer::new(WIDTH * HEIGHT)?;
        for (index, pixel) in frame.bytes_mut()?.iter_mut().enumerate() {
            *pixel = (index as u32).wrapping_mul(number + 1) as u8;
        }
        let sum = sum_of(&frame);
        meter.port().post_message_with(&number, [frame.into()])?;

        let shown = display.port().recv()?;
        let (shown_number, brightness, shown_sum) = shown.deserialize::<(u32, u8, u64)>()?;
        if (shown_number, shown_sum) != (number, sum) {
            return Err(format!("frame {number} was shown as {shown_number}, {shown_sum}").into());
        }
        println!("frame {number}: brightness {brightness}");
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{frames} frames of {WIDTH} × {HEIGHT}: {:.0} a second", f64::from(frames) / seconds);
    Ok(())
}

/// Measures each frame and passes it on unchanged.
fn meter() -> Result<(), Box<dyn Error>> {
    let camera = parent_port()?;
    let display = camera.recv()?.take_port()?;
    for event in &camera {
        let frame = event.take_buffer()?;
        let brightness = (sum_of(&frame) / frame.len() as u64) as u8;
        let number = event.data::<u32>()?.to_native();
        display.post_message_with(&(number, brightness), [frame.into()])?;
    }
    Ok(())
}

fn display() -> Result<(), Box<dyn Error>> {
    let camera = parent_port()?;
    let meter = camera.recv()?.take_port()?;
    for event in &meter {
        let frame = event.take_buffer()?;
        let (number, brightness) = event.deserialize::<(u32, u8)>()?;
        camera.post_message(&(number, brightness, sum_of(&frame)))?;
    }
    Ok(())
}

fn sum_of(frame: &[u8]) -> u64 {
    frame.iter().map(|pixel| u64::from(*pixel)).sum()
}

fn start(role: &str) -> Result<Worker, Box<dyn Error>> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(role);
    Ok(Worker::spawn(command)?)
}
