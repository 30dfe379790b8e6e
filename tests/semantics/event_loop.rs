//! The loop: which ports it has, who has a turn and for how long, and what other threads may do.

use crate::common::messages::Rng;
use crate::common::{DEADLINE, receive, receive_end, receive_text, wait_until};
use crate::{
    Log, channel, hear, logged, loop_of, new_loop, numbers, post_numbers, settle, text_of,
};
use messageport::{CloseReason, EventLoop, LoopHandle, MessageChannel, MessagePort, RecvError};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Messages of one port before the others have their turn.
const SHARE: u64 = 64;

fn poll(event_loop: &mut EventLoop) -> bool {
    event_loop.poll_once(Duration::ZERO).expect("the loop waits")
}

// Ports come and go.

#[test]
fn ports_are_added_taken_and_removed() {
    let (one, two) = (channel(), channel());
    let mut event_loop = new_loop();
    let first = event_loop.add(one.port2).expect("room for a port");
    let second = event_loop.add(two.port2).expect("room for a port");
    assert_eq!(event_loop.ids().collect::<Vec<_>>(), [first, second]);
    assert!(event_loop.get(first).is_some());
    let taken = event_loop.take(first).expect("the port");
    assert!(event_loop.take(first).is_none() && event_loop.get(first).is_none());
    one.port1.post_text("outside").expect("room");
    settle(&mut event_loop);
    assert_eq!(receive_text(&taken), "outside");
    assert!(event_loop.remove(second) && !event_loop.remove(second));
    assert_eq!(receive_end(&two.port1), CloseReason::PeerDropped);
    let again = event_loop.add(taken).expect("room for a port");
    assert!(again == first && again != second, "a port keeps its name");
    assert_eq!(event_loop.ids().count(), 1);
}

#[test]
fn a_port_is_taken_out_with_its_listeners_and_as_started_as_it_is() {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    port.start();
    let (mut event_loop, id) = loop_of(port);
    post_numbers(&pair.port1, 0..1);
    settle(&mut event_loop);
    let taken = event_loop.take(id).expect("the port");
    assert!(taken.is_started());
    post_numbers(&pair.port1, 1..2);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["0"]);
    let (mut other_loop, _) = loop_of(taken);
    settle(&mut other_loop);
    drop(pair.port1);
    other_loop.run().expect("the loop waits");
    assert_eq!(log.take(), ["1", "close: PeerDropped"]);
}

#[test]
fn a_started_port_is_not_read_by_calls_even_after_take() {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    port.start();
    let (mut event_loop, id) = loop_of(port);
    post_numbers(&pair.port1, 0..1);
    let port = event_loop.take(id).expect("the port");
    assert!(matches!(port.recv(), Err(RecvError::Started)));
    assert!(matches!(port.try_recv(), Err(RecvError::Started)));
    assert!(matches!(port.recv_timeout(Duration::ZERO), Err(RecvError::Started)));
    assert!(matches!(port.discard_next(), Err(RecvError::Started)));
    let (mut event_loop, _) = loop_of(port);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["0"]);
}

/// The iterator says by its end what `recv` says by an error.
#[test]
fn a_started_port_is_not_read_by_iteration() {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    port.start();
    post_numbers(&pair.port1, 0..1);
    assert!(port.iter().next().is_none());
    let (mut event_loop, _) = loop_of(port);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["0"]);
}

#[test]
fn run_ends_when_no_port_is_left() {
    new_loop().run().expect("nothing to wait for");
    let (one, two) = (channel(), channel());
    let mut event_loop = new_loop();
    for (pair, number) in [one, two].into_iter().zip(0..) {
        let (port, log) = logged(pair.port2);
        port.start();
        post_numbers(&pair.port1, 0..number);
        event_loop.add(port).expect("room for a port");
        drop(log);
    }
    event_loop.run().expect("both have ended");
    assert_eq!(event_loop.ids().count(), 0);
    assert!(!poll(&mut event_loop));
}

/// A port that was closed here says no `close`, and nothing more comes: the loop drops it, whether
/// it was idle or not when it was closed.
#[test]
fn a_port_that_was_closed_from_outside_leaves_the_loop() {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    port.start();
    let (mut event_loop, id) = loop_of(port);
    settle(&mut event_loop);
    event_loop.get(id).expect("the port").close();
    settle(&mut event_loop);
    assert_eq!(event_loop.ids().count(), 0);
    assert_eq!(receive_end(&pair.port1), CloseReason::PeerClosed);
    assert_eq!(log.take(), [""; 0]);
}

#[test]
fn poll_once_says_whether_there_was_anything() {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    port.start();
    let (mut event_loop, _) = loop_of(port);
    assert!(!poll(&mut event_loop) && !poll(&mut event_loop));
    post_numbers(&pair.port1, 0..1);
    assert!(event_loop.poll_once(DEADLINE).expect("the loop waits"));
    assert_eq!(log.take(), ["0"]);
    let brief = Duration::from_millis(1);
    assert!(!event_loop.poll_once(brief).expect("the loop waits"));
    drop(pair.port1);
    assert!(event_loop.poll_once(Duration::MAX).expect("the loop waits"));
    assert!(!poll(&mut event_loop));
    assert_eq!(log.take(), ["close: PeerDropped"]);
}

// From other threads.

#[test]
fn another_thread_stops_the_loop_and_gives_it_work() {
    let pair = channel();
    let (mut event_loop, id) = loop_of(pair.port2);
    let handle = event_loop.handle();
    let (says, said) = mpsc::channel();
    let other = thread::spawn(move || {
        let here = thread::current().id();
        handle.post(move |event_loop| {
            let port = event_loop.get(id).expect("the port");
            port.post_text("from the loop's thread").expect("room");
            says.send(thread::current().id() != here).expect("there is a listener");
        });
        assert!(hear(&said));
        handle.clone().stop();
    });
    event_loop.run().expect("the loop waits");
    other.join().expect("no panic");
    assert_eq!(receive_text(&pair.port1), "from the loop's thread");
    assert_eq!(event_loop.ids().count(), 1, "it was stopped, and not through");
}

#[test]
fn a_stop_before_the_run_ends_the_next_run_and_only_that() {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    port.start();
    let (mut event_loop, _) = loop_of(port);
    event_loop.handle().stop();
    event_loop.run().expect("it does not begin");
    post_numbers(&pair.port1, 0..3);
    drop(pair.port1);
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), ["0", "1", "2", "close: PeerDropped"]);
}

#[test]
fn a_handler_stops_its_loop_after_its_turn() {
    let pair = channel();
    let log = Log::new();
    let (mut event_loop, id) = loop_of(pair.port2);
    let (handle, inner) = (event_loop.handle(), log.clone());
    event_loop.get(id).expect("the port").on_message(move |event| {
        inner.note(text_of(event));
        handle.stop();
    });
    post_numbers(&pair.port1, 0..SHARE + 1);
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), numbers(0..SHARE));
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), numbers(SHARE..SHARE + 1));
}

/// Work that owns a handle comes back to it when it is dropped undone.
#[test]
fn work_for_a_loop_that_is_gone_is_refused() {
    struct ComesBack(LoopHandle, Log);
    impl Drop for ComesBack {
        fn drop(&mut self) {
            self.1.note(format!("posted: {}", self.0.post(|_| {})));
        }
    }
    let event_loop = new_loop();
    let (handle, log) = (event_loop.handle(), Log::new());
    let left = ComesBack(handle.clone(), log.clone());
    assert!(handle.post(move |_| drop(left)));
    assert_eq!(log.take(), [""; 0], "it may still run");
    drop(event_loop);
    assert_eq!(log.take(), ["posted: false"], "what was left is dropped with the loop");
    let late = ComesBack(handle.clone(), log.clone());
    assert!(!handle.post(move |_| drop(late)));
    assert_eq!(log.take(), ["posted: false"]);
    handle.stop();
}

#[test]
fn work_is_done_in_order_and_by_a_loop_without_ports() {
    let mut event_loop = new_loop();
    let log = Log::new();
    let handle = event_loop.handle();
    for word in ["one", "two"] {
        let (inner, handle) = (log.clone(), handle.clone());
        handle.clone().post(move |_| {
            inner.note(word);
            let inner = inner.clone();
            handle.post(move |_| inner.note("from inside"));
        });
    }
    event_loop.run().expect("the loop does its work");
    assert_eq!(log.take(), ["one", "two", "from inside", "from inside"]);
}

#[test]
fn a_port_comes_from_another_thread_while_the_loop_waits() {
    let idle = channel();
    let (mut event_loop, first) = loop_of(idle.port2);
    let (handle, log) = (event_loop.handle(), Log::new());
    let inner = log.clone();
    let other = thread::spawn(move || {
        let pair = channel();
        handle.post(move |event_loop| {
            inner.listen(&pair.port2);
            pair.port2.start();
            event_loop.add(pair.port2).expect("room for a port");
        });
        post_numbers(&pair.port1, 0..2);
        wait_until("both are taken", || pair.port1.backlog().messages == 0);
        drop(pair.port1);
        handle.post(move |event_loop| assert!(event_loop.remove(first)));
    });
    event_loop.run().expect("the loop waits");
    other.join().expect("no panic");
    assert_eq!(log.take(), ["0", "1", "close: PeerDropped"]);
}

// Fairness, in deliveries.

/// Two ports that write to one log, each message as its port's letter.
fn two_on_one_loop(flood: u64) -> (EventLoop, Log, [MessagePort; 2]) {
    let log = Log::new();
    let mut event_loop = new_loop();
    let mut far = Vec::new();
    for word in ["flood", "other"] {
        let MessageChannel { port1, port2 } = channel();
        log.watch_failures(&port2);
        port2.on_message(log.says(word));
        event_loop.add(port2).expect("room for a port");
        far.push(port1);
    }
    post_numbers(&far[0], 0..flood);
    (event_loop, log, far.try_into().expect("two ports"))
}

#[test]
fn a_flooded_port_has_its_share_and_then_the_others_have_their_turn() {
    let (mut event_loop, log, far) = two_on_one_loop(1000);
    post_numbers(&far[1], 0..3);
    assert!(poll(&mut event_loop));
    let seen = log.take();
    assert_eq!(seen.len() as u64, SHARE + 3);
    assert!(seen[..SHARE as usize].iter().all(|word| word == "flood"));
    assert!(seen[SHARE as usize..].iter().all(|word| word == "other"));
    // Also what comes while the flood is being worked off.
    for _ in 0..5 {
        post_numbers(&far[1], 0..1);
        assert!(poll(&mut event_loop));
        let seen = log.take();
        let place = seen.iter().position(|word| word == "other").expect("its turn");
        assert!(place as u64 <= SHARE && seen.len() as u64 == SHARE + 1, "{seen:?}");
    }
    settle(&mut event_loop);
    assert_eq!(log.len() as u64, 1000 - 6 * SHARE);
}

#[test]
fn two_flooded_ports_take_turns() {
    let (mut event_loop, log, far) = two_on_one_loop(1000);
    post_numbers(&far[1], 0..1000);
    settle(&mut event_loop);
    let seen = log.take();
    assert_eq!(seen.len(), 2000);
    let runs: Vec<_> = seen.chunk_by(|one, next| one == next).map(<[String]>::len).collect();
    assert!(runs.iter().all(|run| *run as u64 <= SHARE), "{runs:?}");
}

#[test]
fn a_handler_that_defers_at_each_message_keeps_the_order() {
    let pair = channel();
    let log = Log::new();
    let inner = log.clone();
    pair.port2.on_message(move |event| {
        let (word, inner) = (text_of(event), inner.clone());
        inner.note(&word);
        assert!(event.defer(move |_| inner.note(format!("after {word}"))));
    });
    let (mut event_loop, _) = loop_of(pair.port2);
    post_numbers(&pair.port1, 0..200);
    settle(&mut event_loop);
    let expected: Vec<_> = numbers(0..200)
        .into_iter()
        .flat_map(|word| [word.clone(), format!("after {word}")])
        .collect();
    assert_eq!(log.take(), expected);
}

#[test]
fn the_end_of_a_port_that_was_not_started_is_told_behind_a_hop() {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    for _ in 0..100 {
        pair.port1.post_bytes(&[1; 10_000]).expect("room");
    }
    while port.try_recv().expect("a peer").is_some() {}
    let (mut event_loop, _) = loop_of(port);
    settle(&mut event_loop);
    // A return to the base segment is a control record, and no message.
    pair.port1.trim().expect("pages that are given back");
    settle(&mut event_loop);
    drop(pair.port1);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["close: PeerDropped"]);
}

#[test]
fn a_turn_releases_a_hop_that_leads_nowhere_though_the_port_is_not_started() {
    let mut rng = Rng(11);
    let mut refusals = 0;
    for _ in 0..300 {
        let builder = MessageChannel::builder().capacity(4096).limit(64 << 10);
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let (mut event_loop, id) = loop_of(port2);
        let mut post = |least: u64| {
            let len = least + rng.below(24_000);
            port1.post_bytes(&vec![1; len as usize]).map_err(|_| len as usize)
        };
        for _ in 0..12 {
            for _ in 0..3 {
                let _ = post(100);
            }
            settle(&mut event_loop);
            while port1.backlog().messages > 0 {
                drop(receive(event_loop.get(id).expect("the port")));
            }
            let Err(len) = post(8_000) else { continue };
            // All was read, but not the hop that this post has left behind.
            refusals += 1;
            settle(&mut event_loop);
            port1.post_bytes(&vec![2; len]).expect("room");
            break;
        }
    }
    assert!(refusals > 0, "no post had to hop");
}
