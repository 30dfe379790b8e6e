//! Two tasks wait on one doorbell: whichever half drains it tells the other one.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use crate::{into_async, on_each};
use messageport::MessageChannel;

fn small() -> MessageChannel {
    MessageChannel::builder().capacity(4096).bounded().build().expect("a channel")
}

/// A task that counts how often it is woken.
#[derive(Default)]
struct Told(AtomicU64);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A sender that waits for room drains the doorbell, which has just rung for a message: the
/// receiver, which waits in a task of its own, is told. No reactor runs in between.
#[test]
fn a_receiver_is_told_of_a_ring_that_its_sender_has_silenced() {
    on_each("doorbell::a_receiver_is_told_of_a_ring_that_its_sender_has_silenced", async || {
        let MessageChannel { port1, port2 } = small();
        let (mut sender, mut receiver) = into_async(port1).split();
        let mut no_waker = Context::from_waker(Waker::noop());
        while pin!(sender.post_bytes(&[2; 700])).poll(&mut no_waker).is_ready() {}
        let told = Arc::new(Told::default());
        let waker = Waker::from(told.clone());
        let mut context = Context::from_waker(&waker);
        assert!(pin!(receiver.recv()).poll(&mut context).is_pending());
        port2.post_text("listen").expect("room");
        assert_eq!(port2.stats().sent.wakes, 1, "it has rung");
        assert!(pin!(sender.post_bytes(&[2; 700])).poll(&mut no_waker).is_pending());
        assert_ne!(told.0.load(SeqCst), 0, "it was silenced, and no task was woken");
        let Poll::Ready(message) = pin!(receiver.recv()).poll(&mut context) else {
            panic!("the message is there")
        };
        assert_eq!(message.expect("a message").text().expect("a text"), "listen");
    });
}

/// The other way round, by each call of a receiver that drains the doorbell, which has just rung
/// for room.
#[test]
fn a_sender_is_told_of_a_ring_that_its_receiver_has_silenced() {
    on_each("doorbell::a_sender_is_told_of_a_ring_that_its_receiver_has_silenced", async || {
        for call in ["recv", "try_recv", "discard_next", "peek", "peek_message"] {
            let MessageChannel { port1, port2 } = small();
            let (mut sender, mut receiver) = into_async(port1).split();
            let mut no_waker = Context::from_waker(Waker::noop());
            // From here on a receive has seen that nothing is there.
            assert!(pin!(receiver.recv()).poll(&mut no_waker).is_pending());
            let told = Arc::new(Told::default());
            let waker = Waker::from(told.clone());
            let mut context = Context::from_waker(&waker);
            while pin!(sender.post_bytes(&[2; 700])).poll(&mut context).is_ready() {}
            assert!(port2.try_iter().count() > 0, "which rings");
            match call {
                "recv" => assert!(pin!(receiver.recv()).poll(&mut no_waker).is_pending()),
                "try_recv" => assert!(receiver.try_recv().expect("an open port").is_none()),
                "peek" => assert!(receiver.peek().expect("an open port").is_none()),
                "peek_message" => {
                    assert!(receiver.peek_message().expect("an open port").is_none());
                }
                _ => assert!(!receiver.discard_next().expect("an open port")),
            }
            assert_ne!(told.0.load(SeqCst), 0, "{call} has silenced it, and no task was woken");
            assert!(pin!(sender.post_bytes(&[2; 700])).poll(&mut context).is_ready());
        }
    });
}
