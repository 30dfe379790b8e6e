//! Timers of the loop. What is asserted is their order and their number, and that none comes before
//! its time; never how late one is.

use crate::common::watchdog::watch;
use crate::common::{DEADLINE, wait_until};
use crate::{Log, channel, hear, loop_of, new_loop, numbers, post_numbers, run_until, settle};
use messageport::{Event, EventLoop, LoopItem, RunEnd, TimerId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::cell::Cell;
use std::os::fd::AsFd;
use std::panic::panic_any;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
const NEVER: Duration = Duration::MAX;

fn note(log: &Log, word: &'static str) -> impl FnMut(&mut EventLoop) + 'static {
    let log = log.clone();
    move |_| log.note(word)
}

#[test]
fn timers_run_in_the_order_of_their_times_and_not_before() {
    let (mut event_loop, log, begin) = (new_loop(), Log::new(), Instant::now());
    event_loop.add_timer(20 * MS, note(&log, "last"));
    for word in ["first", "second"] {
        event_loop.add_timer(5 * MS, note(&log, word));
    }
    event_loop.add_timer(Duration::ZERO, note(&log, "at once"));
    assert_eq!(log.take(), [""; 0], "none runs inside `add_timer`");
    assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingLeft);
    assert!(begin.elapsed() >= 20 * MS, "{:?}", begin.elapsed());
    assert_eq!(log.take(), ["at once", "first", "second", "last"]);
}

#[test]
fn a_removed_timer_does_not_run() {
    let (mut event_loop, log) = (new_loop(), Log::new());
    let early = event_loop.add_timer(Duration::ZERO, note(&log, "early"));
    let (late, again) =
        (event_loop.add_timer(NEVER, |_| {}), event_loop.add_interval(NEVER, |_| {}));
    assert!(event_loop.remove_timer(early) && !event_loop.remove_timer(early));
    settle(&mut event_loop);
    for id in [late, again] {
        assert!(event_loop.remove_timer(id) && !event_loop.remove_timer(id));
    }
    assert_eq!(event_loop.run().expect("nothing to wait for"), RunEnd::NothingLeft);
    assert_eq!(log.take(), [""; 0]);
    let id = event_loop.add_timer(Duration::ZERO, note(&log, "runs"));
    settle(&mut event_loop);
    assert!(!event_loop.remove_timer(id), "it has run");
    assert!(id != early && id != late && id != again);
}

/// Of two timers that are due together, the first removes the second.
#[test]
fn a_timer_that_is_removed_by_another_one_of_its_turn_does_not_run() {
    let (mut event_loop, log) = (new_loop(), Log::new());
    let second = Rc::new(Cell::new(None));
    let removed = second.clone();
    event_loop.add_timer(Duration::ZERO, move |event_loop| {
        assert!(event_loop.remove_timer(removed.get().expect("it was added")));
    });
    second.set(Some(event_loop.add_timer(Duration::ZERO, note(&log, "removed"))));
    settle(&mut event_loop);
    assert_eq!(log.take(), [""; 0]);
}

#[test]
fn what_a_timer_owns_is_dropped_when_it_is_removed_or_has_run() {
    let (mut event_loop, kept) = (new_loop(), Rc::new(()));
    let add = |event_loop: &mut EventLoop| {
        let owned = kept.clone();
        event_loop.add_timer(Duration::ZERO, move |_| drop(owned))
    };
    let removed = add(&mut event_loop);
    add(&mut event_loop);
    event_loop.remove_timer(removed);
    assert_eq!(Rc::strong_count(&kept), 2);
    settle(&mut event_loop);
    assert_eq!(Rc::strong_count(&kept), 1);
}

/// A timer that adds another one, due at once, does not keep the ports from their turn.
#[test]
fn timers_that_add_timers_do_not_starve_ports() {
    fn again(event_loop: &mut EventLoop) {
        event_loop.add_timer(Duration::ZERO, again);
    }
    let (pair, log) = (channel(), Log::new());
    pair.port2.on_message(log.text());
    let (mut event_loop, _) = loop_of(pair.port2);
    again(&mut event_loop);
    post_numbers(&pair.port1, 0..2);
    run_until(&mut event_loop, "the messages come", || log.len() == 2);
    assert_eq!(log.take(), numbers(0..2));
}

#[test]
fn an_interval_runs_again_and_again_until_it_is_removed_by_itself() {
    let (mut event_loop, log, begin) = (new_loop(), Log::new(), Instant::now());
    let own: Rc<Cell<Option<TimerId>>> = Rc::default();
    let (id, inner) = (own.clone(), log.clone());
    let mut rounds = 0;
    own.set(Some(event_loop.add_interval(2 * MS, move |event_loop| {
        inner.note(rounds.to_string());
        rounds += 1;
        if rounds == 5 {
            assert!(event_loop.remove_timer(id.get().expect("it was added")));
        }
    })));
    assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingLeft);
    assert_eq!(log.take(), numbers(0..5));
    assert!(begin.elapsed() >= 10 * MS, "{:?}", begin.elapsed());
}

/// Ten periods are over when the loop gets to it, and it runs once for all of them.
#[test]
fn an_interval_that_falls_behind_skips_what_it_missed() {
    let (mut event_loop, log) = (new_loop(), Log::new());
    let period = Duration::from_secs(1000);
    event_loop.add_interval(MS, note(&log, "short"));
    event_loop.add_interval(period, note(&log, "long"));
    thread::sleep(10 * MS);
    event_loop.poll_once(Duration::ZERO).expect("the loop waits");
    assert_eq!(log.take(), ["short"]);
}

#[test]
fn a_period_of_zero_is_one_of_a_millisecond() {
    let (mut event_loop, log, begin) = (new_loop(), Log::new(), Instant::now());
    event_loop.add_interval(Duration::ZERO, note(&log, "again"));
    run_until(&mut event_loop, "it runs three times", || log.len() >= 3);
    assert!(begin.elapsed() >= 3 * MS, "{:?}", begin.elapsed());
}

/// The call of an interval runs the loop; the next one comes when this one is done.
#[test]
fn an_interval_that_runs_the_loop_is_not_called_inside_itself() {
    let (mut event_loop, log) = (new_loop(), Log::new());
    let (inner, is_inside) = (log.clone(), Rc::new(Cell::new(false)));
    event_loop.add_interval(MS, move |event_loop| {
        assert!(!is_inside.replace(true));
        thread::sleep(3 * MS);
        settle(event_loop);
        is_inside.set(false);
        inner.note("done");
    });
    run_until(&mut event_loop, "it runs twice", || log.len() >= 2);
}

#[test]
fn a_panic_in_a_timer_is_reported_and_an_interval_goes_on() {
    let (mut event_loop, log) = (new_loop(), Log::new());
    let inner = log.clone();
    event_loop.on_listener_failure(move |_, of| inner.note(format!("{of:?}")));
    let once = event_loop.add_timer(Duration::ZERO, |_| panic_any("once"));
    settle(&mut event_loop);
    assert_eq!(log.take(), [format!("{:?}", Some(LoopItem::Timer(once)))]);
    let again = event_loop.add_interval(MS, |_| panic_any("again"));
    run_until(&mut event_loop, "it panics twice", || log.len() >= 2);
    assert_eq!(log.take()[..2], [(); 2].map(|()| format!("{:?}", Some(LoopItem::Timer(again)))));
}

// From elsewhere.

#[test]
fn another_thread_adds_a_timer_and_removes_it() {
    let (pair, log) = (channel(), Log::new());
    let (mut event_loop, port) = loop_of(pair.port2);
    let (handle, inner) = (event_loop.handle(), log.clone());
    let other = thread::spawn(move || {
        let (says, ids) = mpsc::channel();
        handle.post(move |event_loop| {
            event_loop.add_timer(Duration::ZERO, move |_| inner.note("ran"));
            says.send(event_loop.add_timer(NEVER, |_| {})).expect("there is a listener");
        });
        let id = hear(&ids);
        handle.post(move |event_loop| {
            assert!(event_loop.remove_timer(id));
            assert!(event_loop.remove(port));
        });
    });
    assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingLeft);
    other.join().expect("no panic");
    wait_until("it ran", || log.has("ran"));
}

/// The time is up when no answer has come; the answer removes the timer.
#[test]
fn a_handler_adds_a_timer_and_another_one_removes_it() {
    let (pair, log) = (channel(), Log::new());
    let inner = log.clone();
    let id: Rc<Cell<Option<TimerId>>> = Rc::default();
    let (mut event_loop, _) = loop_of(pair.port2);
    let port = event_loop.ids().next().expect("a port");
    event_loop.get(port).expect("the port").on_message(move |event: &Event<'_>| {
        inner.note(crate::text_of(event));
        event.defer(|event_loop| {
            event_loop.add_timer(Duration::ZERO, |event_loop| {
                let port = event_loop.ids().next().expect("a port");
                event_loop.get(port).expect("it").post_text("time").expect("room");
            });
        });
    });
    id.set(Some(event_loop.add_timer(NEVER, |_| {})));
    post_numbers(&pair.port1, 0..1);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["0"]);
    assert_eq!(crate::common::receive_text(&pair.port1), "time");
    assert!(event_loop.remove_timer(id.get().expect("it was added")));
    drop(pair.port1);
    assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingLeft);
}

// Waits.

#[test]
fn a_turn_waits_no_longer_than_for_the_next_timer() {
    let (mut event_loop, log) = (new_loop(), Log::new());
    event_loop.add_timer(2 * MS, note(&log, "ran"));
    assert!(event_loop.poll_once(DEADLINE).expect("the loop waits"));
    assert_eq!(log.take(), ["ran"]);
    assert!(!event_loop.poll_once(DEADLINE).expect("nothing to wait for"));
}

#[test]
fn a_timer_that_never_comes_keeps_run_going_until_it_is_stopped() {
    let mut event_loop = new_loop();
    event_loop.add_timer(NEVER, |_| unreachable!("it never comes"));
    assert!(!event_loop.poll_once(2 * MS).expect("the loop waits"));
    let handle = event_loop.handle();
    event_loop.add_timer(2 * MS, move |_| handle.stop());
    assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::Stopped);
}

fn wait_until_readable(event_loop: &EventLoop) {
    let timeout = PollTimeout::try_from(DEADLINE).expect("a short time");
    let count = poll(&mut [PollFd::new(event_loop.as_fd(), PollFlags::POLLIN)], timeout);
    assert_eq!(count.expect("the kernel waits"), 1, "no timer woke the outer loop");
}

/// Whether it is added before or after the outer loop watches the descriptor.
#[test]
fn a_timer_wakes_an_outer_loop() {
    let (mut event_loop, log) = (new_loop(), Log::new());
    event_loop.add_timer(2 * MS, note(&log, "one"));
    let serve = |event_loop: &mut EventLoop, count| {
        wait_until("the timer has run", || {
            wait_until_readable(event_loop);
            settle(event_loop);
            log.len() == count
        });
    };
    serve(&mut event_loop, 1);
    // A later time does not replace an earlier one, and an earlier one does.
    event_loop.add_timer(50 * MS, note(&log, "three"));
    settle(&mut event_loop);
    event_loop.add_timer(2 * MS, note(&log, "two"));
    serve(&mut event_loop, 3);
    assert_eq!(log.take(), ["one", "two", "three"]);
    settle(&mut event_loop);
    let is_quiet = || {
        let mut fds = [PollFd::new(event_loop.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).expect("the kernel looks") == 0
    };
    assert!(is_quiet(), "nothing is left");
}

/// Its period is over before its turn is: it would always be due.
#[test]
fn a_timer_that_repeats_faster_than_its_turn_keeps_no_loop_from_being_idle() {
    let (mut event_loop, count) = (new_loop(), Rc::new(Cell::new(0)));
    let (counted, handle) = (count.clone(), event_loop.handle());
    event_loop.add_interval(MS, move |event_loop| {
        counted.set(counted.get() + 1);
        // What it does for others is done before the loop is idle.
        let later = counted.clone();
        event_loop.add_timer(Duration::ZERO, move |_| later.set(later.get() + 100));
        thread::sleep(3 * MS);
        if counted.get() > 1000 {
            handle.stop();
        }
    });
    thread::sleep(2 * MS);
    settle(&mut event_loop);
    assert_eq!(count.get(), 101, "one call, and the timer that it has added");
}

/// A turn inside of its own call has nothing to run.
#[test]
fn a_timer_that_is_being_called_is_no_event() {
    let (mut event_loop, log) = (new_loop(), Log::new());
    let noted = log.clone();
    event_loop.add_interval(MS, move |event_loop| {
        thread::sleep(3 * MS);
        noted.note(format!("inside: {}", event_loop.poll_once(Duration::ZERO).expect("a turn")));
        thread::sleep(3 * MS);
        settle(event_loop);
        noted.note("idle");
    });
    thread::sleep(2 * MS);
    assert!(event_loop.poll_once(Duration::ZERO).expect("a turn"));
    assert_eq!(log.take(), ["inside: false", "idle"]);
}

/// A timer that adds the next one without delay, forever: `run_until_idle` returns, and other work
/// of the loop is done meanwhile.
#[test]
fn a_chain_of_timers_without_end_does_not_keep_the_loop_busy() {
    let _watch = watch("a_chain_of_timers_without_end_does_not_keep_the_loop_busy");
    fn next(event_loop: &mut EventLoop, count: Rc<Cell<u64>>) {
        event_loop.add_timer(Duration::ZERO, move |event_loop| {
            count.set(count.get() + 1);
            next(event_loop, count);
        });
    }
    let (mut event_loop, count) = (new_loop(), Rc::new(Cell::new(0)));
    next(&mut event_loop, count.clone());
    let was_done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let done = was_done.clone();
    event_loop.handle().post(move |_| done.store(true, std::sync::atomic::Ordering::SeqCst));
    settle(&mut event_loop);
    assert!(was_done.load(std::sync::atomic::Ordering::SeqCst));
    let first = count.get();
    assert!(first >= 1000, "{first}");
    settle(&mut event_loop);
    assert!(count.get() >= first + 1000, "it goes on with the next call");
}
