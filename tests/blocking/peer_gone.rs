//! Waiting for the end of the peer while its messages are unread.

use crate::common::role::{command, play};
use crate::common::watchdog::watch;
use crate::common::{DEADLINE, die, receive_end, receive_text, wait_until_asleep};
use crate::sleeper;
use messageport::{
    CloseReason, EventLoop, MessageChannel, MessagePort, RecvError, Worker, parent_port,
};
use std::thread;
use std::time::Duration;

fn pair() -> (MessagePort, MessagePort) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    port1.post_text("unread").expect("room");
    (port1, port2)
}

/// Waits in a thread, has the peer end once that sleeps, and returns the port with what it found.
fn found_after(end: impl FnOnce(MessagePort) -> Option<MessagePort>) -> (MessagePort, CloseReason) {
    let (peer, port) = pair();
    let (waits, id) = sleeper(move || {
        let reason = port.wait_for_peer_gone(Duration::MAX).expect("the end of the peer");
        (port, reason)
    });
    wait_until_asleep(id);
    let _peer = end(peer);
    waits.join().expect("no panic")
}

#[test]
fn the_end_of_a_peer_is_found_behind_what_is_unread() {
    let _watch = watch("the_end_of_a_peer_is_found_behind_what_is_unread");
    for (keeps, expected) in [(false, CloseReason::PeerDropped), (true, CloseReason::PeerClosed)] {
        let (port, reason) = found_after(|peer| {
            if keeps {
                // The kernel reports nothing.
                peer.close();
            }
            keeps.then_some(peer)
        });
        assert_eq!(reason, expected);
        assert_eq!(port.wait_for_peer_gone(Duration::ZERO).expect("it has gone"), expected);
        assert_eq!(receive_text(&port), "unread");
        assert_eq!(receive_end(&port), expected);
    }
}

#[test]
fn a_peer_that_dies_is_found_as_well() {
    const TEST: &str = "peer_gone::a_peer_that_dies_is_found_as_well";
    fn child() {
        let port = parent_port().expect("a port to the parent");
        port.post_text("unread").expect("room");
        assert_eq!(receive_text(&port), "die");
        die();
    }
    fn parent() {
        let (port, _process) = Worker::spawn(command(TEST, "child")).expect("a worker").split();
        port.post_text("die").expect("room");
        let reason = port.wait_for_peer_gone(DEADLINE).expect("the end of the peer");
        assert_eq!(reason, CloseReason::PeerDied);
        assert_eq!(receive_text(&port), "unread");
    }
    play(TEST, &[("parent", parent), ("child", child)]);
}

#[test]
fn a_wait_for_the_peer_ends_in_other_ways_too() {
    let _watch = watch("a_wait_for_the_peer_ends_in_other_ways_too");
    let (peer, port) = pair();
    let waited = port.wait_for_peer_gone(Duration::from_millis(2));
    assert!(matches!(waited, Err(RecvError::Timeout)), "{waited:?}");
    let canceller = port.canceller().expect("a canceller");
    let (waits, id) = sleeper(move || {
        let waited = port.wait_for_peer_gone(Duration::MAX);
        (port, waited)
    });
    wait_until_asleep(id);
    // A message does not end it.
    peer.post_text("another").expect("room");
    canceller.cancel();
    let (port, waited) = waits.join().expect("no panic");
    assert!(matches!(waited, Err(RecvError::Cancelled)), "{waited:?}");
    // A started port is asked in the same way, and keeps its messages.
    port.start();
    let gone = thread::spawn(move || drop(peer));
    let reason = port.wait_for_peer_gone(Duration::MAX).expect("the end of the peer");
    assert_eq!(reason, CloseReason::PeerDropped);
    gone.join().expect("no panic");
    let (send, texts) = std::sync::mpsc::channel();
    port.on_message(move |event| {
        send.send(event.message().expect("a message").text().expect("text").to_owned())
    });
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add(port).expect("a port");
    event_loop.run().expect("it ends with its port");
    drop(event_loop);
    assert_eq!(texts.iter().collect::<Vec<_>>(), ["unread", "another"]);
    let (_peer, port) = pair();
    port.close();
    let reason = port.wait_for_peer_gone(Duration::MAX).expect("its own end");
    assert_eq!(reason, CloseReason::Local);
}
