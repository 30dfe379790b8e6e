//! What a turn looks at, in counts. What the loop delivers is tested in `tests/semantics/`.

use super::EventLoop;
use crate::os::spin::MOST_LOOKS;
use crate::port::MessagePort;
use crate::port::channel::MessageChannel;
use crate::port::events::LOOKS;
use std::time::{Duration, Instant};

const MANY: usize = 100;

/// Ports in a loop that are not started, every other one with a message, and their peers.
fn unstarted(event_loop: &mut EventLoop) -> Vec<MessagePort> {
    let peers: Vec<_> = (0..MANY)
        .map(|number| {
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            if number % 2 == 0 {
                port1.post_text("unread").expect("room");
            }
            event_loop.add(port2).expect("room for a port");
            port1
        })
        .collect();
    event_loop.run_until_idle().expect("the loop waits");
    peers
}

/// How often `act` looks at ports.
fn looks(act: impl FnOnce()) -> u64 {
    let before = LOOKS.get();
    act();
    LOOKS.get() - before
}

#[test]
fn a_port_that_is_not_started_is_looked_at_in_no_turn() {
    let mut event_loop = EventLoop::new().expect("a loop");
    let _peers = unstarted(&mut event_loop);
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    port2.on_message(|event| event.port().post_text("answer"));
    event_loop.add(port2).expect("room for a port");
    event_loop.run_until_idle().expect("the loop waits");
    const ROUNDS: u64 = 10;
    let count = looks(|| {
        for _ in 0..ROUNDS {
            port1.post_text("question").expect("room");
            event_loop.run_until_idle().expect("the loop waits");
            assert_eq!(port1.recv().expect("an answer").text().expect("a text"), "answer");
        }
    });
    // Each round: the question, the look that finds nothing more, and perhaps a spurious ring.
    assert!(count <= 4 * ROUNDS, "{count} looks in {ROUNDS} rounds");
    let idle = looks(|| {
        for _ in 0..ROUNDS {
            event_loop.poll_once(Duration::ZERO).expect("the loop waits");
        }
    });
    assert_eq!(idle, 0);
}

#[test]
fn a_port_that_is_started_is_the_only_one_looked_at() {
    let mut event_loop = EventLoop::new().expect("a loop");
    let _peers = unstarted(&mut event_loop);
    let ids: Vec<_> = event_loop.ids().collect();
    for id in ids {
        event_loop.get(id).expect("a port").start();
        let count = looks(|| event_loop.run_until_idle().expect("the loop waits"));
        assert!((1..=4).contains(&count), "{count} looks for one port");
    }
}

/// Ports that were lent to the program, for example to post to all of them, are looked at once.
#[test]
fn ports_that_are_lent_to_be_posted_to_are_not_looked_at_again_and_again() {
    let mut event_loop = EventLoop::new().expect("a loop");
    let _peers = unstarted(&mut event_loop);
    let ids: Vec<_> = event_loop.ids().collect();
    for id in ids {
        event_loop.get(id).expect("a port").post_text("to all").expect("room");
    }
    let count = looks(|| event_loop.run_until_idle().expect("the loop waits"));
    assert_eq!(count, 0, "their messages still stand there");
}

#[test]
fn a_turn_that_may_wait_looks_for_the_next_message_within_a_bound() {
    let (mut event_loop, first, second) = (
        EventLoop::new().expect("a loop"),
        MessageChannel::new().expect("a channel"),
        MessageChannel::new().expect("a channel"),
    );
    for port in [first.port2, second.port2] {
        port.start();
        event_loop.add(port).expect("room for a port");
    }
    // The first turn serves both ports.
    event_loop.run_until_idle().expect("turns");
    first.port1.post_bytes(b"one").expect("room");
    event_loop.poll_once(Duration::ZERO).expect("a turn");
    assert_eq!(event_loop.looks.get(), MOST_LOOKS, "a turn that must not wait");
    first.port1.post_bytes(b"two").expect("room");
    event_loop.poll_once(Duration::MAX).expect("a turn");
    let is_bound = crate::os::several_processors();
    assert_eq!(event_loop.looks.get() < MOST_LOOKS, is_bound, "a turn that may wait");
    // Ports that are ready do not wait for looks.
    event_loop.looks.set(MOST_LOOKS);
    first.port1.post_bytes(b"three").expect("room");
    second.port1.post_bytes(b"four").expect("room");
    let ids: Vec<_> = event_loop.ids().map(|id| id.number()).collect();
    event_loop.may_wait = true;
    ids.iter().for_each(|id| event_loop.make_ready(*id));
    event_loop.ready.pop_front();
    event_loop.deliver_share(ids[0]);
    assert_eq!(event_loop.looks.get(), MOST_LOOKS, "another port is ready");
    // Nor does what other threads want of the loop.
    event_loop.ready.clear();
    first.port1.post_bytes(b"five").expect("room");
    event_loop.handle().stop();
    event_loop.deliver_share(ids[0]);
    assert_eq!(event_loop.looks.get(), MOST_LOOKS, "there is a request to stop");
}

#[test]
fn no_look_for_the_next_message_delays_a_timer_that_is_due() {
    let mut event_loop = EventLoop::new().expect("a loop");
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    port2.start();
    let id = event_loop.add(port2).expect("room for a port").number();
    event_loop.run_until_idle().expect("turns");
    // What it says changes with each look that finds nothing.
    let spin = |event_loop: &EventLoop| {
        let receiver = event_loop.ports[&id].port.receiver();
        format!("{:?}", receiver.spin())
    };
    let looks = crate::os::several_processors();
    let serve = |event_loop: &mut EventLoop| {
        let before = spin(event_loop);
        port1.post_bytes(b"a message").expect("room");
        event_loop.may_wait = true;
        event_loop.deliver_share(id);
        spin(event_loop) != before
    };
    assert_eq!(serve(&mut event_loop), looks, "nothing else has to be done");
    event_loop.add_timer(Duration::from_secs(3600), |_| {});
    assert_eq!(serve(&mut event_loop), looks, "the timer is due much later");
    event_loop.add_timer(Duration::ZERO, |_| {});
    while event_loop.timers.next().is_none_or(|due| due > Instant::now()) {}
    assert!(!serve(&mut event_loop), "a timer is due");
}
