//! The other side of the soak: answers whatever comes.

use std::hint::spin_loop;

use messageport::{MessageEvent, MessagePort, RecvError, Transferable, parent_port};

use super::child::Job;

/// Name of the role.
pub const ROLE: &str = "soak";

/// What a message asks for, in its first byte.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Kind {
    /// The same bytes back.
    Echo,
    /// Nothing yet.
    Burst,
    /// How many bytes came in the burst.
    BurstEnd,
    /// Everything that moved with it back.
    Return,
}

/// Waits for the next message without sleeping.
pub fn wait(port: &MessagePort) -> Result<MessageEvent<'_>, RecvError> {
    loop {
        if let Some(event) = port.try_recv()? {
            return Ok(event);
        }
        spin_loop();
    }
}

pub fn serve(_: Job) {
    let port = parent_port().expect("a port to the parent");
    let mut burst = 0_u64;
    // An error means that the parent is gone.
    while let Ok(event) = wait(&port) {
        let kind = event.bytes()[0];
        if kind == Kind::Echo as u8 {
            port.post_bytes(event.bytes()).expect("room");
        } else if kind == Kind::Burst as u8 {
            burst += event.bytes().len() as u64;
        } else if kind == Kind::BurstEnd as u8 {
            port.post_bytes(&burst.to_ne_bytes()).expect("room");
            burst = 0;
        } else {
            port.post_bytes_with(event.bytes(), everything(&event)).expect("room");
        }
    }
}

fn everything(event: &MessageEvent<'_>) -> Vec<Transferable> {
    let ports = event.take_ports().expect("ports").into_iter().map(Transferable::from);
    let buffers = event.take_buffers().expect("buffers").into_iter().map(Transferable::from);
    let files = event.take_descriptors().expect("descriptors").into_iter().map(Transferable::from);
    ports.chain(buffers).chain(files).collect()
}
