//! Clauses P: posting, and what moves with a message. `tests/transfer/` and `tests/ports/` go
//! deeper; here is each clause by its name, between two threads and between two processes.

use crate::common::receive_end;
use crate::{Log, between_two_ends, channel, loop_of};
use messageport::{CloseReason, MessagePort};

/// The handlers of messages see none that is no `String`; what moved with it ends; later messages
/// go on.
fn p16_near(port: MessagePort) {
    let log = Log::new();
    log.watch_end(&port);
    let [message, error] = [log.clone(), log.clone()];
    port.on_message(move |event| {
        let words = event.message().expect("a message").data::<String>().expect("a string");
        message.note(words.as_str());
    });
    port.on_message_error(move |event| {
        assert!(event.message_error().is_some() && event.message().is_none());
        error.note(format!("messageerror, trusted: {}", event.is_trusted()));
    });
    let (mut event_loop, _) = loop_of(port.typed::<String, ()>().into());
    event_loop.run().expect("the loop waits");
    let wrong = "messageerror, trusted: true";
    assert_eq!(log.take(), ["one", wrong, wrong, wrong, "two", "close: PeerDropped"]);
}

fn p16_far(port: MessagePort) {
    let moved = channel();
    port.post_message(&"one".to_string()).expect("room");
    port.post_text_with("posted as text", [moved.port2.into()]).expect("room");
    port.post_bytes(&[0; 8]).expect("room");
    port.post_message(&0u8).expect("room");
    port.post_message(&"two".to_string()).expect("room");
    assert_eq!(receive_end(&moved.port1), CloseReason::PeerDropped);
}

between_two_ends!("posting", p16_what_cannot_be_read_is_a_message_error, p16_near, p16_far);
