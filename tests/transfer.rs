//! Ports, buffers and descriptors that move with a message: nothing is lost, doubled or reordered,
//! whatever the processes do meanwhile, and every failure gives everything back.
//!
//! `MESSAGEPORT_MOVES=10000 MESSAGEPORT_MOVED_MESSAGES=1000000` moves the end of a stream that
//! often and makes the stream that long; `MESSAGEPORT_MOVE_KILLS=2000` kills that many processes at
//! each step of a transfer.

#![allow(unsafe_code)]

#[path = "transfer/buffers.rs"]
mod buffers;
#[path = "transfer/clones.rs"]
mod clones;
mod common;
#[path = "transfer/ends.rs"]
mod ends;
#[path = "common/filter.rs"]
mod filter;
#[path = "transfer/kills.rs"]
mod kills;
#[path = "transfer/limits.rs"]
mod limits;
#[path = "transfer/list.rs"]
mod list;
#[allow(dead_code)]
#[path = "kernel/locked.rs"]
mod locked;
#[path = "transfer/moving.rs"]
mod moving;
#[path = "transfer/refusals.rs"]
mod refusals;
#[path = "transfer/relay.rs"]
mod relay;
#[path = "transfer/shares.rs"]
mod shares;
#[path = "transfer/small.rs"]
mod small;
#[path = "transfer/writer.rs"]
mod writer;

use common::{receive, receive_text};
use messageport::{MessageChannel, MessagePort, Transferable};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::OwnedFd;

fn channel() -> MessageChannel {
    MessageChannel::new().expect("a channel")
}

/// A channel that has to grow before long.
fn growing() -> MessageChannel {
    MessageChannel::builder().capacity(4096).limit(1 << 20).build().expect("a channel")
}

/// A round trip between two ends of a channel that has nothing in its queues.
#[track_caller]
fn assert_entangled(one: &MessagePort, other: &MessagePort) {
    one.post_text("there").expect("room");
    assert_eq!(receive_text(other), "there");
    other.post_text("back").expect("room");
    assert_eq!(receive_text(one), "back");
}

/// Moves a port through a carrier of its own.
fn moved(port: MessagePort) -> MessagePort {
    let carrier = channel();
    carrier.port1.post_text_with("a port", [port.into()]).expect("room");
    receive(&carrier.port2).take_port().expect("a port")
}

/// A descriptor with a number in it, greater than 0.
fn token(number: u32) -> OwnedFd {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    EventFd::from_value_and_flags(number, flags).expect("a descriptor").into()
}

/// The number in a token, which can be read once.
#[track_caller]
fn number_of(token: &OwnedFd) -> u32 {
    let mut bytes = [0; 8];
    assert_eq!(nix::unistd::read(token, &mut bytes), Ok(8), "a token that was not read before");
    u64::from_ne_bytes(bytes) as u32
}

/// The only descriptor of a list that came back.
#[track_caller]
fn only_descriptor(list: Vec<Transferable>) -> OwnedFd {
    match <[Transferable; 1]>::try_from(list) {
        Ok([Transferable::Descriptor(descriptor)]) => descriptor,
        other => panic!("expected one descriptor: {other:?}"),
    }
}

/// The only port of a list that came back.
#[track_caller]
fn only_port(list: Vec<Transferable>) -> MessagePort {
    match <[Transferable; 1]>::try_from(list) {
        Ok([Transferable::Port(port)]) => port,
        other => panic!("expected one port: {other:?}"),
    }
}
