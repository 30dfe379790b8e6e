//! A port's turn in a loop is measured by what its messages cost: few of them if they have many
//! descriptors beside them or many bytes, before another port is served.

use crate::{channel, receive};
use messageport::{Buffer, EventLoop, MessagePort, PortSet, Transferable};
use std::sync::mpsc;
use std::time::Duration;

const MESSAGES: usize = 60;

/// Posts one message.
type Post = fn(&MessagePort);

/// Tells the length of each message that the port delivers.
fn tell_lengths(port: &MessagePort, tell: &mpsc::Sender<usize>) {
    let tell = tell.clone();
    port.on_message(move |event| {
        let message = event.message().expect("a message");
        tell.send(message.bytes().len()).expect("the test listens");
    });
}

/// How many of the messages that a port has in its queue a loop delivers before the one message of
/// a port that was added later. The program takes nothing that comes with them.
fn served_before(post: Post) -> usize {
    let (hostile, honest) = (channel(), channel());
    let (tell, told) = mpsc::channel();
    let mut event_loop = EventLoop::new().expect("a loop");
    (0..MESSAGES).for_each(|_| post(&hostile.port1));
    honest.port1.post_text("honest").expect("room");
    for (is_honest, port) in [(false, hostile.port2), (true, honest.port2)] {
        let tell = tell.clone();
        port.on_message(move |_| tell.send(is_honest).expect("the test listens"));
        event_loop.add(port).expect("a descriptor");
    }
    event_loop.run_until_idle().expect("a turn");
    let order: Vec<bool> = told.try_iter().collect();
    assert_eq!(order.len(), MESSAGES + 1, "all are delivered");
    order.iter().position(|is_honest| *is_honest).expect("the honest one")
}

/// How many messages of a port a set gives before the one message of a port that had none at first.
fn given_before(post: Post) -> usize {
    let (hostile, honest) = (channel(), channel());
    let mut set = PortSet::new().expect("a set");
    let flood = set.add(hostile.port2).expect("a descriptor");
    set.add(honest.port2).expect("a descriptor");
    // Both have been asked, and had nothing.
    assert!(set.try_recv().expect("a set").is_none());
    (0..MESSAGES).for_each(|_| post(&hostile.port1));
    let next = || set.try_recv().expect("a set").expect("a message").0;
    assert_eq!(next(), flood);
    honest.port1.post_text("honest").expect("room");
    1 + (1..=MESSAGES).position(|_| next() != flood).expect("the honest one")
}

const PLAIN: Post = |port| port.post_text("plain").expect("room");
const BUFFERS: Post = |port| {
    let buffer = || Buffer::from_slice(b"x").expect("a buffer");
    let list: Vec<Transferable> = (0..8).map(|_| buffer().into()).collect();
    port.post_text_with("buffers", list).expect("room");
};
const LONG: Post = |port| port.post_bytes(&[7; 64 << 10]).expect("room");

#[test]
fn descriptors_and_bytes_take_a_ports_share() {
    for before in [served_before, given_before] {
        assert_eq!(before(PLAIN), MESSAGES, "as many are one share");
        let buffers = before(BUFFERS);
        assert!(buffers <= 10, "{buffers} messages with 8 descriptors each");
        let long = before(LONG);
        assert!(long <= 5, "{long} messages of 64 KiB each");
    }
}

/// A port that has used up its share goes behind one that has news, also where it was served
/// before: an honest client waits for the rest of one costly message, and not for one more.
#[test]
fn a_port_that_has_news_goes_before_one_that_has_had_a_share() {
    const COSTLY: usize = 30 << 10;
    /// A share of such messages.
    const SHARE: usize = 8;
    let (hostile, honest) = (channel(), channel());
    let mut set = PortSet::new().expect("a descriptor");
    set.add(hostile.port2).expect("a descriptor");
    set.add(honest.port2).expect("a descriptor");
    let next = || {
        let (_, message) = set.recv().expect("a turn");
        message.expect("a message").bytes().len()
    };
    let post_costly = |port: &MessagePort| {
        (0..2 * SHARE).for_each(|_| port.post_bytes(&[7; COSTLY]).expect("room"));
    };
    post_costly(&hostile.port1);
    assert_eq!([(); SHARE].map(|()| next()), [COSTLY; SHARE]);
    honest.port1.post_text("honest").expect("room");
    assert_eq!([next(), next()], ["honest".len(), COSTLY]);

    let (hostile, honest) = (channel(), channel());
    let (tell, told) = mpsc::channel();
    let mut event_loop = EventLoop::new().expect("a loop");
    post_costly(&hostile.port1);
    for port in [hostile.port2, honest.port2] {
        tell_lengths(&port, &tell);
        event_loop.add(port).expect("a descriptor");
    }
    assert!(event_loop.poll_once(Duration::ZERO).expect("a turn"));
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [COSTLY; SHARE]);
    honest.port1.post_text("honest").expect("room");
    event_loop.run_until_idle().expect("turns");
    assert_eq!(told.try_iter().next(), Some("honest".len()));
}

/// Copying one takes milliseconds; it is done in parts.
#[test]
fn others_have_their_turn_while_a_long_message_is_copied() {
    const LONG: usize = 8 << 20;
    let (hostile, honest) = (channel(), channel());
    let (tell, told) = mpsc::channel();
    let mut event_loop = EventLoop::new().expect("a loop");
    hostile.port1.post_bytes(&vec![7; LONG]).expect("room");
    honest.port1.post_text("honest").expect("room");
    for port in [hostile.port2, honest.port2] {
        tell_lengths(&port, &tell);
        event_loop.add(port).expect("a descriptor");
    }
    event_loop.run_until_idle().expect("turns");
    assert_eq!(told.try_iter().collect::<Vec<_>>(), ["honest".len(), LONG]);

    let (hostile, honest) = (channel(), channel());
    let mut set = PortSet::new().expect("a descriptor");
    let hostile_id = set.add(hostile.port2).expect("a descriptor");
    set.add(honest.port2).expect("a descriptor");
    hostile.port1.post_bytes(&vec![7; LONG]).expect("room");
    honest.port1.post_text("honest").expect("room");
    let next = || {
        let (_, message) = set.try_recv().expect("a turn").expect("it is there");
        message.expect("a message").bytes().len()
    };
    assert_eq!([next(), next()], ["honest".len(), LONG]);
    assert!(set.try_recv().expect("a turn").is_none());
    // A port that is taken out while its message is copied has lost nothing.
    let (_, honest) = (hostile.port1.post_bytes(&vec![8; LONG]).expect("room"), honest.port1);
    honest.post_text("honest").expect("room");
    assert_eq!(next(), "honest".len());
    let port = set.remove(hostile_id).expect("a member");
    assert_eq!(receive(&port).bytes(), vec![8; LONG]);
}
