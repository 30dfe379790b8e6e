//! Rings that the kernel refuses (ENOBUFS), for the last message before a silence: no sleep that
//! has a timeout of ours waits for a call that never comes.

use crate::common::role::play;
use crate::common::{DEADLINE, receive_text};
use crate::filter::refused;
use crate::lost::{FOR_EVER, comes_back};
use messageport::{BroadcastChannel, EventLoop, MessageChannel, MessagePort, PortSet};
use nix::sys::socket::{MsgFlags, recv};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Has `sleep` wait in a thread, without end, for one message that is posted while the rings are
/// refused.
fn sleeps_through(what: &'static str, sleep: fn(MessagePort) -> bool) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let post = move || {
        port1.post_text("one").expect("room");
        port1
    };
    comes_back(what, move || sleep(port2), post);
}

#[test]
fn f25_a_refused_ring_ends_every_sleep_all_the_same() {
    const TEST: &str = "refused::f25_a_refused_ring_ends_every_sleep_all_the_same";
    fn sleeps() {
        sleeps_through("a receiver", |port| port.recv_timeout(FOR_EVER).is_ok());
        sleeps_through("a set", |port| {
            let mut set = PortSet::new().expect("a set");
            set.add(port).expect("room for a port");
            let said = set.recv_timeout(FOR_EVER).expect("a set");
            said.is_some_and(|(_, said)| said.is_ok())
        });
        sleeps_through("a loop", |port| {
            let (saw, has_seen) = channel();
            port.on_message(move |_| saw.send(()).expect("the loop's owner waits"));
            let mut event_loop = EventLoop::new().expect("a loop");
            event_loop.add(port).expect("room for a port");
            while has_seen.try_recv().is_err() {
                event_loop.poll_once(FOR_EVER).expect("the loop waits");
            }
            true
        });
    }
    play(TEST, &[("sleeps", sleeps)]);
}

#[test]
fn f25_a_refused_ring_of_a_broadcast_is_found() {
    const TEST: &str = "refused::f25_a_refused_ring_of_a_broadcast_is_found";
    fn sleeps() {
        let name = format!("refused-{}", std::process::id());
        let here = BroadcastChannel::open(&name).expect("a member");
        let there = BroadcastChannel::open(&name).expect("a member");
        // Both know each other by then.
        there.post_text("first").expect("room");
        assert_eq!(here.recv_timeout(DEADLINE).expect("a message").text().expect("text"), "first");
        let post = move || {
            there.post_text("second").expect("room");
            there
        };
        comes_back("a member", move || here.recv_timeout(FOR_EVER).is_ok(), post);
    }
    play(TEST, &[("sleeps", sleeps)]);
}

/// The poster's own wait rings again: nothing else tells a watcher of the descriptor.
#[test]
fn f25_a_refused_ring_is_tried_again_by_the_posters_next_call() {
    const TEST: &str = "refused::f25_a_refused_ring_is_tried_again_by_the_posters_next_call";
    fn rings_again() {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let bell = port2.as_fd();
        let rings = || {
            let answer =
                recv(bell.as_raw_fd(), &mut [0; 8], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK);
            answer.is_ok()
        };
        type Call = fn(&MessagePort);
        let calls: [(&str, Call); 4] = [
            ("a look", |port| assert!(port.try_recv().expect("an open port").is_none())),
            ("a wait", |port| _ = port.recv_timeout(Duration::from_millis(1))),
            ("a question", |port| assert!(!port.is_closed())),
            ("a post", |port| port.post_text("two").expect("room")),
        ];
        let mut port = port1;
        for (what, call) in calls {
            while port2.try_recv().expect("an open port").is_some() {}
            assert!(!rings());
            let (back, is_back) = channel();
            let poster = refused(move || {
                port.post_text("one").expect("room");
                back.send(port).expect("the test waits for it");
            });
            if poster.is_none() {
                return;
            }
            port = is_back.recv().expect("it comes back");
            assert!(!rings(), "the filter has refused the ring");
            call(&port);
            assert!(rings(), "{what} did not ring again: {port2:#?}");
            assert_eq!(receive_text(&port2), "one");
        }
    }
    play(TEST, &[("rings_again", rings_again)]);
}
