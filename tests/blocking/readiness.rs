//! Waiting for a port's descriptor among others: poll(2), epoll(7).

use crate::common::messages::{Rng, stop_and_go};
use crate::common::watchdog::{progress, watch};
use crate::common::{DEADLINE, wait_until_asleep, wanted};
use messageport::{CloseReason, MessageChannel, MessagePort, RecvError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// Receives everything, and calls `wait` whenever nothing is there, and only then.
fn receive_by(port: &MessagePort, mut wait: impl FnMut()) -> u64 {
    let mut received = 0;
    loop {
        match port.try_recv() {
            Ok(Some(event)) => {
                assert_eq!(event.deserialize::<u64>().expect("a number"), received);
                received += 1;
            }
            Ok(None) => wait(),
            Err(RecvError::Closed { reason }) => {
                assert_eq!(reason, CloseReason::PeerDropped);
                return received;
            }
            Err(error) => panic!("{error}\n{port:#?}"),
        }
    }
}

fn timeout() -> PollTimeout {
    DEADLINE.try_into().expect("a minute")
}

#[test]
fn f48_poll_after_nothing_never_misses_a_message() {
    let _watch = watch("f48_poll_after_nothing_never_misses_a_message");
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let descriptor = port2.as_fd();
    let other = thread::spawn(move || stop_and_go(&port1, 100_000));
    let received = receive_by(&port2, || {
        let mut fds = [PollFd::new(descriptor, PollFlags::POLLIN)];
        let count = poll(&mut fds, timeout()).expect("a poll");
        assert_ne!(count, 0, "nothing came for {DEADLINE:?}\n{port2:#?}");
    });
    assert_eq!(received, 100_000);
    other.join().expect("no panic");
}

#[test]
fn f48_epoll_after_nothing_never_misses_a_message_of_two_ports() {
    let _watch = watch("f48_epoll_after_nothing_never_misses_a_message_of_two_ports");
    let channels = [(); 2].map(|()| MessageChannel::new().expect("a channel"));
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
    for (channel, number) in channels.iter().zip(0..) {
        let interest = EpollEvent::new(EpollFlags::EPOLLIN, number);
        epoll.add(channel.port2.as_fd(), interest).expect("a descriptor to wait for");
    }
    let [first, second] = channels;
    let threads =
        [first.port1, second.port1].map(|port| thread::spawn(move || stop_and_go(&port, 30_000)));
    let mut open = vec![(first.port2, 0, 0), (second.port2, 1, 0)];
    while !open.is_empty() {
        open.retain_mut(|(port, number, received)| {
            loop {
                match port.try_recv() {
                    Ok(Some(event)) => {
                        assert_eq!(event.deserialize::<u64>().expect("a number"), *received);
                        *received += 1;
                    }
                    Ok(None) => return true,
                    Err(error) => {
                        assert_eq!(*received, 30_000, "port {number}: {error}");
                        return false;
                    }
                }
            }
        });
        if open.is_empty() {
            break;
        }
        let mut events = [EpollEvent::empty(); 2];
        let timeout: EpollTimeout = DEADLINE.try_into().expect("a minute");
        let count = epoll.wait(&mut events, timeout).expect("an epoll");
        assert_ne!(count, 0, "nothing came for {DEADLINE:?}");
    }
    for thread in threads {
        thread.join().expect("no panic");
    }
}

#[test]
fn f48_the_descriptor_tells_of_the_end() {
    for drops in [true, false] {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let descriptor = port2.as_fd();
        assert!(port2.try_recv().expect("an open port").is_none());
        if drops {
            drop(port1)
        } else {
            port1.close()
        }
        let mut fds = [PollFd::new(descriptor, PollFlags::POLLIN)];
        assert_ne!(poll(&mut fds, timeout()).expect("a poll"), 0);
        assert!(matches!(port2.try_recv(), Err(RecvError::Closed { .. })));
    }
}

#[test]
fn f48_a_receiver_that_only_looks_is_not_rung_for() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    for number in 0..1000u64 {
        assert!(port2.try_recv().expect("an open port").is_none());
        port1.post_message(&number).expect("room");
        assert!(port2.try_recv().expect("an open port").is_some());
    }
    assert_eq!(port1.stats().sent.wakes, 0, "arming begins with the first as_fd");
    let _descriptor = port2.as_fd();
    for number in 0..1000u64 {
        assert!(port2.try_recv().expect("an open port").is_none());
        port1.post_message(&number).expect("room");
        assert!(port2.try_recv().expect("an open port").is_some());
    }
    assert_eq!(port1.stats().sent.wakes, 1000, "and once for each time that nothing was there");
}

#[test]
fn f47_a_sender_half_waits_for_room_while_the_receiver_half_is_in_a_poll() {
    let _watch = watch("f47_a_sender_half_waits_for_room_while_the_receiver_half_is_in_a_poll");
    const COUNT: usize = 3000;
    let MessageChannel { port1, port2 } = super::bounded();
    let (sender, receiver) = port1.split();
    let (polling, id) = super::sleeper(move || {
        let descriptor = receiver.as_fd();
        let mut received = 0;
        while received < COUNT {
            if receiver.try_recv().expect("an open port").is_some() {
                received += 1;
            } else {
                let mut fds = [PollFd::new(descriptor, PollFlags::POLLIN)];
                assert_ne!(poll(&mut fds, timeout()).expect("a poll"), 0);
            }
        }
    });
    wait_until_asleep(id);
    thread::scope(|scope| {
        scope.spawn(move || {
            for event in port2.iter().take(COUNT) {
                port2.post_bytes_timeout(event.bytes(), Duration::MAX).expect("room");
            }
        });
        for _ in 0..COUNT {
            sender.post_bytes_timeout(&[9; 500], Duration::MAX).expect("room");
            progress();
        }
    });
    polling.join().expect("no panic");
}

/// Lets two threads go on at the same instant.
struct Start(AtomicU64);

impl Start {
    fn meet(&self, round: u64) {
        self.0.fetch_add(1, SeqCst);
        for looks in 1u64.. {
            if self.0.load(SeqCst) >= 2 * round {
                return;
            }
            // The other one may wait for this very processor.
            if looks.is_multiple_of(1000) {
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// Without either fence this loses a message within some thousand rounds on x86, if both threads
/// have a processor.
#[test]
fn f25_a_post_and_a_look_at_the_same_instant_do_not_miss_each_other() {
    let _watch = watch("f25_a_post_and_a_look_at_the_same_instant_do_not_miss_each_other");
    let rounds = wanted("MESSAGEPORT_LITMUS", 30_000);
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let descriptor = port2.as_fd();
    let start = Start(AtomicU64::new(0));
    thread::scope(|scope| {
        let start = &start;
        // The port goes there, so that its drop wakes this side should the other one fail.
        scope.spawn(move || {
            let mut rng = Rng(1);
            for round in 1..=rounds {
                start.meet(round);
                rng.dawdle(Duration::from_nanos(100));
                port1.post_message(&round).expect("room");
            }
        });
        let mut rng = Rng(2);
        for round in 1..=rounds {
            start.meet(round);
            rng.dawdle(Duration::from_nanos(100));
            loop {
                // Says that nothing is there, with its flag up; or finds the message.
                if let Some(event) = port2.try_recv().expect("an open port") {
                    assert_eq!(event.deserialize::<u64>().expect("a number"), round);
                    break;
                }
                let mut fds = [PollFd::new(descriptor, PollFlags::POLLIN)];
                let count = poll(&mut fds, timeout()).expect("a poll");
                assert_ne!(count, 0, "round {round} was slept over\n{port2:#?}");
            }
            progress();
        }
    });
}
