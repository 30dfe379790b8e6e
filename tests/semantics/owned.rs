//! Handlers that the loop owns: they change what they own, and do anything with their own port and
//! the loop at once. Also the identity of a port, which such a handler knows its port by.

use crate::common::role::{command, play};
use crate::common::{limits, receive, receive_end, receive_text};
use crate::{Log, channel, hear, new_loop, numbers, post_numbers, run_until, settle};
use messageport::{
    CloseReason, EventLoop, LoopEvent, LoopItem, MessageChannel, MessagePort, PortId, PortSet,
    RunEnd, Worker, parent_port,
};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::panic::panic_any;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// An event in words.
fn words(event: &LoopEvent) -> String {
    match event {
        LoopEvent::Message(message) => message.text().expect("a text").to_owned(),
        LoopEvent::MessageError(_) => "error".to_owned(),
        LoopEvent::Close(reason) => format!("close: {reason:?}"),
        other => panic!("{other:?}"),
    }
}

/// A port whose handler writes down what comes.
fn noted(event_loop: &mut EventLoop, port: MessagePort, log: &Log) -> PortId {
    let log = log.clone();
    let added = event_loop.add_with(port, move |_, _, event| log.note(words(&event)));
    added.expect("room for a port")
}

#[test]
fn a_handler_gets_messages_errors_and_the_end() {
    let (pair, log, mut event_loop) = (channel(), Log::new(), new_loop());
    let port = pair.port2.typed::<String, ()>().into_inner();
    noted(&mut event_loop, port, &log);
    post_numbers(&pair.port1, 0..2);
    drop(pair.port1);
    assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingLeft);
    assert_eq!(log.take(), ["0", "1", "close: PeerDropped"]);

    let (pair, mut event_loop) = (channel(), new_loop());
    let inner = log.clone();
    let typed = pair.port2.typed::<u32, ()>();
    let added = event_loop.add_with(typed, move |_, _, event| inner.note(words(&event)));
    added.expect("room for a port");
    pair.port1.post_text("no number").expect("room");
    settle(&mut event_loop);
    assert_eq!(log.take(), ["error"]);
}

/// Nothing of the handler is `Send`, and it changes what it owns.
#[test]
fn a_handler_owns_what_no_other_thread_may_have() {
    let (pair, mut event_loop) = (channel(), new_loop());
    let (seen, mut count) = (Rc::new(RefCell::new(Vec::new())), 0);
    let kept = seen.clone();
    let added = event_loop.add_with(pair.port2, move |_, _, _| {
        count += 1;
        kept.borrow_mut().push(count);
    });
    let id = added.expect("room for a port");
    post_numbers(&pair.port1, 0..3);
    settle(&mut event_loop);
    assert_eq!(*seen.borrow(), [1, 2, 3]);
    assert_eq!(Rc::strong_count(&seen), 2);
    event_loop.remove(id);
    assert_eq!(Rc::strong_count(&seen), 1, "it is dropped with its port");
}

#[test]
fn listeners_of_the_port_come_first() {
    let (pair, log, mut event_loop) = (channel(), Log::new(), new_loop());
    pair.port2.on_message(log.says("listener"));
    let (inner, deferred) = (log.clone(), log.clone());
    pair.port2.on_close(move |event| {
        inner.note("listener: close");
        let inner = inner.clone();
        assert!(event.defer(move |_| inner.note("deferred")));
    });
    noted(&mut event_loop, pair.port2, &deferred);
    post_numbers(&pair.port1, 0..1);
    drop(pair.port1);
    event_loop.run().expect("the loop waits");
    let end = ["listener: close", "close: PeerDropped", "deferred"];
    assert_eq!(log.take(), [&["listener", "0"][..], &end[..]].concat());
}

#[test]
fn what_moves_with_a_message_is_in_the_event() {
    let (pair, mut event_loop) = (channel(), new_loop());
    let files = Rc::new(Cell::new(0));
    let found = files.clone();
    let added = event_loop.add_with(pair.port2, move |_, _, event| {
        let LoopEvent::Message(message) = event else { return };
        found.set(found.get() + message.take_descriptors().expect("descriptors").len());
    });
    added.expect("room for a port");
    let file = File::open("/dev/null").expect("a file");
    pair.port1.post_text_with("a file", [file.into()]).expect("room");
    settle(&mut event_loop);
    assert_eq!(files.get(), 1);
}

/// Of each length, in the ring of a trusted peer as well.
#[test]
fn a_message_stays_as_it_is_whatever_comes_later() {
    for is_trusted in [false, true] {
        let (pair, mut event_loop) = (channel(), new_loop());
        if is_trusted {
            // SAFETY: both ends stay in this test.
            unsafe { pair.port2.trust_peer() };
        }
        let kept = Rc::new(RefCell::new(Vec::new()));
        let keep = kept.clone();
        let added = event_loop.add_with(pair.port2, move |_, _, event| {
            let LoopEvent::Message(message) = event else { return };
            keep.borrow_mut().push(message);
        });
        added.expect("room for a port");
        let lens = [0, 1, 100, 5_000, 100_000, 3 << 20];
        for len in lens {
            pair.port1.post_bytes(&vec![len as u8; len]).expect("room");
        }
        settle(&mut event_loop);
        for (message, len) in kept.borrow().iter().zip(lens) {
            assert!(message.bytes() == vec![len as u8; len], "{len} bytes");
        }
        assert_eq!(kept.borrow().len(), lens.len());
    }
}

// At once.

#[test]
fn a_handler_takes_its_own_port_and_moves_it_away_at_once() {
    let (pair, way, log) = (channel(), channel(), Log::new());
    let (mut event_loop, inner) = (new_loop(), log.clone());
    let carrier = way.port1;
    let added = event_loop.add_with(pair.port2, move |event_loop, id, event| {
        inner.note(words(&event));
        let port = event_loop.take(id).expect("itself");
        carrier.post_text_with("a port", [port.into()]).expect("room");
        inner.note("moved");
    });
    added.expect("room for a port");
    post_numbers(&pair.port1, 0..3);
    assert_eq!(event_loop.run().expect("no port is left"), RunEnd::NothingLeft);
    assert_eq!(log.take(), ["0", "moved"]);
    let moved = receive(&way.port2).take_port().expect("a port");
    assert!(!moved.is_started());
    assert_eq!([(); 2].map(|()| receive_text(&moved)), ["1", "2"]);
}

/// A post that fails gives the port back, which is added again with its handler.
#[test]
fn a_handler_whose_transfer_fails_adds_its_port_again() {
    let (pair, closed, log) = (channel(), channel(), Log::new());
    let (mut event_loop, inner) = (new_loop(), log.clone());
    closed.port1.close();
    let added = event_loop.add_with(pair.port2, move |event_loop, id, event| {
        inner.note(words(&event));
        let Some(port) = event_loop.take(id) else { return };
        let refused = closed.port1.post_text_with("a port", [port.into()]).expect_err("closed");
        let Some(messageport::Transferable::Port(port)) = refused.into_list().pop() else {
            panic_any("the port comes back");
        };
        assert_eq!(event_loop.add(port).expect("room for a port"), id);
    });
    added.expect("room for a port");
    post_numbers(&pair.port1, 0..3);
    settle(&mut event_loop);
    assert_eq!(log.take(), numbers(0..3));
}

#[test]
fn a_handler_adds_its_port_again_with_another_handler() {
    let (pair, log) = (channel(), Log::new());
    let (mut event_loop, inner) = (new_loop(), log.clone());
    let added = event_loop.add_with(pair.port2, move |event_loop, id, event| {
        inner.note(format!("first: {}", words(&event)));
        let port = event_loop.take(id).expect("itself");
        noted(event_loop, port, &inner);
    });
    added.expect("room for a port");
    post_numbers(&pair.port1, 0..3);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["first: 0", "1", "2"]);
}

/// It reads the rest by calls, which a port that delivers events refuses.
#[test]
fn a_port_that_is_taken_out_leaves_its_handler() {
    let (pair, log, mut event_loop) = (channel(), Log::new(), new_loop());
    let id = noted(&mut event_loop, pair.port2, &log);
    let port = event_loop.take(id).expect("the port");
    event_loop.add(port).expect("room for a port");
    post_numbers(&pair.port1, 0..1);
    settle(&mut event_loop);
    assert_eq!(log.take(), [""; 0]);
}

#[test]
fn a_handler_closes_its_own_port() {
    let (pair, log) = (channel(), Log::new());
    let (mut event_loop, inner) = (new_loop(), log.clone());
    let added = event_loop.add_with(pair.port2, move |event_loop, id, event| {
        inner.note(words(&event));
        event_loop.get(id).expect("itself").close();
    });
    added.expect("room for a port");
    post_numbers(&pair.port1, 0..3);
    assert_eq!(event_loop.run().expect("no port is left"), RunEnd::NothingLeft);
    assert_eq!(log.take(), numbers(0..3));
    assert_eq!(receive_end(&pair.port1), CloseReason::PeerClosed);
}

#[test]
fn a_handler_takes_a_port_that_has_ended() {
    let (pair, kept) = (channel(), Rc::new(RefCell::new(None)));
    let (mut event_loop, keep) = (new_loop(), kept.clone());
    let added = event_loop.add_with(pair.port2, move |event_loop, id, event| {
        if let LoopEvent::Close(_) = event {
            assert_eq!(event_loop.ids().count(), 0);
            *keep.borrow_mut() = event_loop.take(id);
        }
    });
    added.expect("room for a port");
    drop(pair.port1);
    event_loop.run().expect("no port is left");
    assert!(kept.borrow().as_ref().is_some_and(MessagePort::is_closed));
}

#[test]
fn a_handler_changes_other_ports_and_timers_at_once() {
    let (pair, other, log) = (channel(), channel(), Log::new());
    let (mut event_loop, inner) = (new_loop(), log.clone());
    let victim = noted(&mut event_loop, other.port2, &log);
    let added = event_loop.add_with(pair.port2, move |event_loop, _, event| {
        if let LoopEvent::Message(_) = event {
            assert!(event_loop.remove(victim));
            let inner = inner.clone();
            event_loop.add_timer(Duration::ZERO, move |_| inner.note("timer"));
        }
    });
    added.expect("room for a port");
    // Both are due in the same turn; the victim's turn comes first, and then never again.
    post_numbers(&other.port1, 0..1);
    post_numbers(&pair.port1, 0..1);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["0", "timer"]);
    assert_eq!(receive_end(&other.port1), CloseReason::PeerDropped);
}

#[test]
fn a_handler_that_runs_the_loop_gets_nothing_inside_itself() {
    let (pair, other, log) = (channel(), channel(), Log::new());
    let (mut event_loop, inner) = (new_loop(), log.clone());
    let added = event_loop.add_with(pair.port2, move |event_loop, _, event| {
        inner.note(format!("begin {}", words(&event)));
        settle(event_loop);
        inner.note("end");
    });
    added.expect("room for a port");
    noted(&mut event_loop, other.port2, &log);
    post_numbers(&pair.port1, 0..2);
    post_numbers(&other.port1, 7..8);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["begin 0", "7", "end", "begin 1", "end"]);
    // It is watched again.
    post_numbers(&pair.port1, 2..3);
    run_until(&mut event_loop, "the next message comes", || log.len() == 2);
    drop(pair.port1);
    run_until(&mut event_loop, "the end comes", || log.has("begin close: PeerDropped"));
}

/// The share of a port is over although its handler keeps it in the loop.
#[test]
fn a_port_with_a_handler_takes_turns_with_others() {
    let (flood, other, log) = (channel(), channel(), Log::new());
    let mut event_loop = new_loop();
    noted(&mut event_loop, flood.port2, &log);
    noted(&mut event_loop, other.port2, &log);
    post_numbers(&flood.port1, 0..1000);
    other.port1.post_text("help").expect("room");
    settle(&mut event_loop);
    let turns = log.take().iter().position(|word| word == "help").expect("it came");
    assert!(turns <= 128, "{turns} messages before it");
}

// Failures.

#[test]
fn a_handler_that_fails_is_reported_with_its_port_and_called_again() {
    let (pair, log) = (channel(), Log::new());
    let mut event_loop = new_loop();
    let (inner, failures) = (log.clone(), Rc::new(RefCell::new(Vec::new())));
    let seen = failures.clone();
    event_loop.on_listener_failure(move |_, of| seen.borrow_mut().push(of));
    let added = event_loop.add_with(pair.port2, move |_, _, event| match words(&event).as_str() {
        "0" => Err("an error"),
        "1" => panic_any("on purpose"),
        other => {
            inner.note(other);
            Ok(())
        }
    });
    let id = added.expect("room for a port");
    post_numbers(&pair.port1, 0..3);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["2"]);
    assert_eq!(*failures.borrow(), [Some(LoopItem::Port(id)); 2]);
}

#[test]
fn another_thread_gives_a_port_with_its_handler() {
    let (mut event_loop, pair) = (new_loop(), channel());
    let (says, said) = mpsc::channel();
    let (handle, port) = (event_loop.handle(), pair.port2);
    let other = thread::spawn(move || {
        handle.post(move |event_loop| {
            let mut count = 0;
            let added = event_loop.add_with(port, move |_, _, event| {
                count += 1;
                says.send((count, words(&event))).expect("there is a listener");
            });
            added.expect("room for a port");
        });
    });
    other.join().expect("no panic");
    post_numbers(&pair.port1, 0..1);
    drop(pair.port1);
    event_loop.run().expect("the loop waits");
    assert_eq!(hear(&said), (1, "0".to_owned()));
    assert_eq!(hear(&said), (2, "close: PeerDropped".to_owned()));
}

/// The handler of a worker's port and the process are two values, and the loop keeps the second one
/// where it likes.
#[test]
fn a_worker_in_a_loop_is_terminated_by_a_timer() {
    const TEST: &str = "owned::a_worker_in_a_loop_is_terminated_by_a_timer";
    fn hangs() {
        let port = parent_port().expect("a port to the parent");
        post_numbers(&port, 0..1);
        loop {
            thread::park();
        }
    }
    fn watches() {
        let worker = Worker::spawn(command(TEST, "hangs")).expect("a worker");
        let (port, process) = worker.split();
        let (mut event_loop, log) = (new_loop(), Log::new());
        let (inner, mut process) = (log.clone(), Some(process));
        let added = event_loop.add_with(port, move |event_loop, _, event| {
            inner.note(words(&event));
            let (Some(process), inner) = (process.take(), inner.clone()) else { return };
            event_loop.add_timer(Duration::from_millis(1), move |_| {
                let status = process.terminate().expect("a child");
                inner.note(format!("killed: {:?}", status.signal()));
            });
        });
        added.expect("room for a port");
        assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingLeft);
        assert_eq!(log.take(), ["0", "killed: Some(9)", "close: PeerDied"]);
    }
    play(TEST, &[("watches", watches), ("hangs", hangs)]);
}

/// A message for which there is no memory is an error, and the next one comes.
#[test]
fn a_message_without_memory_is_an_error_and_the_next_one_comes() {
    const TEST: &str = "owned::a_message_without_memory_is_an_error_and_the_next_one_comes";
    fn lacks() {
        let sizes = MessageChannel::builder().limit(256 << 20).build();
        let MessageChannel { port1, port2 } = sizes.expect("a channel");
        let (mut event_loop, log) = (new_loop(), Log::new());
        // SAFETY: both ends stay in this test.
        unsafe { port2.trust_peer() };
        let inner = log.clone();
        let added = event_loop.add_with(port2, move |_, _, event| match event {
            LoopEvent::Message(message) => inner.note(message.bytes().len().to_string()),
            other => inner.note(words(&other)),
        });
        added.expect("room for a port");
        port1.post_bytes(&vec![7; 80 << 20]).expect("room");
        port1.post_bytes(&[7]).expect("room");
        limits::allow_more_address_space(8 << 20);
        settle(&mut event_loop);
        limits::allow_all_address_space();
        assert_eq!(log.take(), ["error", "1"]);
    }
    play(TEST, &[("lacks", lacks)]);
}

// Identity.

#[test]
fn a_port_keeps_its_id_in_loops_sets_types_and_halves() {
    let (pair, other) = (channel(), channel());
    let (id, same_pair) = (pair.port1.id(), pair.port2.id());
    assert!(id != same_pair && id != other.port1.id() && same_pair < other.port1.id());
    let (mut event_loop, mut port) = (new_loop(), pair.port1);
    for _ in 0..2 {
        assert_eq!(event_loop.add(port).expect("room for a port"), id);
        let taken = event_loop.take(id).expect("the port");
        let mut set = PortSet::new().expect("a set");
        assert_eq!(set.add(taken).expect("room for a port"), id);
        port = set.remove(id).expect("the port");
    }
    let port = port.typed::<u32, u32>().into_inner();
    let (sender, receiver) = port.split();
    let port = MessagePort::join(sender, receiver).expect("they belong together");
    assert_eq!(port.id(), id);
    let failed = pair.port2.post_text_with("itself", [port.into()]).expect_err("its own peer");
    let Some(messageport::Transferable::Port(port)) = failed.into_list().pop() else {
        panic!("the port comes back");
    };
    assert_eq!(port.id(), id);
    other.port1.post_text_with("a port", [port.into()]).expect("room");
    let arrived = receive(&other.port2).take_port().expect("a port");
    assert!(arrived.id() > id, "a port that arrives is another one");
}

/// Two loops know the same port by the same id, one after the other.
#[test]
fn events_of_a_port_that_is_added_again_come_once() {
    let (pair, log, mut event_loop) = (channel(), Log::new(), new_loop());
    pair.port2.on_message(log.text());
    let id = event_loop.add(pair.port2).expect("room for a port");
    for number in 0..10 {
        post_numbers(&pair.port1, number..number + 1);
        let port = event_loop.take(id).expect("the port");
        assert_eq!(event_loop.add(port).expect("room for a port"), id);
    }
    settle(&mut event_loop);
    assert_eq!(log.take(), numbers(0..10));
    drop(pair.port1);
    assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingLeft);
}

/// The end of a peer of other types is two events: the first says why, and a handler may take the
/// port away for it.
#[test]
fn a_port_that_is_taken_at_an_error_has_its_close_elsewhere() {
    let (pair, log, mut first) = (channel(), Log::new(), new_loop());
    let (taken, noted_here) = (Rc::new(RefCell::new(None)), log.clone());
    let kept = taken.clone();
    let added = first.add_with(pair.port2.typed::<u32, ()>(), move |event_loop, id, event| {
        noted_here.note(words(&event));
        *kept.borrow_mut() = event_loop.take(id);
    });
    added.expect("room for a port");
    drop(pair.port1.typed::<(), String>());
    assert_eq!(first.run().expect("the loop waits"), RunEnd::NothingLeft);
    assert_eq!(log.take(), ["error"]);
    let port = taken.take().expect("the handler took it");
    let mut second = new_loop();
    noted(&mut second, port, &log);
    assert_eq!(second.run().expect("the loop waits"), RunEnd::NothingLeft);
    assert_eq!(log.take(), ["close: PeerDropped"], "and no second error");
}

/// The handler belongs to the loop: a call of the program's own takes nothing away from it.
#[test]
fn dispatch_leaves_the_messages_of_a_handler_to_its_loop() {
    let (pair, log, mut event_loop) = (channel(), Log::new(), new_loop());
    let id = noted(&mut event_loop, pair.port2, &log);
    post_numbers(&pair.port1, 0..2);
    assert_eq!(event_loop.get(id).expect("it is there").dispatch(8).expect("it is open"), 0);
    assert_eq!(log.take(), [""; 0]);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["0", "1"]);

    // Without the loop, and in a loop without a handler, there is nothing to leave them to.
    post_numbers(&pair.port1, 2..4);
    let port = event_loop.take(id).expect("it is there");
    assert_eq!(port.dispatch(1).expect("it is open"), 1);
    let id = event_loop.add(port).expect("room for a port");
    assert_eq!(event_loop.get(id).expect("it is there").dispatch(1).expect("it is open"), 1);

    // A handler that adds its port again keeps it.
    let port = event_loop.take(id).expect("it is there");
    let noted_here = log.clone();
    let added = event_loop.add_with(port, move |event_loop, id, event| {
        noted_here.note(words(&event));
        let port = event_loop.take(id).expect("it is there");
        event_loop.add(port).expect("room for a port");
    });
    let id = added.expect("room for a port");
    post_numbers(&pair.port1, 4..5);
    settle(&mut event_loop);
    post_numbers(&pair.port1, 5..6);
    assert_eq!(event_loop.get(id).expect("it is there").dispatch(8).expect("it is open"), 0);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["4", "5"]);
}
