//! What a handler may do to the loop that it runs in: reply, post, add, take, move, close, defer.

use crate::common::{receive, receive_end, receive_text};
use crate::{
    Log, channel, end_of, logged, loop_of, new_loop, numbers, post_numbers, run_until, settle,
    text_of,
};
use messageport::{CloseReason, Event, ListenerOptions, MessageChannel, MessagePort, PortId};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// The name of the port that an event is delivered to.
fn id_of(event: &Event<'_>) -> PortId {
    let mut ports = event.loop_ports();
    let found = ports.find(|(_, port)| std::ptr::eq(*port, event.port()));
    found.expect("a port of the loop").0
}

#[test]
fn a_handler_replies_to_the_event_while_it_reads_it() {
    for is_trusted in [false, true] {
        let pair = MessageChannel::builder().capacity(4096).limit(1 << 20).build();
        let MessageChannel { port1, port2 } = pair.expect("a channel");
        if is_trusted {
            // SAFETY: both ends stay in this test.
            unsafe { port2.trust_peer() };
        }
        let log = Log::new();
        log.watch_failures(&port2);
        port2.on_message(|event| {
            let text = event.message().expect("a message").text().expect("a text");
            for _ in 0..20 {
                event.port().post_text(text).expect("room");
            }
            let place = event.message().expect("a message").text().expect("a text");
            event.port().post_text(&format!("{text} {place}")).expect("room");
        });
        let (mut event_loop, _) = loop_of(port2);
        post_numbers(&port1, 0..100);
        settle(&mut event_loop);
        for number in numbers(0..100) {
            (0..20).for_each(|_| assert_eq!(receive_text(&port1), number));
            assert_eq!(receive_text(&port1), format!("{number} {number}"));
        }
        assert_eq!(log.take(), [""; 0]);
    }
}

#[test]
fn a_handler_posts_to_another_port_by_its_name() {
    let (from, to) = (channel(), channel());
    let mut event_loop = new_loop();
    let target = event_loop.add(to.port2).expect("room for a port");
    from.port2.on_message(move |event| {
        event.loop_port(target).expect("lent").post_text(&text_of(event)).expect("room");
    });
    let log = Log::new();
    log.watch_failures(&from.port2);
    event_loop.add(from.port2).expect("room for a port");
    post_numbers(&from.port1, 0..1);
    settle(&mut event_loop);
    assert_eq!(receive_text(&to.port1), "0");
    assert!(event_loop.remove(target));
    post_numbers(&from.port1, 1..2);
    settle(&mut event_loop);
    assert_eq!(log.len(), 1, "it is lent no more");
}

#[test]
fn a_handler_broadcasts_to_the_ports_of_its_loop() {
    let mut event_loop = new_loop();
    let clients: Vec<MessagePort> = (0..10)
        .map(|_| {
            let MessageChannel { port1, port2 } = channel();
            port2.on_message(|event| {
                for (_, port) in event.loop_ports() {
                    port.post_text(&text_of(event)).expect("room");
                }
            });
            event_loop.add(port2).expect("room for a port");
            port1
        })
        .collect();
    for (client, number) in clients.iter().zip(0..) {
        post_numbers(client, number..number + 1);
    }
    settle(&mut event_loop);
    for client in &clients {
        let mut heard: Vec<_> = (0..10).map(|_| receive_text(client)).collect();
        heard.sort();
        assert_eq!(heard, numbers(0..10));
        assert!(client.try_recv().expect("an open port").is_none());
    }
}

/// Outside a loop there is no port to lend and no loop to defer to.
#[test]
fn an_event_outside_a_loop_lends_nothing() {
    let pair = channel();
    let (mut event_loop, id) = loop_of(pair.port2);
    let log = Log::new();
    let inner = log.clone();
    let port = event_loop.get(id).expect("the port");
    port.add_event_listener("ping", ListenerOptions::new(), move |event| {
        let lent = event.loop_port(id).is_some() || event.loop_ports().next().is_some();
        let never = inner.clone();
        let deferred = event.defer(move |_| never.note("never"));
        inner.note(format!("lent: {lent}, deferred: {deferred}"));
    });
    port.dispatch_event(Event::new("ping")).expect("a fresh event");
    settle(&mut event_loop);
    assert_eq!(log.take(), ["lent: false, deferred: false"]);
}

#[test]
fn a_handler_adds_a_port() {
    let (server, log) = (channel(), Log::new());
    let inner = log.clone();
    server.port2.on_message(move |event| {
        let client = event.message().expect("a message").take_port().expect("a port");
        inner.listen(&client);
        client.start();
        event.defer(move |event_loop| assert!(event_loop.add(client).is_ok()));
    });
    log.watch_failures(&server.port2);
    let (mut event_loop, _) = loop_of(server.port2);
    let MessageChannel { port1, port2 } = channel();
    post_numbers(&port1, 0..2);
    server.port1.post_text_with("a client", [port2.into()]).expect("room");
    settle(&mut event_loop);
    assert_eq!((log.take(), event_loop.ids().count()), (numbers(0..2), 2));
    drop((port1, server.port1));
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), ["close: PeerDropped"]);
}

/// A carrier to move a port over, which handlers share.
type Carrier = Arc<Mutex<MessagePort>>;

fn move_over(carrier: &Carrier, port: MessagePort) {
    let carrier = carrier.lock().expect("no thread panicked while holding it");
    carrier.post_message_with(&0u8, [port.into()]).expect("room");
}

#[test]
fn a_handler_moves_away_the_port_that_it_serves() {
    let (pair, way) = (channel(), channel());
    let carrier = Carrier::new(Mutex::new(way.port1));
    let log = Log::new();
    let inner = log.clone();
    pair.port2.on_message(move |event| {
        inner.note(text_of(event));
        let (id, carrier) = (id_of(event), carrier.clone());
        event.defer(move |event_loop| move_over(&carrier, event_loop.take(id).expect("itself")));
    });
    log.watch_failures(&pair.port2);
    post_numbers(&pair.port1, 0..5);
    let (mut event_loop, _) = loop_of(pair.port2);
    event_loop.run().expect("the loop has no port left");
    assert_eq!(log.take(), ["0"], "the rest moves along");
    let moved = receive(&way.port2).take_port().expect("a port");
    assert!(!moved.is_started(), "disabled again at its new owner");
    for number in numbers(1..5) {
        assert_eq!(receive_text(&moved), number);
    }
}

#[test]
fn a_handler_moves_away_another_port_that_is_due() {
    let (pair, victim, way) = (channel(), channel(), channel());
    let carrier = Carrier::new(Mutex::new(way.port1));
    let log = Log::new();
    let mut event_loop = new_loop();
    let other = Arc::new(Mutex::new(None));
    let place = other.clone();
    pair.port2.on_message(move |event| {
        let id = place.lock().expect("no thread panicked while holding it").expect("a port");
        let carrier = carrier.clone();
        event.defer(move |event_loop| move_over(&carrier, event_loop.take(id).expect("it")));
    });
    log.listen(&victim.port2);
    victim.port2.start();
    let first = event_loop.add(pair.port2).expect("room for a port");
    let id = event_loop.add(victim.port2).expect("room for a port");
    *other.lock().expect("no thread panicked while holding it") = Some(id);
    post_numbers(&pair.port1, 0..1);
    post_numbers(&victim.port1, 0..2);
    settle(&mut event_loop);
    assert_eq!(event_loop.ids().collect::<Vec<_>>(), [first]);
    assert_eq!(log.take(), [""; 0]);
    let moved = receive(&way.port2).take_port().expect("a port");
    assert_eq!(receive_text(&moved), "0");
}

#[test]
fn a_handler_removes_the_port_that_it_serves() {
    let (pair, log) = (channel(), Log::new());
    let inner = log.clone();
    pair.port2.on_message(move |event| {
        inner.note(text_of(event));
        let id = id_of(event);
        event.defer(move |event_loop| assert!(event_loop.remove(id)));
    });
    post_numbers(&pair.port1, 0..5);
    let (mut event_loop, _) = loop_of(pair.port2);
    event_loop.run().expect("the loop has no port left");
    assert_eq!(log.take(), ["0"]);
    assert_eq!(pair.port1.backlog().messages, 4);
    assert_eq!(receive_end(&pair.port1), CloseReason::PeerDropped);
}

#[test]
fn a_handler_closes_the_port_that_it_serves() {
    let (pair, log) = (channel(), Log::new());
    let inner = log.clone();
    log.watch_end(&pair.port2);
    pair.port2.on_message(move |event| {
        inner.note(text_of(event));
        event.port().close();
    });
    post_numbers(&pair.port1, 0..200);
    let (mut event_loop, _) = loop_of(pair.port2);
    event_loop.run().expect("the loop has no port left");
    assert_eq!(log.take(), numbers(0..200));
    assert_eq!(receive_end(&pair.port1), CloseReason::PeerClosed);
}

/// The other port was idle, and nothing comes to it that would wake the loop.
#[test]
fn a_handler_closes_another_port_which_leaves_the_loop() {
    let (pair, idle, log) = (channel(), channel(), Log::new());
    let mut event_loop = new_loop();
    log.listen(&idle.port2);
    idle.port2.start();
    let id = event_loop.add(idle.port2).expect("room for a port");
    pair.port2.on_message(move |event| event.loop_port(id).expect("lent").close());
    event_loop.add(pair.port2).expect("room for a port");
    settle(&mut event_loop);
    post_numbers(&pair.port1, 0..1);
    settle(&mut event_loop);
    assert!(idle.port1.is_closed());
    assert_eq!(event_loop.ids().count(), 1, "nothing more can come of the closed one");
    assert_eq!(log.take(), [""; 0]);
}

#[test]
fn a_handler_starts_another_port() {
    let (pair, waiting) = (channel(), channel());
    let mut event_loop = new_loop();
    let (port, log) = logged(waiting.port2);
    let id = event_loop.add(port).expect("room for a port");
    pair.port2.on_message(move |event| event.loop_port(id).expect("lent").start());
    event_loop.add(pair.port2).expect("room for a port");
    post_numbers(&waiting.port1, 0..100);
    settle(&mut event_loop);
    assert_eq!(log.len(), 0);
    post_numbers(&pair.port1, 0..1);
    settle(&mut event_loop);
    assert_eq!(log.take(), numbers(0..100));
    drop((pair.port1, waiting.port1));
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), ["close: PeerDropped"]);
}

#[test]
fn the_loop_goes_on_after_a_listener_that_fails() {
    let (one, two, log) = (channel(), channel(), Log::new());
    let mut event_loop = new_loop();
    one.port2.add_event_listener("message", ListenerOptions::new(), |_| -> Result<(), String> {
        std::panic::panic_any("on purpose")
    });
    log.listen(&one.port2);
    one.port2.on_close(|_| Err::<(), &str>("on purpose"));
    let reported = log.clone();
    one.port2.on_listener_failure(move |_, _| reported.note("reported"));
    log.listen(&two.port2);
    for port in [one.port2, two.port2] {
        port.start();
        event_loop.add(port).expect("room for a port");
    }
    for far in [one.port1, two.port1] {
        post_numbers(&far, 0..2);
    }
    event_loop.run().expect("the loop waits");
    let first = ["reported", "0", "reported", "1", "reported"];
    let second = ["0", "1", "close: PeerDropped"];
    assert_eq!(log.take(), [&first[..], &second[..]].concat());
}

/// A port that says `close` is no longer lent among the others, as it no longer reaches a peer.
#[test]
fn a_close_handler_may_defer_and_its_port_leaves_the_loop() {
    let (pair, log) = (channel(), Log::new());
    let inner = log.clone();
    let (mut event_loop, id) = loop_of(pair.port2);
    let port = event_loop.get(id).expect("the port");
    log.watch_failures(port);
    port.on_close(move |event| {
        inner.note(format!("{}, lent: {}", end_of(event), event.loop_ports().count()));
        let later = inner.clone();
        event.defer(move |event_loop| {
            later.note(format!("ports: {}", event_loop.ids().count()));
            assert!(event_loop.get(id).expect("it can be had until then").is_closed());
            assert!(event_loop.add(channel().port1).is_ok());
        });
    });
    drop(pair.port1);
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), ["close: PeerDropped, lent: 0", "ports: 0"]);
    assert!(event_loop.get(id).is_none());
}

#[test]
fn messages_between_ports_of_one_loop_wait_for_their_turn() {
    let (pair, log) = (channel(), Log::new());
    let is_inside = Arc::new(AtomicBool::new(false));
    let mut event_loop = new_loop();
    for port in [pair.port1, pair.port2] {
        let (inner, is_inside) = (log.clone(), is_inside.clone());
        log.watch_failures(&port);
        port.on_message(move |event| {
            inner.note(format!("inside another: {}", is_inside.swap(true, SeqCst)));
            if text_of(event) == "go" {
                event.port().post_text("reply").expect("room");
            }
            is_inside.store(false, SeqCst);
        });
        event_loop.add(port).expect("room for a port");
    }
    let first = event_loop.ids().next().expect("a port");
    event_loop.get(first).expect("the port").post_text("go").expect("room");
    run_until(&mut event_loop, "both have come", || log.len() == 2);
    assert_eq!(log.take(), ["inside another: false"; 2]);
}
