//! Ports with listeners in a loop of `poll(2)`: any loop that waits for descriptors serves them so.
//!
//! ```text
//! cargo run --example loop_poll
//! ```

use std::error::Error;
use std::os::fd::AsFd;
use std::thread;

use messageport::{MessageChannel, MessagePort, RecvError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const CLIENTS: u32 = 3;
/// Events of one port before the others have their turn.
const SHARE: u32 = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let mut ports = Vec::new();
    let mut clients = Vec::new();
    for number in 1..=CLIENTS {
        let MessageChannel { port1, port2: port } = MessageChannel::new()?;
        // From now on the descriptor becomes readable with the next event.
        let _ = port.as_fd();
        port.on_message(|event| -> Result<(), Box<dyn Error + Send + Sync>> {
            let text = event.message().ok_or("a message")?.text()?;
            Ok(event.port().post_text(&text.to_uppercase())?)
        });
        port.on_close(move |_| println!("client {number} has left"));
        ports.push(port);
        clients.push(thread::spawn(move || client(number, &port1)));
    }
    while !ports.is_empty() {
        let mut is_busy = false;
        let mut open = Vec::new();
        for port in ports {
            match port.dispatch(SHARE) {
                // There may be more, so the next wait must not sleep.
                Ok(SHARE) => is_busy = true,
                Ok(_) => {}
                // `close` was delivered.
                Err(RecvError::Closed { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            open.push(port);
        }
        ports = open;
        let mut waits: Vec<_> =
            ports.iter().map(|port| PollFd::new(port.as_fd(), PollFlags::POLLIN)).collect();
        if !waits.is_empty() {
            poll(&mut waits, if is_busy { PollTimeout::ZERO } else { PollTimeout::NONE })?;
        }
    }
    for client in clients {
        client.join().map_err(|_| "a client has panicked")?;
    }
    Ok(())
}

fn client(number: u32, port: &MessagePort) {
    port.post_text(&format!("hello from client {number}")).expect("there is room");
    println!("{}", port.recv().expect("an answer").text().expect("text"));
}
