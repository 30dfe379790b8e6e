//! Channels whose ends trust each other.

use messageport::{MessageChannel, MessagePort};

#[allow(unsafe_code)]
pub fn trust(port: &MessagePort) {
    // SAFETY: every process that holds an end of a channel of these tests uses this crate only.
    unsafe { port.trust_peer() };
}

pub fn trusted_channel() -> MessageChannel {
    let channel = MessageChannel::new().expect("a channel");
    trust(&channel.port1);
    trust(&channel.port2);
    channel
}
