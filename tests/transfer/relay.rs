//! Ports that move between processes: introductions, and a stream to an end that never rests.

use crate::common::census::{Census, has_no_children};
use crate::common::messages::{Rng, mix};
use crate::common::role::{command, end_with_parent, play};
use crate::common::watchdog::progress;
use crate::common::{DEADLINE, receive, receive_end, receive_text, wait_until, wanted};
use crate::{channel, growing, number_of, token};
use messageport::{
    CloseReason, MessageChannel, MessagePort, Transferable, Worker, parent_port, rkyv,
};
use std::thread;

fn parent() -> MessagePort {
    parent_port().expect("a port to the parent")
}

#[test]
fn two_children_of_one_parent_talk_directly_when_the_parent_is_gone() {
    const TEST: &str = "relay::two_children_of_one_parent_talk_directly_when_the_parent_is_gone";
    /// Starts two others, introduces them to each other, and leaves.
    fn broker() {
        let root = parent();
        let event = receive(&root);
        let [report_one, report_two] =
            <[MessagePort; 2]>::try_from(event.take_ports().expect("two ports")).expect("two");
        let one = Worker::spawn(command(TEST, "one")).expect("a worker").into_parts().0;
        let two = Worker::spawn(command(TEST, "two")).expect("a worker").into_parts().0;
        assert_eq!((receive_text(&one), receive_text(&two)), ("ready".into(), "ready".into()));
        let MessageChannel { port1, port2 } = growing();
        port1.post_text("posted by the parent").expect("room");
        let list: Vec<Transferable> = vec![port1.into(), report_one.into()];
        one.post_text_with("to each other, and to the root", list).expect("room");
        let list: Vec<Transferable> = vec![port2.into(), report_two.into()];
        two.post_text_with("to each other, and to the root", list).expect("room");
    }
    /// What a child was given: a port to the other child, and one to the root.
    fn introduced() -> (MessagePort, MessagePort) {
        // It outlives its parent.
        end_with_parent(false);
        let parent = parent();
        parent.post_text("ready").expect("room");
        let event = receive(&parent);
        let other = event.take_port().expect("a port");
        let root = event.take_port().expect("a port");
        drop(event);
        let end = receive_end(&parent);
        assert!(matches!(end, CloseReason::PeerDropped | CloseReason::PeerDied), "{end:?}");
        assert_eq!(receive_text(&root), "the parent is gone");
        (other, root)
    }
    fn one() {
        let (other, root) = introduced();
        for number in 0..1000u32 {
            other.post_message_with(&number, [token(1 + number).into()]).expect("room");
            assert_eq!(receive(&other).deserialize::<u32>().expect("a number"), number);
        }
        other.close();
        root.post_text("one is done").expect("room");
    }
    fn two() {
        let (other, root) = introduced();
        assert_eq!(receive_text(&other), "posted by the parent");
        for number in 0..1000u32 {
            let event = receive(&other);
            assert_eq!(*event.data::<u32>().expect("a number"), number);
            let token = event.take_descriptor().expect("a descriptor");
            assert_eq!(number_of(&token), 1 + number);
            other.post_message(&number).expect("room");
        }
        assert_eq!(receive_end(&other), CloseReason::PeerClosed);
        root.post_text("two is done").expect("room");
    }
    fn root() {
        let before = Census::take();
        let mut broker = Worker::spawn(command(TEST, "broker")).expect("a worker");
        let (one, two) = (channel(), channel());
        let list: Vec<Transferable> = vec![one.port2.into(), two.port2.into()];
        broker.port().post_text_with("two ports", list).expect("room");
        assert!(broker.wait().expect("a child").success());
        drop(broker);
        assert!(has_no_children());
        one.port1.post_text("the parent is gone").expect("room");
        two.port1.post_text("the parent is gone").expect("room");
        for (port, said) in [(&one.port1, "one is done"), (&two.port1, "two is done")] {
            assert_eq!(receive_text(port), said);
            assert_eq!(receive_end(port), CloseReason::PeerDropped);
        }
        drop((one.port1, two.port1));
        before.wait_for("at the end");
    }
    play(TEST, &[("root", root), ("broker", broker), ("one", one), ("two", two)]);
}

// The stream.

/// Where the stream stands when its end moves on.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, messageport::SafeArchive)]
struct Baton {
    /// The next message.
    number: u64,
    hop: u64,
    hops: u64,
    messages: u64,
}

/// Bytes of a message: some long ones in a row now and then, so that the lane grows.
fn body(number: u64) -> Vec<u8> {
    let len = match (number / 32).is_multiple_of(20) {
        true => 1500 + mix(number) % 2000,
        false => mix(number) % 200,
    };
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(8 + len as usize, mix(number) as u8);
    bytes
}

fn has_token(number: u64) -> bool {
    number.is_multiple_of(7)
}

/// What the token of a message has in it.
fn mark(number: u64) -> u32 {
    1 + (number % 1_000_000_007) as u32
}

fn post_next(port: &MessagePort, number: u64) {
    let body = body(number);
    if has_token(number) {
        let list = [token(mark(number)).into()];
        port.post_message_with_timeout(&body, list, DEADLINE).expect("room, sooner or later");
    } else {
        port.post_message_timeout(&body, DEADLINE).expect("room, sooner or later");
    }
}

fn receive_next(port: &MessagePort, number: u64) {
    let event = receive(port);
    let found = event.data::<Vec<u8>>().expect("bytes");
    assert_eq!(found[..8], number.to_le_bytes(), "another message than {number}");
    assert!(*found == *body(number), "not the bytes of message {number}");
    let tokens = event.take_descriptors().expect("a token, or none");
    match has_token(number) {
        true => assert_eq!(number_of(&tokens[0]), mark(number), "the token of {number}"),
        false => assert!(tokens.is_empty(), "nothing came with {number}"),
    }
}

#[test]
fn a_stream_reaches_an_end_that_goes_round_three_processes_all_the_time() {
    const TEST: &str =
        "relay::a_stream_reaches_an_end_that_goes_round_three_processes_all_the_time";
    /// One of the processes among which the end goes round: takes it, reads on, and passes it on.
    fn runner() {
        let root = parent();
        let (from, to) = {
            let event = receive(&root);
            (event.take_port().expect("a port"), event.take_port().expect("a port"))
        };
        let mut rng = Rng(u64::from(std::process::id()));
        while let Ok(event) = from.recv_timeout(DEADLINE) {
            let port = event.take_port().expect("the end of the stream");
            let mut baton = event.deserialize::<Baton>().expect("where it stands");
            drop(event);
            let left = baton.messages - baton.number;
            let fair = left / (baton.hops - baton.hop).max(1);
            let quota = match baton.hop == baton.hops {
                true => left,
                false => rng.below(2 * fair + 1).min(left),
            };
            for _ in 0..quota {
                receive_next(&port, baton.number);
                baton.number += 1;
            }
            // Its own direction moves as well, with a packet that is unread.
            let list = [token(mark(baton.hop)).into()];
            port.post_message_with_timeout(&baton.hop, list, DEADLINE).expect("room");
            progress();
            if baton.hop == baton.hops {
                root.post_message_with(&baton, [port.into()]).expect("room");
                break;
            }
            baton.hop += 1;
            to.post_message_with_timeout(&baton, [port.into()], DEADLINE).expect("room");
        }
        assert_eq!(receive_text(&root), "enough");
    }
    fn root() {
        let census = Census::take();
        let messages = wanted("MESSAGEPORT_MOVED_MESSAGES", 20_000);
        let hops = wanted("MESSAGEPORT_MOVES", 200);
        let mut workers: Vec<Worker> =
            (0..3).map(|_| Worker::spawn(command(TEST, "runner")).expect("a worker")).collect();
        let links: Vec<MessageChannel> = (0..3).map(|_| channel()).collect();
        let (mut into, mut from): (Vec<_>, Vec<_>) =
            links.into_iter().map(|link| (link.port1, link.port2)).unzip();
        let MessageChannel { port1, port2 } = growing();
        let baton = Baton { number: 0, hop: 1, hops, messages };
        into[0].post_message_with(&baton, [port2.into()]).expect("room");
        // Each has the end of its own link, and the beginning of the next one's.
        into.rotate_left(1);
        for (worker, (from, to)) in workers.iter().zip(from.drain(..).zip(into.drain(..))) {
            let list: Vec<Transferable> = vec![from.into(), to.into()];
            worker.port().post_text_with("from, to", list).expect("room");
        }
        let mut rng = Rng(77);
        let (mut posted, mut hop) = (0, 1);
        let mut check_hops = |wait: bool| {
            while hop <= hops {
                let event = match wait {
                    true => receive(&port1),
                    false => match port1.try_recv().expect("an open port") {
                        Some(event) => event,
                        None => return,
                    },
                };
                assert_eq!(event.data::<u64>().expect("a number").to_native(), hop);
                let token = event.take_descriptor().expect("a token");
                assert_eq!(number_of(&token), mark(hop));
                hop += 1;
            }
        };
        while posted < messages {
            // Bursts, and pauses in which the lane runs dry.
            for _ in 0..rng.below(400).min(messages - posted) {
                post_next(&port1, posted);
                posted += 1;
            }
            if rng.below(4) == 0 {
                wait_until("the stream runs dry", || {
                    port1.backlog().messages == 0 || port1.stats().received.depth > 0
                });
            }
            check_hops(false);
            progress();
        }
        check_hops(true);
        let (event, port2) = workers
            .iter()
            .cycle()
            .find_map(|worker| {
                let event = worker.port().try_recv().expect("a worker that lives")?;
                let port = event.take_port().expect("the end of the stream");
                Some((event.deserialize::<Baton>().expect("where it stands"), port))
            })
            .expect("one of them has it");
        assert_eq!((event.number, event.hop), (messages, hops));
        assert!(port1.stats().sent.growth > 0, "it had to grow");
        crate::assert_entangled(&port1, &port2);
        drop((port1, port2));
        for worker in &mut workers {
            worker.port().post_text("enough").expect("room");
        }
        for worker in &mut workers {
            wait_until("a worker ends", || {
                thread::yield_now();
                worker.try_wait().expect("a child").is_some_and(|status| status.success())
            });
        }
        drop(workers);
        census.wait_for("at the end");
    }
    play(TEST, &[("root", root), ("runner", runner)]);
}
