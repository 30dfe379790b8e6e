//! Typed ports in tasks: what is of another type is an error, and halves keep their types.

use crate::on_each;
use futures_lite::future::{poll_once, zip};
use futures_util::stream::FusedStream;
use futures_util::{SinkExt, StreamExt};
use messageport::{
    CloseReason, MessageChannel, MessageError, PostError, RecvError, TypedError, TypedPort,
};

fn pair() -> (TypedPort<String, u64>, TypedPort<u64, String>) {
    let builder = MessageChannel::builder().capacity(4096).bounded();
    let MessageChannel { port1, port2 } = builder.build().expect("a channel");
    (port1.typed(), port2.typed())
}

#[test]
fn a_message_of_another_type_is_an_error_and_the_next_one_comes() {
    on_each("typed::a_message_of_another_type_is_an_error_and_the_next_one_comes", async || {
        let (port1, port2) = pair();
        let mut port1 = port1.into_async().expect("a reactor");
        let file = || std::fs::File::open("/dev/null").expect("a file");
        let hostile = port2.port();
        // Bytes with a file beside them, a text, and an archive that is no UTF-8.
        for _ in 0..2 {
            hostile.post_bytes_with(&[0xff; 7], [file().into()]).expect("room");
            hostile.post_text("no archive").expect("room");
            hostile.post_message(&[0xfeu8; 8]).expect("room");
            port2.post_message_with(&"good".to_string(), [file().into()]).expect("room");
        }
        for _ in 0..3 {
            let error = port1.recv().await.expect_err("no string");
            assert!(matches!(error, TypedError::Message(_)), "{error}");
        }
        let message = port1.recv().await.expect("a string");
        assert_eq!((message.data().as_str(), message.transferred()), ("good", (0, 0, 1)));
        assert_eq!(message.deserialize().expect("a string"), "good");
        assert_eq!(message.into_inner().bytes().len(), 8, "a short string is in place");
        for _ in 0..3 {
            let error = port1.next().await.expect("open").expect_err("no string");
            let is_about_it =
                matches!(error, MessageError::Format { .. } | MessageError::Invalid { .. });
            assert!(is_about_it, "{error}");
        }
        assert!(port1.try_recv().expect("a string").is_some());
        assert!(port1.try_recv().expect("open").is_none());
        drop(port2);
        assert!(port1.next().await.is_none() && port1.next().await.is_none());
        let end = port1.recv().await.expect_err("the end");
        let reason = CloseReason::PeerDropped;
        let is_end =
            |it: &RecvError| matches!(it, RecvError::Closed { reason: it } if *it == reason);
        assert!(matches!(&end, TypedError::Recv(it) if is_end(it)), "{end}");
    });
}

#[test]
fn typed_halves_serve_two_tasks_and_a_sink_takes_values() {
    on_each("typed::typed_halves_serve_two_tasks_and_a_sink_takes_values", async || {
        const COUNT: u64 = 2_000;
        let (port1, port2) = pair();
        let port1 = port1.into_async().expect("a reactor");
        let port2 = port2.into_async().expect("a reactor");
        let ((mut sender, mut receiver), (mut back, mut there)) = (port1.split(), port2.split());
        let sending = async {
            for number in 0..COUNT {
                sender.send(number).await.expect("room, after a while");
            }
            sender.post_message(&COUNT).await.expect("room, after a while");
            SinkExt::close(&mut sender).await.expect("flushed");
            let late = sender.post_message(&1).await;
            assert!(matches!(late, Err(PostError::Closed { .. })), "{late:?}");
        };
        let echoing = async {
            while let Some(number) = there.next().await {
                let number = number.expect("a number").data().to_native();
                back.feed(number.to_string()).await.expect("room, after a while");
            }
            SinkExt::close(&mut back).await.expect("flushed");
        };
        let receiving = async {
            for number in 0..=COUNT {
                let text = receiver.recv().await.expect("a string");
                assert_eq!(text.data().as_str(), number.to_string());
            }
        };
        zip(sending, zip(echoing, receiving)).await;
    });
}

#[test]
fn what_a_typed_sink_has_kept_comes_before_the_next_post() {
    on_each("typed::what_a_typed_sink_has_kept_comes_before_the_next_post", async || {
        let (_, port2) = pair();
        drop(port2);
        let builder = MessageChannel::builder().capacity(4096).bounded();
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let mut port1 = port1.typed::<(), Vec<u8>>().into_async().expect("a reactor");
        let mut fed = 0u8;
        while poll_once(port1.feed(vec![fed; 700])).await.is_some() {
            fed += 1;
        }
        let file = std::fs::File::open("/dev/null").expect("a file");
        let posting = async {
            let list = [file.into()];
            port1.post_message_with(&vec![fed; 3], list).await.expect("room, after a while");
            // The port comes back with its types.
            port1.into_inner().close();
        };
        let taking = async {
            let mut port2 = port2.typed::<Vec<u8>, ()>().into_async().expect("a reactor");
            for number in 0..=fed {
                let message = port2.recv().await.expect("a message");
                assert_eq!(message.data()[0], number);
                assert_eq!(message.transferred().2, usize::from(number == fed));
            }
            assert!(matches!(port2.recv().await, Err(TypedError::Recv(_))));
        };
        zip(posting, taking).await;
    });
}

/// Without tasks: what a typed port can be split into, and owned messages of one type.
#[test]
fn typed_halves_of_threads_check_and_iterate() {
    let (port1, port2) = pair();
    let (sender, receiver) = port1.split();
    let thread = std::thread::spawn(move || {
        sender.post_message(&1).expect("room");
        sender.post_message_timeout(&2, crate::common::DEADLINE).expect("room");
        sender.sender().post_text("three").expect("room");
        sender.post_message_with(&4, []).expect("room");
        sender.post_message_with_timeout(&5, [], crate::common::DEADLINE).expect("room");
        let late = sender.into_inner();
        late.close();
        assert!(matches!(late.post_message(&6u64), Err(PostError::Closed { .. })));
    });
    thread.join().expect("no panic");
    let (back, there) = port2.split();
    let numbers: Vec<_> = there.iter().map(|it| it.map(|it| it.data().to_native()).ok()).collect();
    assert_eq!(numbers, [Some(1), Some(2), None, Some(4), Some(5)]);
    assert!(matches!(there.recv(), Err(TypedError::Recv(RecvError::Closed { .. }))));
    assert!(matches!(there.try_recv(), Err(TypedError::Recv(RecvError::Closed { .. }))));

    back.post_message(&"kept".to_string()).expect("room");
    let message = receiver.recv().expect("a string").into_message().expect("memory");
    back.post_message(&"next".to_string()).expect("room");
    assert_eq!(receiver.recv_timeout(crate::common::DEADLINE).expect("one").data(), "next");
    std::thread::scope(|scope| {
        // Threads share it.
        let texts = [(); 2].map(|()| scope.spawn(|| message.data().to_string()));
        texts.into_iter().for_each(|text| assert_eq!(text.join().expect("no panic"), "kept"));
    });
    let receiver = receiver.into_inner();
    assert!(receiver.try_recv().expect("an open half").is_none());
}

#[test]
fn ports_of_different_types_refuse_each_other() {
    on_each("typed::ports_of_different_types_refuse_each_other", async || {
        let (port1, port2) = pair();
        let mut port1 = port1.into_async().expect("a reactor");
        port1.post_message(&1).await.expect("types that agree");
        let port2 = port2.into_inner().typed::<i64, Vec<u8>>();
        assert!(port2.check_types().is_err());
        let error = port1.recv().await.expect_err("another type");
        assert!(matches!(error, TypedError::TypeMismatch(_)), "{error}");
        assert!(matches!(port1.try_recv(), Err(TypedError::TypeMismatch(_))));
        assert!(matches!(port1.post_message(&2).await, Err(PostError::TypeMismatch(_))));
        assert!(matches!(port1.send(2).await, Err(PostError::TypeMismatch(_))));
        let file = std::fs::File::open("/dev/null").expect("a file");
        let error = port1.post_message_with(&2, [file.into()]).await.expect_err("another type");
        assert_eq!(error.into_parts().1.len(), 1);
        // The first value is there for a port of its type.
        let port2 = port2.into_inner().typed::<u64, String>();
        assert_eq!(port2.recv().expect("a number").data().to_native(), 1);
        port1.post_message(&3).await.expect("types that agree");
        // A task that waits is told when the peer goes, once.
        let port2 = port2.into_inner().typed::<i64, Vec<u8>>();
        let waiting = async {
            let error = port1.next().await.expect("an item").expect_err("another type");
            assert!(matches!(error, MessageError::TypeMismatch(_)), "{error}");
            assert!(port1.next().await.is_none());
        };
        zip(waiting, async { drop(port2) }).await;
    });
}

#[test]
fn a_stream_says_that_the_peer_left_because_of_the_other_types() {
    on_each("typed::a_stream_says_that_the_peer_left_because_of_the_other_types", async || {
        let (port1, port2) = pair();
        let mut port1 = port1.into_async().expect("a reactor");
        // The peer posts what this end receives, and expects something else than it gets.
        let port2 = port2.into_inner().typed::<u32, String>();
        assert!(port2.recv_timeout(std::time::Duration::ZERO).is_err());
        drop(port2);
        let error = port1.next().await.expect("an item").expect_err("another type");
        let MessageError::TypeMismatch(mismatch) = error else { panic!("{error}") };
        assert!(mismatch.to_string().contains("u32"), "{mismatch}");
        assert!(port1.next().await.is_none() && port1.is_terminated());
        // An end that is closed here is no refusal.
        let (port1, port2) = pair();
        let mut port1 = port1.into_async().expect("a reactor");
        let _port2 = port2.into_inner().typed::<u32, String>();
        port1.close();
        assert!(port1.next().await.is_none());
    });
}
