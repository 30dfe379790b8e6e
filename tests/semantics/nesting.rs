//! The loop's descriptor in another loop, and what sleeps costs nothing.

use crate::common::role::{command, play};
use crate::common::watchdog::watch;
use crate::common::{die, receive_text};
use crate::{
    Log, channel, logged, loop_of, new_loop, numbers, post_numbers, run_until, settle,
    wait_for_posts,
};
use messageport::{EventLoop, MessageChannel, MessagePort, Worker, parent_port};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

/// Whether the loop's descriptor is readable.
fn is_readable(event_loop: &EventLoop) -> bool {
    let mut waited_for = [PollFd::new(event_loop.as_fd(), PollFlags::POLLIN)];
    poll(&mut waited_for, PollTimeout::ZERO).expect("the kernel looks") == 1
}

/// Serves the loop as a foreign one would: a turn each time its descriptor is readable. Says how
/// many turns it took.
fn serve_by_descriptor(event_loop: &mut EventLoop) -> usize {
    let mut turns = 0;
    while is_readable(event_loop) {
        turns += 1;
        event_loop.poll_once(Duration::ZERO).expect("the loop waits");
        assert!(turns < 10_000, "it never falls quiet");
    }
    turns
}

#[test]
fn the_descriptor_is_readable_when_there_is_something_and_quiet_when_idle() {
    let mut event_loop = new_loop();
    assert!(!is_readable(&event_loop));
    let pair = channel();
    let (port, log) = logged(pair.port2);
    port.start();
    event_loop.add(port).expect("room for a port");
    settle(&mut event_loop);
    assert!(!is_readable(&event_loop));
    for round in 0..100 {
        post_numbers(&pair.port1, round..round + 1);
        assert!(is_readable(&event_loop), "round {round}");
        settle(&mut event_loop);
        assert!(!is_readable(&event_loop), "round {round}");
    }
    assert_eq!(log.take(), numbers(0..100));
    drop(pair.port1);
    assert!(is_readable(&event_loop));
    settle(&mut event_loop);
    assert_eq!(log.take(), ["close: PeerDropped"]);
    assert!(!is_readable(&event_loop));
}

#[test]
fn what_came_before_the_port_was_added_makes_the_descriptor_readable() {
    let pair = channel();
    post_numbers(&pair.port1, 0..1000);
    let (port, log) = logged(pair.port2);
    port.start();
    let (mut event_loop, _) = loop_of(port);
    assert!(serve_by_descriptor(&mut event_loop) > 1);
    assert_eq!(log.take(), numbers(0..1000));
}

#[test]
fn the_descriptor_comes_back_after_the_budget_until_all_is_delivered() {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    port.start();
    let (mut event_loop, _) = loop_of(port);
    settle(&mut event_loop);
    post_numbers(&pair.port1, 0..1000);
    assert!(event_loop.poll_once(Duration::ZERO).expect("the loop waits"));
    assert!(log.len() < 1000 && is_readable(&event_loop));
    serve_by_descriptor(&mut event_loop);
    assert_eq!(log.take(), numbers(0..1000));
    drop(pair.port1);
    assert!(serve_by_descriptor(&mut event_loop) > 0);
    assert_eq!(log.take(), ["close: PeerDropped"]);
}

#[test]
fn work_a_stop_and_a_started_port_make_the_descriptor_readable() {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    let (mut event_loop, id) = loop_of(port);
    post_numbers(&pair.port1, 0..2);
    serve_by_descriptor(&mut event_loop);
    assert_eq!(log.len(), 0, "it is not started");
    event_loop.handle().post(move |event_loop| event_loop.get(id).expect("the port").start());
    assert!(is_readable(&event_loop));
    serve_by_descriptor(&mut event_loop);
    assert_eq!(log.take(), numbers(0..2));
    event_loop.handle().stop();
    assert!(is_readable(&event_loop));
    event_loop.run().expect("it is stopped");
    serve_by_descriptor(&mut event_loop);
    assert_eq!(event_loop.ids().count(), 1);
}

/// A port in a nested loop that is started from outside, by hand and not by the loop, has to be
/// heard of by the loop around it.
#[test]
fn a_port_that_is_started_from_outside_makes_the_descriptor_readable() {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    let (mut event_loop, id) = loop_of(port);
    post_numbers(&pair.port1, 0..2);
    serve_by_descriptor(&mut event_loop);
    event_loop.get(id).expect("the port").start();
    serve_by_descriptor(&mut event_loop);
    assert_eq!(log.take(), numbers(0..2));
}

#[test]
fn a_loop_nests_in_another_ones_descriptor() {
    let (one, two) = (channel(), channel());
    let (first, log) = logged(one.port2);
    let (second, other_log) = logged(two.port2);
    let loops = [first, second].map(|port| {
        port.start();
        loop_of(port).0
    });
    let outer = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::EPOLL_CLOEXEC);
    let outer = outer.expect("an epoll");
    let mut loops = loops;
    for (event_loop, mark) in loops.iter().zip(0..) {
        let wanted = nix::sys::epoll::EpollEvent::new(nix::sys::epoll::EpollFlags::EPOLLIN, mark);
        outer.add(event_loop, wanted).expect("it nests");
    }
    post_numbers(&one.port1, 0..300);
    post_numbers(&two.port1, 0..3);
    drop((one.port1, two.port1));
    let mut found = [nix::sys::epoll::EpollEvent::empty(); 2];
    let zero = nix::sys::epoll::EpollTimeout::ZERO;
    loop {
        let count = outer.wait(&mut found, zero).expect("the kernel looks");
        if count == 0 {
            break;
        }
        for event in &found[..count] {
            let event_loop = &mut loops[event.data() as usize];
            event_loop.poll_once(Duration::ZERO).expect("the loop waits");
        }
    }
    assert_eq!(log.len(), 301);
    assert_eq!(other_log.len(), 4);
}

/// A process may have 1024 descriptors, and a pair takes five.
fn allow_more_descriptors() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most.min(8192), most).expect("up to the hard limit");
}

#[test]
fn two_hundred_idle_ports_cause_no_wake_up() {
    allow_more_descriptors();
    let log = Log::new();
    let mut event_loop = new_loop();
    let far: Vec<MessagePort> = (0..200)
        .map(|number| {
            let MessageChannel { port1, port2 } = channel();
            log.listen(&port2);
            if number % 2 == 0 {
                port2.start();
            }
            event_loop.add(port2).expect("room for a port");
            port1
        })
        .collect();
    settle(&mut event_loop);
    for _ in 0..10 {
        assert!(!is_readable(&event_loop));
        assert!(!event_loop.poll_once(Duration::ZERO).expect("the loop waits"));
    }
    for number in [198, 0, 76] {
        post_numbers(&far[number], 0..1);
        assert!(is_readable(&event_loop));
        settle(&mut event_loop);
        assert_eq!(log.take(), ["0"]);
        assert!(!is_readable(&event_loop));
    }
    far.iter().for_each(|far| post_numbers(far, 0..1));
    serve_by_descriptor(&mut event_loop);
    assert_eq!(log.take(), vec!["0"; 100], "of those that are started");
    drop(far);
    serve_by_descriptor(&mut event_loop);
    assert_eq!(log.take(), vec!["close: PeerDropped"; 100]);
    assert_eq!(event_loop.ids().count(), 100, "those that are not started have messages");
}

// Ports that were never started.

/// Fails unless the loop rests: its descriptor is quiet, and turns find nothing.
#[track_caller]
fn assert_rests(event_loop: &mut EventLoop) {
    settle(event_loop);
    for _ in 0..3 {
        assert!(!is_readable(event_loop));
        assert!(!event_loop.poll_once(Duration::ZERO).expect("the loop waits"));
    }
}

#[test]
fn an_unstarted_port_keeps_its_messages_and_lets_the_loop_rest() {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    let (mut event_loop, id) = loop_of(port);
    for round in 0..3 {
        post_numbers(&pair.port1, round..round + 1);
        assert_rests(&mut event_loop);
    }
    drop(pair.port1);
    assert_rests(&mut event_loop);
    assert_eq!(log.take(), [""; 0]);
    let port = event_loop.get(id).expect("it stays");
    assert!(port.is_closed());
    port.start();
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), ["0", "1", "2", "close: PeerDropped"]);
}

#[test]
fn an_unstarted_port_says_close_at_once_when_nothing_stands_before_it() {
    for is_added_first in [true, false] {
        for is_closed in [true, false] {
            let MessageChannel { port1, port2 } = channel();
            let (port, log) = logged(port2);
            let (port1, is_closed) = (Some(port1), is_closed);
            let end = |port: Option<MessagePort>| {
                if is_closed {
                    port.as_ref().expect("a port").close();
                }
                drop(port);
            };
            let mut event_loop = new_loop();
            if is_added_first {
                event_loop.add(port).expect("room for a port");
                settle(&mut event_loop);
                end(port1);
            } else {
                end(port1);
                event_loop.add(port).expect("room for a port");
            }
            event_loop.run().expect("the loop has no port left");
            let reason = if is_closed { "close: PeerClosed" } else { "close: PeerDropped" };
            assert_eq!(log.take(), [reason]);
        }
    }
}

/// Its messages were read by calls, as nothing forbids; the end is said all the same.
#[test]
fn an_unstarted_port_that_was_read_by_calls_says_close() {
    // What happens in turn: r, it is read; d, the peer is dropped; a turn of the loop.
    for order in ["r d", "rd", "dr", "d r"] {
        let pair = channel();
        let (port, log) = logged(pair.port2);
        let (mut event_loop, id) = loop_of(port);
        post_numbers(&pair.port1, 0..1);
        settle(&mut event_loop);
        let mut peer = Some(pair.port1);
        for step in order.chars() {
            match step {
                'r' => assert_eq!(receive_text(event_loop.get(id).expect("the port")), "0"),
                'd' => drop(peer.take()),
                _ => settle(&mut event_loop),
            }
        }
        settle(&mut event_loop);
        assert_eq!(log.take(), ["close: PeerDropped"], "{order}");
    }
}

#[test]
fn an_unstarted_port_whose_peer_has_died_behind_messages_lets_the_loop_rest() {
    const TEST: &str = concat!(
        "nesting::",
        "an_unstarted_port_whose_peer_has_died_behind_messages_lets_the_loop_rest"
    );
    fn dies() {
        let port = parent_port().expect("a port to the parent");
        post_numbers(&port, 0..3);
        die();
    }
    fn watches() {
        for is_added_first in [true, false] {
            let worker = Worker::spawn(command(TEST, "dies")).expect("a worker");
            let (port, mut child) = worker.into_parts();
            let (port, log) = logged(port);
            let mut event_loop = new_loop();
            let id = if is_added_first {
                let id = event_loop.add(port).expect("room for a port");
                let port = || event_loop.get(id).expect("the port");
                wait_for_posts(port(), 3);
                child.wait().expect("a child");
                id
            } else {
                wait_for_posts(&port, 3);
                child.wait().expect("a child");
                event_loop.add(port).expect("room for a port")
            };
            assert_rests(&mut event_loop);
            event_loop.get(id).expect("it stays").start();
            run_until(&mut event_loop, "it has ended", || log.has("close: PeerDied"));
            assert_eq!(log.take(), ["0", "1", "2", "close: PeerDied"]);
        }
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

#[test]
fn an_unstarted_port_says_at_once_that_its_peer_has_died() {
    const TEST: &str = "nesting::an_unstarted_port_says_at_once_that_its_peer_has_died";
    fn dies() {
        let port = parent_port().expect("a port to the parent");
        assert_eq!(receive_text(&port), "go");
        die();
    }
    fn watches() {
        let worker = Worker::spawn(command(TEST, "dies")).expect("a worker");
        let (port, mut child) = worker.into_parts();
        let (port, log) = logged(port);
        let (mut event_loop, id) = loop_of(port);
        settle(&mut event_loop);
        event_loop.get(id).expect("the port").post_text("go").expect("room");
        event_loop.run().expect("the loop has no port left");
        assert_eq!(log.take(), ["close: PeerDied"]);
        child.wait().expect("a child");
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

/// It is readable until its callback has returned, and no event meanwhile.
#[test]
fn a_source_whose_callback_runs_the_loop_is_left_out_until_it_returns() {
    let _watch = watch("a_source_whose_callback_runs_the_loop_is_left_out_until_it_returns");
    let (mut event_loop, mut far) = (new_loop(), Vec::new());
    let log = Rc::new(RefCell::new(Vec::new()));
    for number in 0..2 {
        let (mut one, other) = UnixStream::pair().expect("sockets");
        one.write_all(b"ab").expect("room");
        far.push(one);
        let log = log.clone();
        let added = event_loop.add_source(other, move |event_loop, mut socket: &UnixStream| {
            log.borrow_mut().push(format!("{number} begins"));
            event_loop.run_until_idle().expect("the loop waits");
            let _ = socket.read(&mut [0]).expect("readable");
            log.borrow_mut().push(format!("{number} ends"));
        });
        added.expect("room");
    }
    event_loop.run_until_idle().expect("the loop waits");
    // The second one was served twice inside of the first one.
    let inside = ["0 begins", "1 begins", "1 ends", "1 begins", "1 ends", "0 ends"];
    assert_eq!(log.borrow()[..6], inside);
    assert_eq!(log.borrow()[6..], ["0 begins", "0 ends"]);
}
