//! Ports with listeners in a loop of io_uring: a poll request for each port, which is submitted
//! again after each wake-up. Where the kernel refuses rings, it says so and ends.
//!
//! ```text
//! cargo run --example loop_io_uring
//! ```

#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::os::fd::AsRawFd;
use std::thread;

use io_uring::{IoUring, opcode, types};
use messageport::{MessageChannel, MessagePort, RecvError};

const CLIENTS: u64 = 3;
/// Events of one port before the others have their turn.
const SHARE: u32 = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let mut ring = match IoUring::new(8) {
        Ok(ring) => ring,
        Err(error) => {
            println!("no io_uring on this machine: {error}");
            return Ok(());
        }
    };
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
        watch(&mut ring, number, &port)?;
        ports.insert(number, port);
        clients.push(thread::spawn(move || client(number, &port1)));
    }
    // Ports that may have an event: at first all of them, for what came before they were watched.
    let mut ready: BTreeSet<u64> = ports.keys().copied().collect();
    // Ports whose poll request is done.
    let mut unwatched = BTreeSet::new();
    while !ports.is_empty() {
        for number in std::mem::take(&mut ready) {
            let Some(port) = ports.get(&number) else { continue };
            match port.dispatch(SHARE) {
                Ok(SHARE) => _ = ready.insert(number), // there may be more
                Ok(_) if unwatched.remove(&number) => watch(&mut ring, number, port)?,
                Ok(_) => {}
                // A request that is left tells of the end, and of nothing more.
                Err(RecvError::Closed { .. }) => _ = ports.remove(&number),
                Err(error) => return Err(error.into()),
            }
        }
        if ports.is_empty() {
            break;
        }
        match ready.is_empty() {
            true => ring.submit_and_wait(1)?,
            false => ring.submit()?,
        };
        for completion in ring.completion() {
            unwatched.insert(completion.user_data());
            ready.insert(completion.user_data());
        }
    }
    for client in clients {
        client.join().map_err(|_| "a client has panicked")?;
    }
    Ok(())
}

/// Requests to be told once when the port's descriptor is readable.
fn watch(ring: &mut IoUring, number: u64, port: &MessagePort) -> Result<(), Box<dyn Error>> {
    let descriptor = types::Fd(port.as_raw_fd());
    let poll = opcode::PollAdd::new(descriptor, libc::POLLIN as u32).build().user_data(number);
    // SAFETY: the request refers to no memory.
    unsafe { ring.submission().push(&poll) }?;
    Ok(())
}

fn client(number: u64, port: &MessagePort) {
    port.post_text(&format!("hello from client {number}")).expect("there is room");
    println!("{}", port.recv().expect("an answer").text().expect("text"));
}
