//! MDN's first demo of channel messaging: a page sends one port of a channel to an inline frame,
//! and the frame answers through it. Here the page and the frame are two processes.
//!
//! ```text
//! cargo run --example channel_messaging_basic
//! ```

use std::env;
use std::error::Error;
use std::process::Command;

use messageport::{EventLoop, MessageChannel, Worker, parent_port};

fn main() -> Result<(), Box<dyn Error>> {
    if env::args().any(|argument| argument == "frame") { frame() } else { page() }
}

fn page() -> Result<(), Box<dyn Error>> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("frame");
    let frame = Worker::spawn(command)?;

    let MessageChannel { port1, port2 } = MessageChannel::new()?;
    port1.on_message(|event| -> Result<(), Box<dyn Error + Send + Sync>> {
        println!("page: {}", event.message().ok_or("a message")?.text()?);
        Ok(())
    });
    frame.port().post_text_with("Hello from the main page!", [port2.into()])?;

    // Ends when the frame has dropped its port.
    let mut event_loop = EventLoop::new()?;
    event_loop.add(port1)?;
    event_loop.run()?;
    Ok(())
}

fn frame() -> Result<(), Box<dyn Error>> {
    let page = parent_port()?;
    let hello = page.recv()?;
    println!("frame: {}", hello.text()?);
    let port = hello.take_port()?;
    port.post_text("Message back from the frame")?;
    Ok(())
}
