//! Rings that the kernel refuses while a task waits. What `docs/protocol.md` promises: the poster's
//! next call rings again, and a new call finds what is there.

use std::future::Future;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use crate::common::role::{play, say};
use crate::filter::refused;
use crate::{into_async, on_each};
use futures_lite::future::{poll_once, zip};
use messageport::{MessageChannel, MessagePort};

/// Whether wake-ups can be refused here.
fn has_filter() -> bool {
    refused(|| ()).is_some()
}

/// Uses a port in a thread whose rings are refused.
fn use_without_rings(
    port: MessagePort,
    act: impl FnOnce(&MessagePort) + Send + 'static,
) -> MessagePort {
    let (give, given) = channel();
    let _thread = refused(move || {
        act(&port);
        give.send(port).expect("the test waits for it");
    });
    given.recv().expect("it comes back")
}

/// Has a task wait, uses the other end while its rings are refused, and then once more, so that it
/// rings again.
async fn comes_back<T>(
    what: &str,
    waiting: impl Future<Output = T>,
    port: MessagePort,
    act: impl FnOnce(&MessagePort) + Send + 'static,
) -> T {
    let waiting = async { (waiting.await, Instant::now()) };
    // It runs behind the first look of the other one, which is not looked at again for it.
    let acting = async {
        let port = use_without_rings(port, act);
        let called = Instant::now();
        let caller = thread::spawn(move || {
            assert!(!port.is_closed());
            port
        });
        (called, caller)
    };
    let ((answer, back), (called, caller)) = zip(waiting, acting).await;
    say(&format!("{what}: back {:?} after the next call", back - called));
    drop(caller.join().expect("no panic"));
    answer
}

#[test]
fn a_task_that_waits_for_a_message_hears_the_ring_that_is_tried_again() {
    const TEST: &str = "lost::a_task_that_waits_for_a_message_hears_the_ring_that_is_tried_again";
    fn waits() {
        if !has_filter() {
            return;
        }
        on_each(TEST, async || {
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            let mut waiting = into_async(port2);
            let post = |port: &MessagePort| port.post_text("one").expect("room");
            let message = comes_back("a task's receive", waiting.recv(), port1, post).await;
            assert_eq!(message.expect("a message").text().expect("a text"), "one");
        });
    }
    play(TEST, &[("waits", waits)]);
}

#[test]
fn a_task_that_waits_for_room_hears_the_ring_that_is_tried_again() {
    const TEST: &str = "lost::a_task_that_waits_for_room_hears_the_ring_that_is_tried_again";
    fn waits() {
        if !has_filter() {
            return;
        }
        on_each(TEST, async || {
            let builder = MessageChannel::builder().capacity(4096).bounded();
            let MessageChannel { port1, port2 } = builder.build().expect("a channel");
            let mut waiting = into_async(port1);
            while poll_once(waiting.post_bytes(&[1; 500])).await.is_some() {}
            // Not all seven: the look that finds nothing would ring again.
            let take = |port: &MessagePort| {
                (0..4).for_each(|_| drop(port.try_recv().expect("an open port")));
            };
            let posting = waiting.post_bytes(&[2; 500]);
            comes_back("a task's post", posting, port2, take).await.expect("room");
        });
    }
    play(TEST, &[("waits", waits)]);
}

/// As a task does whose timeout has passed.
#[test]
fn a_new_call_of_a_task_finds_the_message_whose_ring_was_lost() {
    const TEST: &str = "lost::a_new_call_of_a_task_finds_the_message_whose_ring_was_lost";
    fn waits() {
        if !has_filter() {
            return;
        }
        on_each(TEST, async || {
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            let mut waiting = into_async(port2);
            assert!(poll_once(waiting.recv()).await.is_none());
            let post = |port: &MessagePort| port.post_text("one").expect("room");
            let _port1 = use_without_rings(port1, post);
            let message = poll_once(waiting.recv()).await.expect("it is there");
            assert_eq!(message.expect("a message").text().expect("a text"), "one");
        });
    }
    play(TEST, &[("waits", waits)]);
}
