//! Where there is no memory for a message, tasks are told so, and nothing else is lost.

use crate::common::limits::{allow_all_address_space, allow_more_address_space};
use crate::common::role::play;
use crate::common::watchdog::progress;
use crate::{into_async, on_each};
use futures_util::StreamExt;
use messageport::{
    AsyncPort, Message, MessageChannel, MessageError, MessagePort, RecvError, TypedError,
};

/// More than glibc has reserved for a thread, whatever it was given back before.
const LEN: usize = 66 << 20;

/// A pair with a message before a long one, and one behind it.
fn pair_with_messages(is_trusted: bool) -> (MessagePort, AsyncPort) {
    let builder = MessageChannel::builder().limit(256 << 20);
    let MessageChannel { port1, port2 } = builder.build().expect("a channel");
    if is_trusted {
        // SAFETY: both ends are this test's.
        unsafe { port1.trust_peer() };
        // SAFETY: as above.
        unsafe { port2.trust_peer() };
    }
    post_three(&port1);
    (port1, into_async(port2))
}

fn post_three(port: &MessagePort) {
    port.post_text("before").expect("room");
    port.post_bytes(&vec![7; LEN]).expect("room");
    port.post_text("behind").expect("room");
}

/// Runs a task that may not allocate as much as a long message.
async fn without_memory<T>(task: impl Future<Output = T>) -> T {
    allow_more_address_space(LEN as u64 / 4);
    let answer = task.await;
    allow_all_address_space();
    progress();
    answer
}

fn assert_text(message: Option<&Message>, expected: &str) {
    assert_eq!(message.expect("a message").text().expect("a text"), expected);
}

#[test]
fn a_task_keeps_a_message_in_the_queue_that_there_is_no_memory_for() {
    const TEST: &str = "memory::a_task_keeps_a_message_in_the_queue_that_there_is_no_memory_for";
    fn receives() {
        for is_trusted in [false, true] {
            on_each(TEST, async || {
                let (port1, mut port2) = pair_with_messages(is_trusted);
                assert_text(port2.recv().await.ok().as_ref(), "before");
                for _ in 0..2 {
                    let refused = without_memory(port2.recv()).await.map(drop);
                    let Err(RecvError::OutOfMemory { len }) = refused else {
                        panic!("trusted: {is_trusted}: {refused:?}")
                    };
                    assert_eq!(len, LEN as u64);
                }
                let refused = without_memory(async { port2.try_recv() }).await.map(drop);
                assert!(matches!(refused, Err(RecvError::OutOfMemory { .. })), "{refused:?}");
                // The error says that the message stays.
                let long = port2.recv().await.expect("there is memory now");
                assert!(long.bytes() == vec![7; LEN], "trusted: {is_trusted}");
                drop(long);
                assert_text(port2.recv().await.ok().as_ref(), "behind");
                // The other direction and the port are as before.
                port2.post_message(&7u64).await.expect("room");
                let port2 = port2.into_inner();
                assert_eq!(*crate::common::receive(&port1).data::<u64>().expect("a number"), 7);
                port1.post_text("on").expect("room");
                assert_eq!(crate::common::receive_text(&port2), "on");
            });
        }
    }
    play(TEST, &[("receives", receives)]);
}

#[test]
fn a_stream_says_which_message_it_has_no_memory_for_and_goes_on() {
    const TEST: &str = "memory::a_stream_says_which_message_it_has_no_memory_for_and_goes_on";
    fn receives() {
        for is_trusted in [false, true] {
            on_each(TEST, async || {
                let (port1, mut port2) = pair_with_messages(is_trusted);
                for round in 0..2 {
                    if round > 0 {
                        post_three(&port1);
                    }
                    assert_text(port2.next().await.expect("open").ok().as_ref(), "before");
                    let lost = without_memory(port2.next()).await.expect("open").map(drop);
                    let Err(MessageError::OutOfMemory { len }) = lost else {
                        panic!("trusted: {is_trusted}: {lost:?}")
                    };
                    assert_eq!(len, LEN as u64);
                    assert_text(port2.next().await.expect("open").ok().as_ref(), "behind");
                }
                drop(port1);
                assert!(port2.next().await.is_none(), "trusted: {is_trusted}");
            });
        }
    }
    play(TEST, &[("receives", receives)]);
}

#[test]
fn a_typed_task_keeps_a_message_in_the_queue_that_there_is_no_memory_for() {
    const TEST: &str =
        "memory::a_typed_task_keeps_a_message_in_the_queue_that_there_is_no_memory_for";
    fn receives() {
        on_each(TEST, async || {
            let builder = MessageChannel::builder().limit(256 << 20);
            let MessageChannel { port1, port2 } = builder.build().expect("a channel");
            let mut port2 = port2.typed::<Vec<u8>, ()>().into_async().expect("a reactor");
            port1.post_message(&vec![7u8; LEN]).expect("room");
            for _ in 0..2 {
                let refused = without_memory(port2.recv()).await.map(drop);
                let is_lack =
                    matches!(&refused, Err(TypedError::Recv(RecvError::OutOfMemory { .. })));
                assert!(is_lack, "{refused:?}");
            }
            let message = port2.recv().await.expect("there is memory now");
            assert_eq!(message.data().len(), LEN);
        });
    }
    play(TEST, &[("receives", receives)]);
}
