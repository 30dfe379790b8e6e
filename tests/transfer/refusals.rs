//! Ports that refuse transferables: what comes back from a post, what a receiver is told, and what
//! stays as it is when such a port moves.

use crate::common::role::{command, play};
use crate::common::{DEADLINE, receive, receive_text, wait_until};
use crate::list::trust;
use crate::{assert_entangled, channel, moved, number_of, token};
use messageport::{
    Buffer, BufferPool, Connect, EventLoop, Format, Listener, MessageChannel, MessageError,
    MessagePort, PoolError, PostError, TransferError, Transferable, TypedError, Worker,
    parent_port,
};
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

fn refusing() -> MessageChannel {
    MessageChannel::builder().refuse_transfers().build().expect("a channel")
}

/// One of each kind, and the peer of the port.
fn one_of_each() -> (Vec<Transferable>, MessagePort) {
    let MessageChannel { port1, port2 } = channel();
    let buffer = Buffer::from_slice(b"bytes").expect("a buffer");
    (vec![port2.into(), buffer.into(), token(7).into()], port1)
}

/// The post was refused, and all of its list can be used as before.
#[track_caller]
fn assert_given_back(posted: Result<(), TransferError>, peer: &MessagePort) {
    let (reason, list) = posted.expect_err("a channel that refuses").into_parts();
    assert!(matches!(reason, PostError::Refused), "{reason}");
    let Ok([Transferable::Port(port), Transferable::Buffer(buffer), Transferable::Descriptor(fd)]) =
        <[Transferable; 3]>::try_from(list)
    else {
        panic!("another list")
    };
    assert_entangled(&port, peer);
    assert_eq!(*buffer, *b"bytes");
    assert_eq!(number_of(&fd), 7);
}

#[track_caller]
fn assert_refused<T>(answer: Result<T, MessageError>, expected: u16) {
    match answer.map(drop) {
        Err(MessageError::TransfersRefused { descriptors }) => assert_eq!(descriptors, expected),
        other => panic!("{other:?}"),
    }
}

/// The next message brought what its port refuses, and nothing of it is here.
#[track_caller]
fn receive_refusal(port: &MessagePort, expected: u16) {
    let event = receive(port);
    assert_refused(event.data::<u32>(), expected);
    assert_refused(event.deserialize::<u32>(), expected);
    assert_refused(event.text(), expected);
    assert_refused(event.take_port(), expected);
    assert_refused(event.take_buffer(), expected);
    assert_refused(event.take_descriptor(), expected);
    assert_refused(event.take_pooled(), expected);
    assert_refused(event.take_ports(), expected);
    assert_refused(event.take_descriptors(), expected);
    assert_eq!((event.bytes(), event.format()), (&b""[..], Format::Bytes));
    assert_eq!(event.transferred(), (0, 0, 0));
    let message = event.into_message();
    assert_refused(message.data::<u32>(), expected);
    assert_refused(message.take_descriptors(), expected);
}

/// A descriptor, and what tells when the last duplicate of it is closed.
fn watched() -> (Transferable, UnixStream) {
    let (sent, kept) = UnixStream::pair().expect("a pair");
    kept.set_nonblocking(true).expect("a flag");
    (sent.into(), kept)
}

#[track_caller]
fn wait_until_closed(mut kept: &UnixStream) {
    wait_until("what was refused is closed", || matches!(kept.read(&mut [0]), Ok(0)));
}

#[test]
fn a_channel_that_refuses_gives_everything_back() {
    let MessageChannel { port1, port2 } = refusing();
    for port in [&port1, &port2] {
        assert!(port.refuses_transfers());
        let (list, peer) = one_of_each();
        assert_given_back(port.post_message_with(&1u32, list), &peer);
        let (list, peer) = one_of_each();
        assert_given_back(port.post_bytes_with(b"bytes", list), &peer);
        let (list, peer) = one_of_each();
        assert_given_back(port.post_text_with("text", list), &peer);
        let (list, peer) = one_of_each();
        assert_given_back(port.post_message_with_timeout(&1u32, list, DEADLINE), &peer);
        port.post_text_with("an empty list", []).expect("room");
    }
    assert_eq!(receive_text(&port1), "an empty list");
    assert_eq!(receive_text(&port2), "an empty list");
    assert_entangled(&port1, &port2);
}

#[test]
fn a_port_that_refuses_says_so_of_a_message_and_goes_on() {
    for is_trusted in [false, true] {
        let MessageChannel { port1, port2 } = channel();
        if is_trusted {
            trust(&port2);
        }
        assert!(!port2.refuses_transfers());
        port2.refuse_transfers();
        assert!(port2.refuses_transfers() && !port1.refuses_transfers());
        let mut all_kept = Vec::new();
        for round in 0..100u32 {
            let (list, _peer) = one_of_each();
            port1.post_message_with(&1u32, list).expect("room");
            let (sent, kept) = watched();
            port1.post_text_with("words", [sent]).expect("room");
            port1.post_message(&round).expect("room");
            receive_refusal(&port2, 5);
            receive_refusal(&port2, 1);
            assert_eq!(*receive(&port2).data::<u32>().expect("a number"), round);
            all_kept.push(kept);
        }
        let (sent, kept) = watched();
        port1.post_text_with("stepped over", [sent]).expect("room");
        assert!(port2.discard_next().expect("an open port"));
        for kept in all_kept.iter().chain([&kept]) {
            wait_until_closed(kept);
        }
        assert_entangled(&port1, &port2);
        // It refuses what it would receive, and no more.
        port2.post_text_with("the other way", [token(3).into()]).expect("room");
        let taken = receive(&port1).take_descriptor().expect("a descriptor");
        assert_eq!(number_of(&taken), 3);
    }
}

#[test]
fn what_was_received_before_the_refusal_can_be_taken_after_it() {
    let MessageChannel { port1, port2 } = channel();
    for number in [1, 2] {
        port1.post_text_with("a token", [token(number).into()]).expect("room");
    }
    let event = receive(&port2);
    port2.refuse_transfers();
    assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 1);
    receive_refusal(&port2, 1);
}

#[test]
fn an_event_loop_gets_messageerror_and_then_the_next_message() {
    let MessageChannel { port1, port2 } = channel();
    port2.refuse_transfers();
    let (say, said) = mpsc::channel();
    let say_too = say.clone();
    port2.on_message(move |event| {
        let text = event.message().expect("a message").text().expect("a text").to_owned();
        say.send(text).expect("the test listens");
    });
    port2.on_message_error(move |event| {
        let error = event.message_error().expect("an error");
        let MessageError::TransfersRefused { descriptors } = error else { panic!("{error}") };
        say_too.send(format!("{descriptors} refused")).expect("the test listens");
    });
    let (sent, kept) = watched();
    port1.post_text_with("not wanted", [sent]).expect("room");
    port1.post_bytes_with(b"", [token(1).into(), token(2).into()]).expect("room");
    port1.post_text("wanted").expect("room");
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add(port2).expect("room for a port");
    event_loop.run_until_idle().expect("the loop waits");
    assert_eq!(said.try_iter().collect::<Vec<_>>(), ["1 refused", "2 refused", "wanted"]);
    wait_until_closed(&kept);
    drop(port1);
}

#[test]
fn a_typed_port_says_so() {
    let MessageChannel { port1, port2 } = channel();
    port2.refuse_transfers();
    let port2 = port2.typed::<u32, ()>();
    port1.post_message_with(&1u32, [token(1).into()]).expect("room");
    port1.post_message(&2u32).expect("room");
    let refused = port2.recv_timeout(DEADLINE).map(drop).expect_err("a message with a list");
    let TypedError::Message(error) = refused else { panic!("{refused}") };
    assert_refused(Err::<(), _>(error), 1);
    assert_eq!(*port2.recv_timeout(DEADLINE).expect("a number").data(), 2);
}

#[test]
fn a_refusal_moves_with_its_end_and_so_does_what_is_unread() {
    for by_descriptor in [false, true] {
        let again = |port: MessagePort| match by_descriptor {
            true => MessagePort::from_fd(port.into_fd().expect("an open port")).expect("a port"),
            false => moved(port),
        };
        // Of one end: only that one refuses, and messages with packets stand in its queue.
        let MessageChannel { port1, port2 } = channel();
        port2.refuse_transfers();
        let mut all_kept = Vec::new();
        for _ in 0..4 {
            let (sent, kept) = watched();
            port1.post_text_with("refused", [sent]).expect("room");
            all_kept.push(kept);
        }
        port1.post_text("plain").expect("room");
        receive_refusal(&port2, 1);
        let port2 = again(port2);
        assert!(port2.refuses_transfers());
        (0..3).for_each(|_| receive_refusal(&port2, 1));
        assert_eq!(receive_text(&port2), "plain");
        all_kept.iter().for_each(wait_until_closed);
        let port1 = again(port1);
        assert!(!port1.refuses_transfers());
        port1.post_text_with("again", [token(1).into()]).expect("the peer says so, not the post");
        receive_refusal(&port2, 1);
        assert_entangled(&port1, &port2);

        // Of a whole channel.
        let MessageChannel { port1, port2 } = refusing();
        port1.post_text("unread").expect("room");
        let (port1, port2) = (again(again(port1)), again(port2));
        assert_eq!(receive_text(&port2), "unread");
        for port in [&port1, &port2] {
            assert!(port.refuses_transfers());
            let (list, peer) = one_of_each();
            assert_given_back(port.post_text_with("no", list), &peer);
        }
        assert_entangled(&port1, &port2);
    }
}

#[test]
fn a_listeners_channels_refuse_at_both_ends() {
    let path = std::env::temp_dir().join(format!("messageport-refusals-{}", std::process::id()));
    let builder = MessageChannel::builder().refuse_transfers();
    let listener = Listener::bind_at(&path, builder).expect("a path of our own");
    let client =
        std::thread::spawn(move || Connect::new().timeout(DEADLINE).at(path).expect("a listener"));
    let ours = listener.accept_timeout(DEADLINE).expect("a client");
    let theirs = client.join().expect("it returns");
    for port in [&ours, &theirs] {
        let (list, peer) = one_of_each();
        assert_given_back(port.post_text_with("no", list), &peer);
    }
    assert_entangled(&ours, &theirs);
}

#[test]
fn pools_are_refused_too() {
    let MessageChannel { port1, port2 } = refusing();
    trust(&port1);
    trust(&port2);
    let error = BufferPool::new(&port1, 1, 4096).map(drop).expect_err("its memory is a descriptor");
    assert!(matches!(error, PoolError::Post(PostError::Refused)), "{error}");

    let MessageChannel { port1, port2 } = channel();
    trust(&port1);
    trust(&port2);
    port2.refuse_transfers();
    let pool = BufferPool::new(&port1, 1, 4096).expect("a pool");
    let buffer = pool.take().expect("a free buffer");
    port1.post_message_pooled(&5u32, buffer).expect("room");
    let event = receive(&port2);
    assert_eq!(*event.data::<u32>().expect("its packet came before, with the pool"), 5);
    assert!(matches!(event.take_pooled(), Err(MessageError::UnknownPool)));
    drop(event);
    assert_entangled(&port1, &port2);
}

/// SQLite's locks are of this kind: closing any descriptor of the file releases them.
#[test]
fn a_descriptor_that_is_refused_releases_no_fcntl_lock() {
    const TEST: &str = "refusals::a_descriptor_that_is_refused_releases_no_fcntl_lock";
    fn lock(file: &File) -> bool {
        // SAFETY: all fields of this C struct may be zero.
        let mut whole: libc::flock = unsafe { std::mem::zeroed() };
        whole.l_type = libc::F_WRLCK as libc::c_short;
        fcntl(file, FcntlArg::F_SETLK(&whole)).is_ok()
    }
    fn peer() {
        let port = parent_port().expect("a port to the parent");
        let path = receive_text(&port);
        let open = || OpenOptions::new().write(true).open(&path).expect("the parent's file");
        let (sent, kept) = watched();
        port.post_text_with("locked here", [open().into(), sent]).expect("room");
        wait_until_closed(&kept);
        port.post_message(&lock(&open())).expect("room");
        assert_eq!(receive_text(&port), "read");
    }
    fn owner() {
        let path = std::env::temp_dir().join(format!("messageport-lock-{}", std::process::id()));
        let file = File::create(&path).expect("a file");
        for refuses in [true, false] {
            assert!(lock(&file), "it is ours");
            let mut worker = Worker::spawn(command(TEST, "peer")).expect("a worker");
            if refuses {
                worker.port().refuse_transfers();
            }
            worker.port().post_text(path.to_str().expect("a plain path")).expect("room");
            match refuses {
                true => receive_refusal(worker.port(), 2),
                false => drop(receive(worker.port())),
            }
            let is_free = *receive(worker.port()).data::<bool>().expect("an answer");
            assert_eq!(is_free, !refuses, "refused: {refuses}");
            worker.port().post_text("read").expect("room");
            worker.wait().expect("a child");
        }
        std::fs::remove_file(path).expect("the file");
    }
    play(TEST, &[("owner", owner), ("peer", peer)]);
}
