//! Actions with what moves: ports, buffers, descriptors, frames.

use std::fs::File;
use std::io::{Read, Seek, Write};

use messageport::{Buffer, Listener, MessageChannel, MessagePort, Transferable};

use crate::driver::{Driver, FRAME};
use crate::gauge::Gauge;
use crate::partner::PATIENCE;
use crate::words::{Kind, number, pattern};

/// A list with ports, buffers and a file, there and back.
pub fn list(driver: &mut Driver, gauge: &mut Gauge) {
    let (at, seed) = (driver.any(), driver.rng.next());
    let (ports, buffers) = (driver.rng.below(4), driver.rng.below(4));
    let lens: Vec<usize> = (0..buffers).map(|_| driver.rng.len(1 << 20)).collect();
    let (mut list, mut others): (Vec<Transferable>, Vec<MessagePort>) = Default::default();
    for index in 0..ports {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        port1.post_bytes(&Kind::Echo.message(&[seed, index])).expect("room");
        list.push(port2.into());
        others.push(port1);
    }
    for len in &lens {
        let bytes: Vec<u8> = pattern(seed, *len).collect();
        list.push(Buffer::from_slice(&bytes).expect("a buffer").into());
    }
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&seed.to_ne_bytes()).expect("room on the disk");
    list.push(file.into());
    gauge.moves += 2 * list.len() as u64;
    let peer = &driver.peers[at];
    peer.port().post_bytes_with(&Kind::Return.message(&[]), list).expect("room for a list");

    let reply = peer.next(Kind::Return);
    let expected = (ports as usize, lens.len(), 1);
    assert_eq!(reply.transferred(), expected, "what came back");
    for (index, port1) in others.iter().enumerate() {
        let port = reply.take_port().expect("a port");
        let event = port.recv_timeout(PATIENCE).expect("what was posted before the move");
        assert_eq!(event.bytes(), Kind::Echo.message(&[seed, index as u64]), "in a port");
        port.post_bytes(event.bytes()).expect("room");
        let event = port1.recv_timeout(PATIENCE).expect("what was posted after the move");
        assert_eq!(number(event.bytes(), 1), index as u64, "from a port that came back");
    }
    for len in lens {
        let buffer = reply.take_buffer().expect("a buffer");
        assert!(buffer.iter().copied().eq(pattern(seed, len)), "bytes of a buffer");
    }
    let mut file = File::from(reply.take_descriptor().expect("a file"));
    let mut bytes = [0; 8];
    file.rewind().and_then(|()| file.read_exact(&mut bytes)).expect("eight bytes");
    assert_eq!(u64::from_ne_bytes(bytes), seed, "what is in a file");
    gauge.messages += 2 + 2 * ports;
}

/// Frames of a pool whose other end does not trust this one.
pub fn frames(driver: &mut Driver, gauge: &mut Gauge) {
    let (at, count) = (driver.any(), driver.rng.below(12));
    let peer = &driver.peers[at];
    for _ in 0..count {
        let seed = driver.rng.next();
        let mut frame = peer.frames.take_timeout(PATIENCE).expect("a frame that came back");
        frame.iter_mut().zip(pattern(seed, FRAME)).for_each(|(byte, value)| *byte = value);
        let message: [u8; 9] = Kind::Frame.message(&[seed]).try_into().expect("one number");
        peer.port().post_message_pooled(&message, frame).expect("room");
        assert_eq!(number(peer.next(Kind::Frame).bytes(), 0), seed, "the frame's number");
    }
    gauge.moves += count;
    gauge.messages += 2 * count;
    gauge.bytes += count * FRAME as u64;
}

/// A port that goes through several partners, while messages are posted to it.
pub fn chain(driver: &mut Driver, gauge: &mut Gauge) {
    let (count, hops) = (driver.rng.below(100), 1 + driver.rng.below(4));
    let mut route = vec![driver.any()];
    for _ in 1..hops {
        let next = driver.any();
        if route[route.len() - 1] != next {
            driver.link(route[route.len() - 1], next);
            route.push(next);
        }
    }
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let before = driver.rng.below(count + 1);
    let post = |index| port1.post_bytes(&Kind::Echo.message(&[index])).expect("room");
    (0..before).for_each(&post);
    let numbers: Vec<u64> = std::iter::once(count)
        .chain(route[1..].iter().map(|at| driver.peers[*at].number))
        .collect();
    let message = Kind::Chain.message(&numbers);
    driver.peers[route[0]].port().post_bytes_with(&message, [port2.into()]).expect("room");
    (before..count).for_each(post);
    let end = port1.recv_timeout(PATIENCE).expect("the end of the chain says what it received");
    assert_eq!(number(end.bytes(), 0), count, "messages of a port that moved");
    gauge.moves += route.len() as u64;
    gauge.messages += count + 1 + route.len() as u64;
}

impl Driver {
    /// Gives one partner a port to the other, unless it has one.
    fn link(&mut self, from: usize, to: usize) {
        let [one, other] = [self.peers[from].number, self.peers[to].number];
        if !self.peers[from].links.insert(other) {
            return;
        }
        self.peers[to].links.insert(one);
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        for (at, number, port) in [(from, other, port1), (to, one, port2)] {
            let message = Kind::Link.message(&[number]);
            self.peers[at].port().post_bytes_with(&message, [port.into()]).expect("room");
        }
        // Both must have their ends before a port comes to either of them by another way.
        [from, to].iter().for_each(|at| self.peers[*at].ask(Kind::Echo));
    }
}

/// A partner connects by the name of a socket.
pub fn dial(driver: &mut Driver, gauge: &mut Gauge) {
    let (at, seed) = (driver.any(), driver.rng.next());
    let (listener, _) = driver.names.get_or_insert_with(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("soak");
        let listener = Listener::bind_at(path, MessageChannel::builder()).expect("a listener");
        (listener, folder)
    });
    let mut message = vec![Kind::Dial as u8];
    message.extend(listener.path().to_str().expect("a path of letters").bytes());
    driver.peers[at].port().post_bytes(&message).expect("room");
    let port = listener.accept_timeout(PATIENCE).expect("a partner that connects");
    port.post_bytes(&Kind::Echo.message(&[seed])).expect("room");
    let event = port.recv_timeout(PATIENCE).expect("an echo");
    assert_eq!(number(event.bytes(), 0), seed, "the echo through a named socket");
    gauge.messages += 3;
}

/// Messages there and back in a task.
#[cfg(feature = "tokio")]
pub fn task(driver: &mut Driver, gauge: &mut Gauge) {
    let (at, count) = (driver.any(), driver.rng.below(50));
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let add = Kind::Add.message(&[]);
    driver.peers[at].port().post_bytes_with(&add, [port2.into()]).expect("room for a port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut port = port1.into_async().expect("a port of a task");
        for index in 0..count {
            port.post_bytes(&Kind::Echo.message(&[index])).await.expect("room");
            let reply = tokio::time::timeout(PATIENCE, port.recv()).await.expect("in time");
            let reply = reply.expect("an echo");
            assert_eq!(number(reply.bytes(), 0), index, "an echo in a task");
        }
    });
    gauge.moves += 1;
    gauge.messages += 2 * count;
}
