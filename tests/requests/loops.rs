//! Requests and replies in an event loop.

use crate::common::watchdog::watch;
use crate::common::{DEADLINE, wait_until};
use crate::{Answer, answer, bounded, expected, pair, pair_of, question};
use messageport::{CallError, CloseReason, EventLoop, MessageChannel, Reply};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

type Outcomes = Arc<Mutex<Vec<(u64, Result<Answer, CallError>)>>>;

/// A callback that notes the outcome.
fn note(
    outcomes: &Outcomes,
    number: u64,
) -> impl FnOnce(Result<Reply<Answer>, CallError>) + Send + 'static {
    let outcomes = outcomes.clone();
    move |outcome| {
        let outcome = outcome.map(|reply| reply.deserialize().expect("an answer"));
        outcomes.lock().expect("no panic").push((number, outcome));
    }
}

/// Runs the loop until there are as many outcomes.
fn run_until(event_loop: &mut EventLoop, outcomes: &Outcomes, count: usize) {
    wait_until("calls have ended", || {
        event_loop.poll_once(Duration::from_millis(20)).expect("a loop");
        outcomes.lock().expect("no panic").len() >= count
    });
    assert_eq!(outcomes.lock().expect("no panic").len(), count);
}

#[test]
fn a_loop_answers_and_another_one_calls_back() {
    let _watch = watch("a_loop_answers_and_another_one_calls_back");
    let (requester, responder) = pair();
    let server = thread::spawn(move || {
        let mut event_loop = EventLoop::new().expect("a loop");
        let mut held = Vec::new();
        let added = event_loop.add_responder(responder, move |_, request| {
            // Every third one is answered with the next one.
            if request.data().number.to_native() % 3 == 0 {
                held.push(request.into_owned().expect("memory"));
                return;
            }
            request.reply(&answer(request.data())).expect("room");
            for request in held.drain(..) {
                request.reply(&answer(request.data())).expect("room");
            }
        });
        added.expect("descriptors");
        // It ends with its only responder.
        event_loop.run().expect("a loop");
    });
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add_requester(&requester).expect("descriptors");
    let outcomes = Outcomes::default();
    for number in 0..500 {
        requester.start_then(&question(number), None, note(&outcomes, number)).expect("room");
    }
    run_until(&mut event_loop, &outcomes, 500);
    // A loop that has nothing to do is idle.
    event_loop.run_until_idle().expect("a loop");
    for (number, outcome) in outcomes.lock().expect("no panic").drain(..) {
        assert_eq!(outcome.expect("a reply"), expected(number));
    }
    // Blocking calls work beside it, while the loop runs and while it does not.
    assert_eq!(requester.call(&question(1)).expect("a reply"), expected(1));
    let caller = thread::spawn({
        let requester = requester.clone();
        move || (0..50).map(|_| requester.call(&question(7)).expect("a reply")).collect::<Vec<_>>()
    });
    requester.start_then(&question(2), None, note(&outcomes, 2)).expect("room");
    run_until(&mut event_loop, &outcomes, 1);
    assert!(caller.join().expect("no panic").iter().all(|reply| *reply == expected(7)));
    drop(requester);
    // The last handle is gone, so this loop has nothing to serve.
    event_loop.run().expect("a loop");
    server.join().expect("no panic");
}

#[test]
fn a_loop_ends_calls_whose_time_is_up() {
    let _watch = watch("a_loop_ends_calls_whose_time_is_up");
    let (requester, responder) = pair();
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add_requester(&requester).expect("descriptors");
    let outcomes = Outcomes::default();
    for (number, timeout) in [(1, 30), (2, 10), (3, 20)] {
        let timeout = Some(Duration::from_millis(timeout));
        requester.start_then(&question(number), timeout, note(&outcomes, number)).expect("room");
    }
    requester.start_then(&question(4), Some(DEADLINE), note(&outcomes, 4)).expect("room");
    run_until(&mut event_loop, &outcomes, 3);
    let order: Vec<_> = outcomes.lock().expect("no panic").drain(..).collect();
    assert!(order.iter().all(|(_, outcome)| matches!(outcome, Err(CallError::Timeout))));
    assert_eq!(order.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 3, 1]);
    // The responder was told of each.
    assert_eq!(responder.recv().expect("a request").data().number, 4);
    assert!(responder.try_recv().expect("an open port").is_none());
    run_until(&mut event_loop, &outcomes, 1);
    assert!(matches!(outcomes.lock().expect("no panic")[0].1, Err(CallError::Unanswered)));
}

#[test]
fn the_end_of_the_peer_is_the_outcome_of_each_callback() {
    let _watch = watch("the_end_of_the_peer_is_the_outcome_of_each_callback");
    let (requester, responder) = pair();
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add_requester(&requester).expect("descriptors");
    let outcomes = Outcomes::default();
    for number in 0..200 {
        requester.start_then(&question(number), None, note(&outcomes, number)).expect("room");
    }
    drop(responder);
    event_loop.run().expect("it returns, as the requester has ended");
    let outcomes = outcomes.lock().expect("no panic");
    assert_eq!(outcomes.len(), 200);
    for (_, outcome) in &*outcomes {
        let reason = CloseReason::PeerDropped;
        assert!(
            matches!(outcome, Err(CallError::Closed { reason: found, .. }) if *found == reason)
        );
    }
}

#[test]
fn a_callback_that_panics_starves_no_other() {
    let _watch = watch("a_callback_that_panics_starves_no_other");
    let (requester, responder) = pair();
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add_requester(&requester).expect("descriptors");
    event_loop.on_listener_failure(|_, _| {});
    let outcomes = Outcomes::default();
    requester.start_then(&question(0), None, |_| panic!("on purpose")).expect("room");
    requester.start_then(&question(1), None, note(&outcomes, 1)).expect("room");
    drop(responder);
    run_until(&mut event_loop, &outcomes, 1);
}

#[test]
fn a_handler_that_panics_starves_no_request() {
    let _watch = watch("a_handler_that_panics_starves_no_request");
    let (requester, responder) = pair();
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.on_listener_failure(|_, _| {});
    let added = event_loop.add_responder(responder, |_, request| {
        assert_ne!(request.data().number, 0, "on purpose");
        request.reply(&answer(request.data())).expect("room");
    });
    added.expect("descriptors");
    let calls = [0, 1].map(|number| requester.start(&question(number)).expect("room"));
    let [first, mut second] = calls;
    wait_until("the second call has its reply", || {
        event_loop.poll_once(Duration::from_millis(20)).expect("a loop");
        match std::mem::replace(&mut second, requester.start(&question(2)).expect("room"))
            .try_wait()
        {
            Ok(outcome) => {
                outcome.expect("a reply");
                true
            }
            Err(call) => {
                second = call;
                false
            }
        }
    });
    assert!(matches!(first.wait(), Err(CallError::Unanswered)));
}

#[test]
fn a_loop_serves_others_while_requests_come_without_end() {
    let _watch = watch("a_loop_serves_others_while_requests_come_without_end");
    let (busy, flooded) = pair();
    let (requester, responder) = pair();
    let mut event_loop = EventLoop::new().expect("a loop");
    let count = Rc::new(RefCell::new(0));
    let counted = count.clone();
    let added = event_loop.add_responder(flooded, move |_, request| {
        // A request that has its answer has the next one follow.
        busy.start(&question(1)).map(std::mem::forget).expect("room");
        if *counted.borrow() == 0 {
            busy.start(&question(1)).map(std::mem::forget).expect("room");
        }
        *counted.borrow_mut() += 1;
        drop(request);
    });
    added.expect("descriptors");
    let added = event_loop.add_responder(responder, |_, request| {
        request.reply(&answer(request.data())).expect("room");
    });
    added.expect("descriptors");
    let mut call = requester.start(&question(3)).expect("room");
    wait_until("the other responder is served", || {
        event_loop.poll_once(Duration::ZERO).expect("a loop");
        match std::mem::replace(&mut call, requester.start(&question(4)).expect("room")).try_wait()
        {
            Ok(outcome) => {
                assert_eq!(outcome.expect("a reply").deserialize().expect("valid"), expected(3));
                true
            }
            Err(back) => {
                call = back;
                false
            }
        }
    });
}

#[test]
fn a_loop_goes_on_when_fewer_requests_are_open() {
    let _watch = watch("a_loop_goes_on_when_fewer_requests_are_open");
    let (requester, responder) = pair();
    responder.set_limit(1);
    let held = Rc::new(RefCell::new(Vec::new()));
    let keep = held.clone();
    let mut event_loop = EventLoop::new().expect("a loop");
    let added = event_loop.add_responder(responder, move |_, request| {
        keep.borrow_mut().push(request.into_owned().expect("memory"));
    });
    added.expect("descriptors");
    let calls = [1, 2, 3].map(|number| requester.start(&question(number)).expect("room"));
    for (number, call) in [1, 2, 3].into_iter().zip(calls) {
        wait_until("a request is handled", || {
            event_loop.poll_once(Duration::from_millis(20)).expect("a loop");
            !held.borrow().is_empty()
        });
        event_loop.run_until_idle().expect("a loop");
        assert_eq!(held.borrow().len(), 1);
        let request = held.borrow_mut().pop().expect("one");
        assert_eq!(request.data().number, number);
        let helper = thread::spawn(move || request.reply(&answer(request.data())).expect("room"));
        helper.join().expect("no panic");
        assert_eq!(call.wait().expect("a reply").deserialize().expect("valid"), expected(number));
    }
}

#[test]
fn a_loop_posts_what_it_owes_when_there_is_room() {
    let _watch = watch("a_loop_posts_what_it_owes_when_there_is_room");
    let (requester, responder) = pair_of(bounded());
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add_responder(responder, |_, request| drop(request)).expect("descriptors");
    let mut calls = Vec::new();
    // More than fit the lane of the replies.
    while calls.len() < 300 {
        if let Ok(call) = requester.start(&question(0)) {
            calls.push(call);
        }
        event_loop.poll_once(Duration::ZERO).expect("a loop");
    }
    let caller = thread::spawn(move || {
        for call in calls {
            assert!(matches!(call.wait(), Err(CallError::Unanswered)));
        }
    });
    wait_until("all calls have ended", || {
        event_loop.poll_once(Duration::from_millis(20)).expect("a loop");
        caller.is_finished()
    });
    caller.join().expect("no panic");
}

#[test]
fn transferables_go_through_a_loop() {
    let (requester, responder) = pair();
    let mut event_loop = EventLoop::new().expect("a loop");
    let added = event_loop.add_responder(responder, |_, request| {
        let file = request.take_descriptor().expect("a descriptor");
        request.reply_with(&answer(request.data()), [file.into()]).expect("room");
    });
    added.expect("descriptors");
    event_loop.add_requester(&requester).expect("descriptors");
    let taken = Arc::new(Mutex::new(None));
    let take = taken.clone();
    let list = [File::open("/dev/null").expect("a file").into()];
    let posted = requester.start_with_then(&question(1), list, None, move |reply| {
        *take.lock().expect("no panic") = Some(reply.expect("a reply").take_descriptor());
    });
    posted.expect("room");
    wait_until("the reply came", || {
        event_loop.poll_once(Duration::from_millis(20)).expect("a loop");
        taken.lock().expect("no panic").is_some()
    });
    assert!(matches!(taken.lock().expect("no panic").take(), Some(Ok(_))));
}

/// A handler may run the loop. What made it readable is still there meanwhile, and no event.
#[test]
fn a_handler_that_runs_the_loop_comes_to_an_end() {
    let _watch = watch("a_handler_that_runs_the_loop_comes_to_an_end");
    let (requester, responder) = pair();
    let mut event_loop = EventLoop::new().expect("a loop");
    let (turns, counted) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (seen, inner) = (turns.clone(), counted.clone());
    let added = event_loop.add_responder(responder, move |event_loop, request| {
        let inner = inner.clone();
        event_loop.add_timer(Duration::ZERO, move |_| inner.set(inner.get() + 1));
        event_loop.run_until_idle().expect("a loop");
        seen.set(seen.get() + 1);
        request.reply(&answer(request.data())).expect("room");
    });
    added.expect("descriptors");
    event_loop.add_requester(&requester).expect("descriptors");
    let outcomes = Outcomes::default();
    for round in 0..3u64 {
        for number in [2 * round, 2 * round + 1] {
            let note = note(&outcomes, number);
            requester.start_then(&question(number), None, note).expect("room");
        }
        run_until(&mut event_loop, &outcomes, 2 * (round as usize + 1));
    }
    assert_eq!((turns.get(), counted.get()), (6, 6));
}

/// The doorbell of a responder that is full rings on.
#[test]
fn a_loop_sleeps_while_a_responder_is_full() {
    let _watch = watch("a_loop_sleeps_while_a_responder_is_full");
    let (requester, responder) = pair();
    responder.set_limit(1);
    let held = Rc::new(RefCell::new(Vec::new()));
    let keep = held.clone();
    let mut event_loop = EventLoop::new().expect("a loop");
    let added = event_loop.add_responder(responder, move |_, request| {
        keep.borrow_mut().push(request.into_owned().expect("memory"));
    });
    added.expect("descriptors");
    event_loop.run_until_idle().expect("a loop");
    let call = requester.start(&question(1)).expect("room");
    let turns = |event_loop: &mut EventLoop| {
        let (start, mut turns) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(300) {
            event_loop.poll_once(Duration::from_millis(100)).expect("a loop");
            turns += 1;
        }
        turns
    };
    let counted = turns(&mut event_loop);
    assert_eq!(held.borrow().len(), 1);
    assert!(counted < 30, "{counted} turns in 0.3 s");
    // Once it is answered, the loop hears of what comes next.
    let request = held.borrow_mut().pop().expect("one");
    request.reply(&answer(request.data())).expect("room");
    drop(request);
    assert_eq!(call.wait().expect("a reply").deserialize().expect("valid"), expected(1));
    assert!(turns(&mut event_loop) < 30);
    let _call = requester.start(&question(2)).expect("room");
    wait_until("the next request is handled", || {
        event_loop.poll_once(Duration::from_millis(20)).expect("a loop");
        !held.borrow().is_empty()
    });
}

/// A long request is a whole share, and a very long one comes in parts. The same for replies.
#[test]
fn long_requests_and_replies_take_a_share() {
    let _watch = watch("long_requests_and_replies_take_a_share");
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let requester = port1.requester::<Vec<u8>, Vec<u8>>();
    let mut event_loop = EventLoop::new().expect("a loop");
    let handled = Rc::new(RefCell::new(Vec::new()));
    let handle = handled.clone();
    let added =
        event_loop.add_responder::<Vec<u8>, Vec<u8>>(port2.responder(), move |_, request| {
            handle.borrow_mut().push(request.data().len());
            request.reply(&request.data().to_vec()).expect("room");
        });
    added.expect("descriptors");
    let mut others = EventLoop::new().expect("a loop");
    others.add_requester(&requester).expect("descriptors");
    let replies = Arc::new(Mutex::new(Vec::new()));
    for looped in [&mut event_loop, &mut others] {
        looped.run_until_idle().expect("a loop");
    }
    let lengths: Vec<usize> = [vec![1 << 20; 10], vec![8 << 20, 1 << 20]].concat();
    for len in lengths.iter().copied() {
        let note = replies.clone();
        let posted = requester.start_then(&vec![7; len], None, move |reply| {
            let reply = reply.expect("a reply").deserialize().expect("bytes");
            assert!(reply.iter().all(|byte| *byte == 7));
            note.lock().expect("no panic").push(reply.len());
        });
        posted.expect("room");
    }
    let count = || replies.lock().expect("no panic").len();
    let run = |looped: &mut EventLoop, count: &dyn Fn() -> usize| {
        let mut turns = 0;
        while count() < lengths.len() {
            let before = count();
            looped.poll_once(Duration::from_millis(20)).expect("a loop");
            // Its doorbell, its bell and its alarm can each have the loop serve it.
            assert!(count() <= before + 3, "{} in one turn", count() - before);
            turns += 1;
        }
        turns
    };
    let turns = run(&mut event_loop, &|| handled.borrow().len());
    assert!(turns > 20, "a long request in {turns} turns");
    let turns = run(&mut others, &count);
    assert!(turns > 20, "a long reply in {turns} turns");
    assert_eq!(*handled.borrow(), lengths);
    assert_eq!(*replies.lock().expect("no panic"), lengths);
}
