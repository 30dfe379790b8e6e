//! MDN's second demo of channel messaging: a page sends what is typed into it to a frame, which
//! keeps a list of it and answers each message. Here the page and the frame are two processes, the
//! terminal is the page's form, and the end of input closes the page.
//!
//! ```text
//! printf 'one\ntwo\n' | cargo run --example channel_messaging_multimessage
//! ```

use std::env;
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use messageport::{EventLoop, MessageChannel, Worker, parent_port};

fn main() -> Result<(), Box<dyn Error>> {
    if env::args().any(|argument| argument == "frame") { frame() } else { page() }
}

fn page() -> Result<(), Box<dyn Error>> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("frame").stdin(Stdio::null());
    let frame = Worker::spawn(command)?;
    let MessageChannel { port1, port2 } = MessageChannel::new()?;
    frame.port().post_text_with("init", [port2.into()])?;

    for line in io::stdin().lock().lines() {
        port1.post_text(&line?)?;
        println!("page: {}", port1.recv()?.text()?);
        io::stdout().flush()?;
    }
    port1.close();
    // The frame sends its list, and ends.
    println!("page: {}", frame.port().recv()?.text()?);
    Ok(())
}

fn frame() -> Result<(), Box<dyn Error>> {
    let page = parent_port()?;
    let port = page.recv()?.take_port()?;
    let (list, listed) = mpsc::channel();
    port.on_message(move |event| -> Result<(), Box<dyn Error + Send + Sync>> {
        let text = event.message().ok_or("a message")?.text()?;
        list.send(text.to_owned())?;
        event.port().post_text(&format!("the frame has received \"{text}\""))?;
        Ok(())
    });
    let mut event_loop = EventLoop::new()?;
    event_loop.add(port)?;
    event_loop.run()?;
    page.post_text(&format!("the frame has listed {:?}", listed.iter().collect::<Vec<_>>()))?;
    Ok(())
}
