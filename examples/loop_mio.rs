//! Ports with listeners in a loop of mio, which is edge-triggered: it tells of each change once.
//!
//! ```text
//! cargo run --example loop_mio
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use messageport::{MessageChannel, MessagePort, RecvError};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

const CLIENTS: usize = 3;
/// Events of one port before the others have their turn.
const SHARE: u32 = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let mut poll = Poll::new()?;
    let mut ports = BTreeMap::new();
    let mut clients = Vec::new();
    for number in 1..=CLIENTS {
        let MessageChannel { port1, port2: port } = MessageChannel::new()?;
        port.on_message(|event| -> Result<(), Box<dyn Error + Send + Sync>> {
            let text = event.message().ok_or("a message")?.text()?;
            Ok(event.port().post_text(&text.to_uppercase())?)
        });
        port.on_close(move |_| println!("client {number} has left"));
        // The first call of `as_raw_fd`, before the first `dispatch`.
        let mut source = SourceFd(&port.as_raw_fd());
        poll.registry().register(&mut source, Token(number), Interest::READABLE)?;
        ports.insert(Token(number), port);
        clients.push(thread::spawn(move || client(number, &port1)));
    }
    // Ports that may have an event: at first all of them, for what came before they were watched.
    let mut ready: BTreeSet<Token> = ports.keys().copied().collect();
    let mut events = Events::with_capacity(64);
    while !ports.is_empty() {
        for token in std::mem::take(&mut ready) {
            let Some(port) = ports.get(&token) else { continue };
            match port.dispatch(SHARE) {
                Ok(SHARE) => _ = ready.insert(token), // there may be more, of which mio is silent
                Ok(_) => {}
                Err(RecvError::Closed { .. }) => {
                    poll.registry().deregister(&mut SourceFd(&port.as_raw_fd()))?;
                    ports.remove(&token);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !ports.is_empty() {
            let timeout = if ready.is_empty() { None } else { Some(Duration::ZERO) };
            poll.poll(&mut events, timeout)?;
            ready.extend(events.iter().map(|event| event.token()));
        }
    }
    for client in clients {
        client.join().map_err(|_| "a client has panicked")?;
    }
    Ok(())
}

fn client(number: usize, port: &MessagePort) {
    port.post_text(&format!("hello from client {number}")).expect("there is room");
    println!("{}", port.recv().expect("an answer").text().expect("text"));
}
