//! Descriptors whose close takes long hold up no call: a TCP socket that lingers, as the other side
//! does not read what was sent to it.
//!
//! A second one of its kind is closed by a thread before each call, and must still be about it when
//! the call has returned. So no test needs a clock.

use crate::common::parts::{ATTACHMENTS, DOORBELL, Parts, send};
use crate::common::role::{play, skip};
use crate::common::{DEADLINE, discard, proc, receive, receive_end, wait_until, wait_until_asleep};
use crate::filter::{When, answer};
use crate::{Entry, Pair, null};
use messageport::{
    CloseReason, Connect, EventLoop, ListenError, Listener, MessageChannel, MessageError,
    MessagePort, PortSet, PostError, RecvError, Transferable,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use std::cell::RefCell;
use std::fs;
use std::io::{ErrorKind, Write};
use std::mem;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A socket whose last close takes so many seconds, or until what comes with it is dropped.
fn lingering_for(seconds: libc::c_int) -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of this machine");
    setsockopt(&listener, sockopt::RcvBuf, &4096).expect("an option");
    let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("a listener");
    let (far, _) = listener.accept().expect("a connection");
    let linger = libc::linger { l_onoff: 1, l_linger: seconds };
    setsockopt(&near, sockopt::Linger, &linger).expect("an option");
    near.set_nonblocking(true).expect("a flag");
    loop {
        match near.write(&[0; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return (near.into(), far),
            Err(error) => panic!("{error}"),
        }
    }
}

/// One that lingers for much longer than the control: a call that waits for it ends afterwards.
fn lingering() -> (OwnedFd, TcpStream) {
    lingering_for(40)
}

/// A close that takes long, and has begun.
struct Control {
    thread: JoinHandle<()>,
    far: TcpStream,
}

impl Control {
    fn begin() -> Control {
        let (near, far) = lingering_for(20);
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            tell.send(nix::unistd::gettid()).expect("the test listens");
            drop(near);
        });
        wait_until_asleep(told.recv().expect("the thread runs"));
        Control { thread, far }
    }

    #[track_caller]
    fn assert_still_closing(self, what: &str) {
        assert!(!self.thread.is_finished(), "{what} was held up by a close");
        drop(self.far);
        self.thread.join().expect("the close returns");
    }
}

/// Makes a call of which a close that lingers must not hold up the caller.
#[track_caller]
fn assert_free<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let control = Control::begin();
    let answer = act();
    control.assert_still_closing(what);
    answer
}

/// Leaves a lingering socket in a packet, as the last one who has it.
fn smuggle(pair: &Pair, sequence: u64, entries: usize) -> TcpStream {
    let (near, far) = lingering();
    pair.packet(sequence, &vec![Entry::Descriptor; entries], &[near.as_fd()]);
    far
}

fn channel() -> MessageChannel {
    MessageChannel::new().expect("a channel")
}

/// Posts a lingering socket as an honest peer does.
fn post_lingering(port: &MessagePort) -> TcpStream {
    let (near, far) = lingering();
    port.post_text_with("it lingers", [near.into()]).expect("room");
    far
}

#[test]
fn a_packet_without_a_record_holds_up_no_try_recv() {
    fn victim() {
        let mut pair = Pair::new();
        let _far = smuggle(&pair, 0, 1);
        pair.packet(1, &[Entry::Descriptor], &[null().as_fd()]);
        pair.record(1, 1);
        assert_free("try_recv", || {
            assert!(pair.victim.try_recv().expect("an open port").is_some());
        });
    }
    let name = "lingering::a_packet_without_a_record_holds_up_no_try_recv";
    play(name, &[("victim", victim)]);
}

/// On a port that refuses transferables nothing of it is received, and nothing is closed here.
#[test]
fn a_refused_packet_holds_up_no_call() {
    fn victim() {
        let mut pair = Pair::new();
        pair.victim.refuse_transfers();
        let _fars = [smuggle(&pair, 0, 1), smuggle(&pair, 1, 1), smuggle(&pair, 2, 1)];
        (0..3).for_each(|sequence| pair.record(1, sequence));
        assert_free("try_recv", || {
            let event = pair.victim.try_recv().expect("an open port").expect("a message");
            let refused = event.take_descriptor().map(drop).expect_err("refused");
            assert!(matches!(refused, MessageError::TransfersRefused { descriptors: 1 }));
        });
        assert_free("discard_next", || assert!(pair.victim.discard_next().expect("open")));
        assert_free("recv", || assert!(pair.victim.recv().expect("open").bytes().is_empty()));
        assert_free("a move", || pair.victim.into_fd().expect("an open port"));
    }
    play("lingering::a_refused_packet_holds_up_no_call", &[("victim", victim)]);
}

#[test]
fn a_wrong_packet_holds_up_no_recv_with_a_timeout() {
    fn victim() {
        let mut pair = Pair::new();
        let _far = smuggle(&pair, 0, 2);
        pair.record(1, 0);
        assert_free("recv_timeout", || {
            let answer = pair.victim.recv_timeout(Duration::from_millis(1)).map(drop);
            let Err(RecvError::Closed { reason: CloseReason::Corrupt(_) }) = answer else {
                panic!("{answer:?}")
            };
        });
    }
    let name = "lingering::a_wrong_packet_holds_up_no_recv_with_a_timeout";
    play(name, &[("victim", victim)]);
}

#[test]
fn what_is_left_at_the_end_holds_up_neither_the_end_nor_the_drop() {
    fn victim() {
        for is_empty in [false, true] {
            let pair = Pair::new();
            let (near, _far) = lingering();
            // Such a packet counts no bytes.
            let bytes: &[u8] = if is_empty { &[] } else { &[1] };
            pair.send(bytes, &[near.as_fd()]);
            drop(near);
            let Pair { victim, parts, region, .. } = pair;
            drop((parts, region));
            assert_free("try_recv", || {
                wait_until("the end comes", || victim.try_recv().is_err());
            });
            assert_free("drop", || drop(victim));
        }
    }
    let name = "lingering::what_is_left_at_the_end_holds_up_neither_the_end_nor_the_drop";
    play(name, &[("victim", victim)]);
}

#[test]
fn dropping_a_port_is_held_up_by_nothing_in_its_queue_and_its_peer_is_told() {
    fn victim() {
        for is_empty in [false, true] {
            let pair = Pair::new();
            let (near, _far) = lingering();
            let bytes: &[u8] = if is_empty { &[] } else { &[1] };
            pair.send(bytes, &[near.as_fd()]);
            drop(near);
            let Pair { victim, parts, region, .. } = pair;
            assert_free("drop", || {
                drop(victim);
                let port = parts.into_port().expect("the other end");
                assert_eq!(receive_end(&port), CloseReason::PeerDropped);
                // The sockets say so, too.
                let error = port.post_text_with("late", [null().into()]).expect_err("no peer");
                assert!(matches!(error.reason(), PostError::Closed { .. }), "{error}");
            });
            drop(region);
        }
        // And the hang-up alone, while the thread that closes is busy.
        let MessageChannel { port1, port2 } = channel();
        let _far = post_lingering(&port1);
        let parts = Parts::of(port1);
        assert_free("drop", || {
            drop(port2);
            let socket = &parts.descriptors[ATTACHMENTS];
            let refused = crate::common::parts::send(socket, &[1], &[]);
            let expected = [nix::errno::Errno::EPIPE, nix::errno::Errno::ECONNRESET];
            assert!(refused.is_err_and(|errno| expected.contains(&errno)), "{refused:?}");
        });
    }
    let name = "lingering::dropping_a_port_is_held_up_by_nothing_in_its_queue_and_its_peer_is_told";
    play(name, &[("victim", victim)]);
}

#[test]
fn a_sender_whose_receiver_was_dropped_is_held_up_by_nothing_that_comes() {
    fn victim() {
        let pair = Pair::new();
        let _far = smuggle(&pair, 0, 1);
        let (sender, receiver) = pair.victim.split();
        assert_free("drop of the receiver", || drop(receiver));
        // Nothing more can be left there.
        let socket = &pair.parts.descriptors[ATTACHMENTS];
        let refused = crate::common::parts::send(socket, &[1], &[null().as_fd()]);
        assert_eq!(refused, Err(nix::errno::Errno::EPIPE));
        assert_free("post_bytes", || {
            sender.post_bytes(b"one way").expect("room");
            assert!(!sender.is_closed());
        });
        assert_free("drop of the sender", || drop(sender));
    }
    let name = "lingering::a_sender_whose_receiver_was_dropped_is_held_up_by_nothing_that_comes";
    play(name, &[("victim", victim)]);
}

#[test]
fn events_and_messages_that_are_dropped_delay_no_call() {
    fn victim() {
        let MessageChannel { port1, port2 } = channel();
        let _fars: Vec<TcpStream> = (0..4).map(|_| post_lingering(&port1)).collect();
        assert_free("drop of an event", || drop(receive(&port2)));
        assert_free("drop of a message", || drop(receive(&port2).into_message()));
        assert_free("discard_next", || discard(&port2));
        // What the program takes is the program's.
        let taken = receive(&port2).take_descriptor().expect("a descriptor");
        let (sent, kept) = UnixStream::pair().expect("a pair");
        port1.post_text_with("a socket", [sent.into()]).expect("room");
        drop(receive(&port2));
        let _kept = kept;
        thread::spawn(move || drop(taken));
    }
    let name = "lingering::events_and_messages_that_are_dropped_delay_no_call";
    play(name, &[("victim", victim)]);
}

/// Closing the last reference of a Unix socket closes what is in its queue.
#[test]
fn a_socket_with_a_lingering_one_in_its_queue_delays_no_call() {
    fn victim() {
        let MessageChannel { port1, port2 } = channel();
        let inner = channel();
        let _far = post_lingering(&inner.port1);
        port1.post_text_with("a port", [inner.port2.into()]).expect("room");
        assert_free("drop of an event", || drop(receive(&port2)));
        wait_until("its peer is told", || inner.port1.is_closed());
    }
    let name = "lingering::a_socket_with_a_lingering_one_in_its_queue_delays_no_call";
    play(name, &[("victim", victim)]);
}

/// A doorbell of another maker may take descriptors. They end the port, so that no more can come.
#[test]
fn what_hangs_on_a_doorbell_holds_up_no_look() {
    fn victim() {
        let MessageChannel { port1: _port1, port2 } = channel();
        let mut parts = Parts::of(port2);
        let (near, ringing) = UnixStream::pair().expect("a pair");
        parts.descriptors[DOORBELL] = near.into();
        let port = parts.into_port().expect("a port");
        // From now on each look that finds nothing drains the doorbell.
        let _ = port.as_fd();
        let (socket, _far) = lingering();
        let ringing = OwnedFd::from(ringing);
        send(&ringing, &[1], &[socket.as_fd()]).expect("room");
        drop(socket);
        let found = assert_free("try_recv", || port.try_recv().map(|event| event.is_some()));
        assert!(matches!(found, Ok(false) | Err(RecvError::Closed { .. })), "{found:?}");
        let found = port.try_recv().map(|event| event.is_some());
        assert!(matches!(found, Err(RecvError::Closed { .. })), "{found:?}");
    }
    play("lingering::what_hangs_on_a_doorbell_holds_up_no_look", &[("victim", victim)]);
}

#[test]
fn other_ports_of_a_loop_are_served() {
    fn victim() {
        let (hostile, honest) = (channel(), channel());
        let heard = Rc::new(RefCell::new(Vec::new()));
        let mut event_loop = EventLoop::new().expect("a loop");
        let (tell, told) = mpsc::channel();
        for port in [hostile.port2, honest.port2] {
            let tell = tell.clone();
            port.on_message(move |event| {
                let text = event.message().expect("a message").text().expect("a text").to_string();
                tell.send(text).expect("the test listens");
            });
            event_loop.add(port).expect("a descriptor");
        }
        let _fars: Vec<TcpStream> = (0..3).map(|_| post_lingering(&hostile.port1)).collect();
        honest.port1.post_text("honest").expect("room");
        assert_free("a turn of the loop", || {
            event_loop.run_until_idle().expect("a turn");
            heard.borrow_mut().extend(told.try_iter());
        });
        assert_eq!(heard.borrow().len(), 4);
        let _last = post_lingering(&hostile.port1);
        drop(hostile.port1);
        assert_free("the end of a port in a loop", || {
            event_loop.run_until_idle().expect("a turn");
        });
    }
    play("lingering::other_ports_of_a_loop_are_served", &[("victim", victim)]);
}

#[test]
fn a_client_that_never_becomes_one_holds_up_no_accept() {
    fn victim() {
        if !is_older_kernel() {
            return;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("door");
        let listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a name");
        let (near, _far) = lingering();
        leave_at(&path, &[near.as_fd()], 2);
        drop(near);
        assert_free("try_accept", || {
            for _ in 0..3 {
                assert!(listener.try_accept().expect("a listener").is_none());
            }
        });
        assert_free("drop of the listener", || drop(listener));
    }
    play("lingering::a_client_that_never_becomes_one_holds_up_no_accept", &[("victim", victim)]);
}

/// While a close takes long the port that it came through is served so long as the bound is not
/// reached, and not any more then; all others are, and it is itself when the close returns.
#[test]
fn what_waits_to_be_closed_is_bounded() {
    fn victim() {
        let (hostile, honest) = (channel(), channel());
        let far = post_lingering(&hostile.port1);
        drop(receive(&hostile.port2));
        let before = count_descriptors();
        let flood = || -> Vec<Transferable> {
            let event = || OwnedFd::from(EventFd::new().expect("a descriptor"));
            (0..64).map(|_| event().into()).collect()
        };
        let mut received = 0;
        loop {
            hostile.port1.post_text_with("a flood", flood()).expect("room");
            match hostile.port2.try_recv() {
                Ok(Some(event)) => drop(event),
                Err(RecvError::OutOfDescriptors { needed: 64 }) => break,
                other => panic!("{other:?}"),
            }
            received += 1;
            assert!(received < 20, "{} descriptors", count_descriptors());
        }
        assert!(received > 0, "the bound is not that low");
        assert!(count_descriptors() <= before + 64 * 10);
        // It is no error that passes by itself, and its message is not lost.
        thread::sleep(Duration::from_millis(150));
        let answer = hostile.port2.recv_timeout(Duration::from_millis(1)).map(drop);
        assert!(matches!(answer, Err(RecvError::Timeout)), "{answer:?}");
        // Nor does a set say it, which serves its other ports meanwhile.
        let mut set = PortSet::new().expect("a descriptor");
        let hostile_id = set.add(hostile.port2).expect("a descriptor");
        set.add(honest.port2).expect("a descriptor");
        let is_silent = set.recv_timeout(Duration::from_millis(50)).expect("a turn").is_none();
        assert!(is_silent);
        honest.port1.post_text_with("served", flood()).expect("room");
        let (_, event) = set.recv().expect("a message");
        assert_eq!(event.expect("a message").take_descriptors().expect("all").len(), 64);
        drop(far);
        let (id, event) = set.recv().expect("it comes when the close has returned");
        let descriptors = event.expect("a message").take_descriptors();
        assert_eq!((id, descriptors.expect("all").len()), (hostile_id, 64));
        // Its doorbell is watched again.
        assert!(set.try_recv().expect("a turn").is_none());
        hostile.port1.post_text("on").expect("room");
        let mut asked = [PollFd::new(set.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(DEADLINE).expect("it fits");
        assert_eq!(poll(&mut asked, timeout).expect("a poll"), 1, "nothing is told");
        let (_, event) = set.try_recv().expect("a turn").expect("a message");
        assert_eq!(event.expect("a message").text().expect("a text"), "on");
    }
    play("lingering::what_waits_to_be_closed_is_bounded", &[("victim", victim)]);
}

/// Has the kernel of this process take descriptors at every socket, as before Linux 6.16.
fn is_older_kernel() -> bool {
    const SO_PASSRIGHTS: u32 = 83;
    match answer(libc::SYS_setsockopt, When::Equals(2, SO_PASSRIGHTS), libc::ENOPROTOOPT) {
        Ok(()) => true,
        Err(error) => {
            skip(&format!("no seccomp filter here: {error}"));
            false
        }
    }
}

/// Connects as a client that leaves descriptors instead of a hello, and goes.
fn leave_at(path: &Path, descriptors: &[BorrowedFd<'_>], packets: usize) {
    let client = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .expect("a socket");
    let address = UnixAddr::new(path).expect("a short path");
    connect(client.as_raw_fd(), &address).expect("it listens");
    for _ in 0..packets {
        send(&client, b"no hello", descriptors).expect("room");
    }
}

fn connect_at(path: &Path) -> JoinHandle<MessagePort> {
    let path = path.to_owned();
    let connect = Connect::new().timeout(DEADLINE);
    thread::spawn(move || connect.at(path).expect("a listener"))
}

/// Each of these clients has more descriptors than the queue of a port takes.
#[test]
fn clients_that_leave_many_descriptors_hold_up_no_accept() {
    fn victim() {
        if !is_older_kernel() {
            return;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("door");
        let listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a name");
        let (null, mut fars) = (null(), Vec::new());
        let mut leave_lingering = || {
            let (near, far) = lingering();
            leave_at(&path, &[near.as_fd()], 1);
            fars.push(far);
        };
        leave_lingering();
        (0..5).for_each(|_| leave_at(&path, &[null.as_fd(); 253], 1));
        leave_lingering();
        let (client, before) = (connect_at(&path), count_descriptors());
        let port = assert_free("accept", || listener.accept().expect("an honest client"));
        // What they left stays in their sockets.
        assert!(count_descriptors() <= before + 64);
        port.post_text("welcome").expect("room");
        let theirs = client.join().expect("it connects");
        assert_eq!(receive(&theirs).text().expect("a text"), "welcome");
    }
    let name = "lingering::clients_that_leave_many_descriptors_hold_up_no_accept";
    play(name, &[("victim", victim)]);
}

#[test]
fn what_clients_leave_at_a_listener_is_bounded() {
    fn victim() {
        if !is_older_kernel() {
            return;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("door");
        let listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a name");
        let (near, far) = lingering();
        leave_at(&path, &[near.as_fd()], 1);
        drop(near);
        let (null, before) = (null(), count_descriptors());
        for _ in 0..300 {
            assert!(listener.try_accept().expect("a listener").is_none());
            leave_at(&path, &[null.as_fd()], 1);
        }
        // The others wait for this listener, and so does an honest client.
        assert!(count_descriptors() <= before + 256);
        let client = connect_at(&path);
        let answer = listener.accept_timeout(Duration::from_millis(1)).map(drop);
        assert!(matches!(answer, Err(ListenError::Timeout)), "{answer:?}");
        drop(far);
        let _port = listener.accept().expect("the honest client");
        client.join().expect("it connects");
    }
    play("lingering::what_clients_leave_at_a_listener_is_bounded", &[("victim", victim)]);
}

#[test]
fn a_client_that_was_sent_away_does_not_wake_its_listener() {
    fn victim() {
        if !is_older_kernel() {
            return;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("door");
        let listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a name");
        let (near, _far) = lingering();
        leave_at(&path, &[near.as_fd()], 1);
        drop(near);
        assert!(listener.try_accept().expect("a listener").is_none());
        let mut asked = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut asked, PollTimeout::ZERO).expect("a poll"), 0, "it wakes on");
    }
    let name = "lingering::a_client_that_was_sent_away_does_not_wake_its_listener";
    play(name, &[("victim", victim)]);
}

/// Has a port receive and drop a lingering socket.
fn drop_lingering(channel: &MessageChannel) -> TcpStream {
    let far = post_lingering(&channel.port1);
    assert_free("drop of an event", || drop(receive(&channel.port2)));
    far
}

/// Waits until a socket is closed that a port received and dropped.
fn assert_closes(channel: &MessageChannel) {
    let (sent, kept) = crate::watched();
    assert_free("a close of another port", || {
        channel.port1.post_text_with("a socket", [sent.into()]).expect("room");
        drop(receive(&channel.port2));
        wait_until("it is closed", || crate::is_closed(&kept));
    });
}

#[test]
fn closes_of_some_ports_hold_up_none_of_others() {
    fn victim() {
        let channels = [channel(), channel(), channel()];
        let _fars = [drop_lingering(&channels[0]), drop_lingering(&channels[1])];
        assert_closes(&channels[2]);
    }
    play("lingering::closes_of_some_ports_hold_up_none_of_others", &[("victim", victim)]);
}

#[test]
fn one_port_occupies_one_thread() {
    fn victim() {
        let (hostile, honest) = (channel(), channel());
        let _fars: Vec<TcpStream> = (0..10).map(|_| drop_lingering(&hostile)).collect();
        assert_closes(&honest);
        assert!(threads() <= 3, "{} threads", threads());
    }
    play("lingering::one_port_occupies_one_thread", &[("victim", victim)]);
}

/// A process ends with them, too.
#[test]
fn the_threads_are_bounded_and_end() {
    fn victim() {
        let channels: Vec<MessageChannel> = (0..20).map(|_| channel()).collect();
        let fars: Vec<TcpStream> = channels.iter().map(drop_lingering).collect();
        wait_until("all threads are there", || threads() == 8);
        // A port of which nothing is waiting still receives.
        let honest = channel();
        honest.port1.post_text_with("a device", [null().into()]).expect("room");
        assert_free("drop of an event", || drop(receive(&honest.port2)));
        assert_eq!(threads(), 8);
        drop(fars);
        assert_closes(&honest);
        wait_until("the threads have gone", || threads() == 0);
        mem::forget(channels.iter().map(drop_lingering).collect::<Vec<TcpStream>>());
    }
    play("lingering::the_threads_are_bounded_and_end", &[("victim", victim)]);
}

#[test]
fn the_thread_ends_when_it_has_nothing_to_do() {
    fn victim() {
        let MessageChannel { port1, port2 } = channel();
        port1.post_text_with("a device", [null().into()]).expect("room");
        drop(receive(&port2));
        wait_until("the thread has gone", || threads() == 0);
        // It comes back.
        let (sent, kept) = crate::watched();
        port1.post_text_with("a socket", [sent.into()]).expect("room");
        drop(receive(&port2));
        wait_until("it is closed", || crate::is_closed(&kept));
    }
    play("lingering::the_thread_ends_when_it_has_nothing_to_do", &[("victim", victim)]);
}

fn count_descriptors() -> usize {
    fs::read_dir(proc("self/fd")).expect("a process has descriptors").count()
}

/// How many threads close descriptors.
pub(crate) fn threads() -> usize {
    let tasks = fs::read_dir(proc("self/task")).expect("a process has threads");
    let names =
        tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim() == "port-reaper").count()
}
