//! A peer that writes over everything, rings without pause, takes nothing: what its victim is told.

use super::{LIMIT, Pair, Stop, examine, pair};
use crate::common::census::Census;
use crate::common::limits::sockets_can_refuse_descriptors;
use crate::common::messages::{MOST, Order, Rng, Stream};
use crate::common::region::Region;
use crate::common::role::{command, play};
use crate::common::watchdog::{progress, watch};
use crate::common::{DEADLINE, kill_process, receive_end, receive_text, wanted};
use crate::scribble::{AIMS, scribble};
use messageport::{
    CloseReason, MessageChannel, MessagePort, PostError, RecvError, Worker, parent_port,
};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

/// Posts and receives until the port has ended both ways, or for long enough. Everything that the
/// victim is told must be allowed, and an end must stay.
fn suffer(victim: &MessagePort, rounds: u64) {
    let (mut unreadable, mut unwritable) = (None, None);
    for round in 0..rounds {
        match victim.recv_timeout(Duration::from_micros(round % 2 * 50)) {
            Ok(event) => {
                assert_eq!(unreadable, None, "a message after the end");
                examine(&event);
            }
            Err(RecvError::Timeout) => assert_eq!(unreadable, None, "open again"),
            Err(RecvError::Closed { reason }) => {
                assert_eq!(*unreadable.get_or_insert(reason), reason, "another end");
            }
            Err(error) => panic!("{error}\n{victim:#?}"),
        }
        let posted = match round % 8 {
            0 | 4 => victim.post_bytes(&[1; 100]),
            1 | 5 => victim.post_message(&Order { number: round, body: "words ".repeat(20) }),
            2 => victim.post_bytes_timeout(&[2; 1000], Duration::from_micros(20)),
            3 => victim.loan(50).and_then(|loan| loan.post()),
            6 => victim.burst().stage(&round),
            _ => victim.wait_for_room(5000, Duration::from_micros(20)),
        };
        match posted {
            Ok(()) => assert_eq!(unwritable, None, "open again"),
            Err(PostError::QueueFull { .. } | PostError::Timeout) => {
                assert_eq!(unwritable, None, "open again");
            }
            Err(PostError::Closed { reason }) => {
                assert_eq!(*unwritable.get_or_insert(reason), reason, "another end");
            }
            Err(error) => panic!("{error}\n{victim:#?}"),
        }
        let _ = (victim.backlog(), victim.stats(), victim.is_closed(), victim.trim());
        progress();
        if unreadable.is_some() && unwritable.is_some() && round % 16 == 15 {
            return;
        }
    }
}

#[test]
fn f28_a_thread_that_scribbles_over_everything_ends_the_port_at_worst() {
    let _watch = watch("f28_a_thread_that_scribbles_over_everything_ends_the_port_at_worst");
    let rounds = wanted("MESSAGEPORT_SCRIBBLES", 70);
    for round in 0..rounds {
        let Pair { victim, peer, region } = pair();
        let aim = AIMS[round as usize % AIMS.len()];
        let stop = Stop::new();
        thread::scope(|scope| {
            let _at_end = stop.at_end();
            scope.spawn(|| {
                let mut rng = Rng(round);
                while !stop.is_set() {
                    scribble(&region, aim, &mut rng);
                    rng.dawdle(Duration::from_micros(5));
                }
            });
            // Honest messages as well, so that there is something to break.
            for number in 0..20 {
                let _ = peer.post_bytes(&[3; 200][..number * 10]);
            }
            if round % 2 == 0 {
                // As if it waited among other descriptors.
                let _ = victim.as_fd();
            }
            suffer(&victim, 400);
        });
    }
}

/// The hostile side of the tests with two processes.
fn hostile_port() -> (MessagePort, Rng) {
    let seed = wanted("MESSAGEPORT_TEST_SEED", 0);
    (parent_port().expect("a port to the victim"), Rng(seed))
}

fn start_hostile(test: &str, seed: u64) -> Worker {
    let sizes = MessageChannel::builder().capacity(4096).limit(LIMIT);
    let mut command = command(test, "hostile");
    command.env("MESSAGEPORT_TEST_SEED", seed.to_string());
    Worker::spawn_with(command, sizes).expect("a worker")
}

#[test]
fn f28_a_process_that_scribbles_over_everything_ends_the_port_at_worst() {
    const TEST: &str = "chaos::f28_a_process_that_scribbles_over_everything_ends_the_port_at_worst";
    fn hostile() {
        let (port, mut rng) = hostile_port();
        let region = Region::of(&port);
        let aim = AIMS[rng.0 as usize % AIMS.len()];
        port.post_text("here I am").expect("room");
        // The victim may take its time; this process runs until it is killed.
        loop {
            scribble(&region, aim, &mut rng);
            let _ = port.post_bytes(&[4; 100]);
            if let Ok(Some(event)) = port.try_recv() {
                examine(&event);
            }
            progress();
        }
    }
    fn victim() {
        let before = Census::take();
        for seed in 0..28 {
            let worker = start_hostile(TEST, seed);
            suffer(worker.port(), 300);
            kill_process(worker.id());
            suffer(worker.port(), 300);
        }
        before.wait_for("at the end");
    }
    play(TEST, &[("victim", victim), ("hostile", hostile)]);
}

#[test]
fn holes_in_the_region_are_zeros_and_no_signal() {
    const TEST: &str = "chaos::holes_in_the_region_are_zeros_and_no_signal";
    fn hostile() {
        let (port, mut rng) = hostile_port();
        let region = Region::of(&port);
        port.post_text("here I am").expect("room");
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        loop {
            let start = rng.below(region.len() as u64 / 4096) * 4096;
            let len = (1 + rng.below(8)) * 4096;
            fallocate(&region.file, hole, start as i64, len as i64).expect("a hole");
            progress();
        }
    }
    fn victim() {
        for seed in 0..5 {
            let worker = start_hostile(TEST, seed);
            suffer(worker.port(), 300);
        }
    }
    play(TEST, &[("victim", victim), ("hostile", hostile)]);
}

#[test]
fn a_doorbell_rung_without_pause_stops_nothing_and_its_descriptors_do_not_stay() {
    const TEST: &str =
        "chaos::a_doorbell_rung_without_pause_stops_nothing_and_its_descriptors_do_not_stay";
    fn hostile() {
        let (port, _) = hostile_port();
        let bell = UnixStream::from(port.as_fd().try_clone_to_owned().expect("a descriptor"));
        port.post_text("here I am").expect("room");
        let mine = [bell.as_raw_fd(), 0, 1];
        let rights = [ControlMessage::ScmRights(&mine)];
        for round in 0u64.. {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            // It fails when the bell is full.
            let bytes = [IoSlice::new(&[7; 3])];
            let _ = sendmsg::<UnixAddr>(bell.as_raw_fd(), &bytes, &rights, flags, None);
            let _ = sendmsg::<UnixAddr>(
                bell.as_raw_fd(),
                &[IoSlice::new(&[7; 5000])],
                &[],
                flags,
                None,
            );
            if round % 16 == 0 {
                let _ = port.post_message(&round);
            }
            progress();
        }
    }
    fn victim() {
        let worker = start_hostile(TEST, 0);
        let port = worker.port();
        assert_eq!(receive_text(port), "here I am");
        let before = Census::take();
        let mut received = 0;
        for round in 0..500 {
            if let Ok(event) = port.recv_timeout(Duration::from_micros(200)) {
                assert_eq!(event.deserialize::<u64>().expect("a number"), received * 16);
                received += 1;
            }
            match port.post_bytes(&[5; 50]) {
                Ok(()) | Err(PostError::QueueFull { .. }) => {}
                // Where a doorbell cannot refuse descriptors, they end the port.
                Err(PostError::Closed { .. }) if !sockets_can_refuse_descriptors() => break,
                Err(error) => panic!("round {round}: {error}\n{port:#?}"),
            }
            before.wait_for(format_args!("round {round}"));
            progress();
        }
        assert!(received > 0 || !sockets_can_refuse_descriptors());
        before.wait_for("behind the last round");
        kill_process(worker.id());
        while port.recv_timeout(DEADLINE).is_ok() {}
        assert_eq!(receive_end(port), CloseReason::PeerDied, "behind all that noise");
    }
    play(TEST, &[("victim", victim), ("hostile", hostile)]);
}

#[test]
fn a_peer_that_takes_nothing_costs_no_more_than_the_limit() {
    const TEST: &str = "chaos::a_peer_that_takes_nothing_costs_no_more_than_the_limit";
    fn hostile() {
        let (port, _) = hostile_port();
        port.post_text("here I am").expect("room");
        loop {
            thread::park();
        }
    }
    fn victim() {
        let worker = start_hostile(TEST, 0);
        let port = worker.port();
        let region = Region::of(port);
        assert_eq!(receive_text(port), "here I am");
        let stream = Stream { seed: 6 };
        for number in 0..20_000 {
            match port.post_text(&stream.message(number)) {
                Ok(()) => {}
                Err(PostError::QueueFull { unread, limit, .. }) => assert!(unread <= limit),
                Err(PostError::TooLarge { len, .. }) => assert!(len <= MOST as u64),
                Err(error) => panic!("{error}\n{port:#?}"),
            }
        }
        assert!(matches!(port.post_bytes(&[6; 4000]), Err(PostError::QueueFull { .. })));
        let timed = port.post_bytes_timeout(&[6; 4000], Duration::from_millis(1));
        assert!(matches!(timed, Err(PostError::Timeout)), "{timed:?}");
        // One lane up to its limit, one page of the other, and the header.
        assert!(region.memory() <= (LIMIT + (20 << 10)) as u64, "{} bytes", region.memory());
    }
    play(TEST, &[("victim", victim), ("hostile", hostile)]);
}
