//! A chat room: one loop serves many clients, and sends what one of them says to all.
//!
//! ```text
//! cargo run --example event_loop
//! ```

use std::error::Error;
use std::thread;

use messageport::{EventLoop, EventType, ListenerOptions, MessageChannel, MessagePort};

const CLIENTS: u32 = 4;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut event_loop = EventLoop::new()?;
    let mut clients = Vec::new();
    for number in 1..=CLIENTS {
        let MessageChannel { port1, port2 } = MessageChannel::new()?;
        port2.on_message(|event| -> Result<(), Box<dyn Error + Send + Sync>> {
            let said = event.message().ok_or("a message")?.text()?;
            for (_, other) in event.loop_ports() {
                other.post_text(said)?;
            }
            Ok(())
        });
        let options = ListenerOptions::new().once();
        port2.add_event_listener(EventType::Close, options, move |event| {
            println!("client {number} has left: {}", event.close_reason().expect("a reason"));
        });
        event_loop.add(port2)?;
        clients.push(thread::spawn(move || client(number, &port1)));
    }
    // Ends when the last client has left.
    event_loop.run()?;
    for client in clients {
        client.join().map_err(|_| "a client has panicked")??;
    }
    Ok(())
}

/// Says one thing, and leaves once it has heard every client.
fn client(number: u32, room: &MessagePort) -> Result<(), Box<dyn Error + Send + Sync>> {
    room.post_text(&format!("hello from client {number}"))?;
    let mut heard = Vec::new();
    for _ in 0..CLIENTS {
        heard.push(room.recv()?.text()?.to_owned());
    }
    println!("client {number} heard: {}", heard.join(", "));
    room.close();
    Ok(())
}
