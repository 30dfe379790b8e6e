//! Members that are full, slow, closed from inside, short of descriptors, or nested in loops.

use crate::common::role::play;
use crate::common::watchdog::watch;
use crate::common::{wait_until, wait_until_asleep};
use crate::{Name, nothing, text, wait_for_others};
use messageport::{BroadcastChannel, BroadcastError, Event, EventLoop, ListenerOptions, PostError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::gettid;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

fn is_readable(member: &BroadcastChannel) -> bool {
    let mut fds = [PollFd::new(member.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).expect("a poll") > 0
}

/// Looks until the descriptor says that there is nothing to look for. The last word and the hang-up
/// of a member that leaves may come one after the other.
fn wait_until_quiet(member: &BroadcastChannel) {
    wait_until("there is nothing to look for", || {
        nothing(member);
        !is_readable(member)
    });
}

#[test]
fn a_full_member_misses_what_finds_no_room_and_the_others_do_not() {
    let name = Name::new();
    let one = name.open();
    let small = BroadcastChannel::builder().capacity(4096).bounded();
    let slow = BroadcastChannel::open_with(&name.text, small).expect("a membership");
    let quick = name.open();
    let mut count = 0u8;
    let (missed, posted, first) = loop {
        match one.post_bytes(&[count; 1000]) {
            Ok(()) => count += 1,
            Err(BroadcastError::Missed { missed, posted, first }) => break (missed, posted, first),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((missed, posted), (1, 1));
    assert!(matches!(*first, PostError::QueueFull { .. }), "{first}");
    assert!(count >= 3, "there was some room: {count}");
    let all = |member: &BroadcastChannel| -> Vec<u8> {
        let next = || member.try_recv().expect("an open member").map(|message| message.bytes()[0]);
        std::iter::from_fn(next).collect()
    };
    assert_eq!(all(&quick), (0..=count).collect::<Vec<_>>(), "the others have it");
    assert_eq!(all(&slow), (0..count).collect::<Vec<_>>());
    one.post_text("now there is room").expect("room");
    assert_eq!(text(&slow), "now there is room");
    let never = one.post_bytes(&[0; 1 << 20]).expect_err("for the small one");
    let BroadcastError::Missed { first, .. } = never else { panic!("{never}") };
    assert!(matches!(*first, PostError::TooLarge { .. }), "{first}");
}

/// What travels is then only what says when it was posted.
#[test]
fn a_full_member_misses_messages_of_no_bytes_by_their_length() {
    let name = Name::new();
    let one = name.open();
    let small = BroadcastChannel::builder().capacity(4096).bounded();
    let _slow = BroadcastChannel::open_with(&name.text, small).expect("a membership");
    let first = loop {
        match one.post_bytes(b"") {
            Ok(()) => {}
            Err(BroadcastError::Missed { first, .. }) => break first,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(matches!(*first, PostError::QueueFull { len: 0, .. }), "{first}");
}

#[test]
fn a_wait_ends_for_a_message_a_joiner_and_its_timeout() {
    let _watch = watch("a_wait_ends_for_a_message_a_joiner_and_its_timeout");
    let name = Name::new();
    let member = name.open();
    let timeout = member.recv_timeout(Duration::from_millis(1));
    assert!(matches!(timeout, Err(BroadcastError::Timeout)), "{timeout:?}");
    let (says, hears) = mpsc::channel();
    thread::scope(|scope| {
        let waits = scope.spawn(|| {
            says.send(gettid()).expect("it listens");
            let member = member;
            (text(&member), text(&member))
        });
        wait_until_asleep(hears.recv().expect("its number"));
        // The other one is met while it sleeps.
        let late = name.open();
        late.post_text("hello").expect("room");
        late.post_text("again").expect("room");
        let words = waits.join().expect("no panic");
        assert_eq!(words, ("hello".to_owned(), "again".to_owned()));
    });
}

#[test]
fn the_descriptor_says_when_to_look() {
    let name = Name::new();
    let member = name.open();
    wait_until_quiet(&member);
    let other = name.open();
    assert!(is_readable(&member), "a member has joined");
    wait_until_quiet(&member);
    other.post_text("a word").expect("room");
    assert!(is_readable(&member));
    assert_eq!(text(&member), "a word");
    wait_until_quiet(&member);
    drop(other);
    wait_until("a member has left", || is_readable(&member));
    wait_for_others(&member, 0);
    wait_until_quiet(&member);
    assert_eq!(member.others().expect("an open member"), 0);
}

/// More than a turn delivers: the rest is left for the next one, which the loop comes back for.
#[test]
fn a_turn_delivers_a_share_and_the_loop_comes_back_for_the_rest() {
    let name = Name::new();
    // It has not looked since the other one joined: no doorbell rings for what was posted by then.
    let other = name.open();
    let one = name.open();
    let seen = Arc::new(AtomicU32::new(0));
    let count = seen.clone();
    other.on_message(move |event| {
        let number = event.broadcast().expect("a message").deserialize::<u32>().expect("a number");
        assert_eq!(number, count.fetch_add(1, SeqCst));
    });
    (0..200u32).for_each(|number| one.post_message(&number).expect("room"));
    assert_eq!(other.dispatch().expect("a member"), 64);
    assert_eq!(seen.load(SeqCst), 64);
    assert!(is_readable(&other), "more is there");
    let turns = Rc::new(std::cell::Cell::new(0));
    let counted = turns.clone();
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop
        .add_source(other, move |_, other| {
            other.dispatch().expect("a member");
            counted.set(counted.get() + 1);
        })
        .expect("room for a source");
    // One loop nests in another one.
    let mut outer = EventLoop::new().expect("a loop");
    let inner = Rc::new(std::cell::RefCell::new(event_loop));
    struct Nested(Rc<std::cell::RefCell<EventLoop>>, std::os::fd::OwnedFd);
    impl AsFd for Nested {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            self.1.as_fd()
        }
    }
    let descriptor = inner.borrow().as_fd().try_clone_to_owned().expect("room");
    outer
        .add_source(Nested(inner, descriptor), |_, nested| {
            nested.0.borrow_mut().poll_once(Duration::ZERO).expect("the loop waits");
        })
        .expect("room for a source");
    outer.run_until_idle().expect("the loop waits");
    assert_eq!(seen.load(SeqCst), 200);
    assert!(turns.get() >= 3, "three shares: {}", turns.get());
}

#[test]
fn a_handler_may_post_close_and_receive() {
    let name = Name::new();
    let (one, two, three) = (name.open(), name.open(), name.open());
    two.on_message(|event| {
        let channel = event.broadcast_channel().expect("its channel");
        assert!(event.message().is_none() && event.is_trusted());
        channel.post_text("answer").expect("room");
        assert_eq!(text(channel), "second", "read by a call from inside");
        channel.close();
    });
    for word in ["first", "second", "third"] {
        one.post_text(word).expect("room");
    }
    assert_eq!(two.dispatch().expect("a member"), 1, "it was closed by the first");
    assert!(two.is_closed());
    assert_eq!(text(&one), "answer");
    let words = [(); 4].map(|()| text(&three));
    assert!(words.contains(&"answer".to_owned()), "{words:?}");
    wait_for_others(&one, 1);
}

#[test]
fn listeners_come_go_and_fail_as_on_a_port() {
    let name = Name::new();
    let (one, other) = (name.open(), name.open());
    let (says, hears) = mpsc::channel();
    let say = move |what: &str| says.send(what.to_owned()).expect("it listens");
    let heard = move || hears.try_iter().collect::<Vec<_>>();
    let (a, b, c, d) = (say.clone(), say.clone(), say.clone(), say);
    other.on_listener_failure(move |_, _| a("failed"));
    other.add_event_listener("message", ListenerOptions::new().once(), move |_| b("once"));
    other.add_event_listener("message", ListenerOptions::new(), |_| -> () { panic!("reported") });
    let always = other.add_event_listener("message", ListenerOptions::new(), move |_| c("always"));
    (0..2).for_each(|_| one.post_text("a word").expect("room"));
    assert_eq!(other.dispatch().expect("a member"), 2);
    assert_eq!(heard(), ["once", "failed", "always", "failed", "always"]);
    assert!(other.remove_event_listener(always) && !other.remove_event_listener(always));
    other.add_event_listener("own", ListenerOptions::new(), move |event| {
        assert!(!event.is_trusted() && event.broadcast().is_none());
        d(event.broadcast_channel().expect("its channel").name());
    });
    assert!(other.dispatch_event(Event::new("own")).expect("not dispatched yet"));
    assert_eq!(heard(), [name.text.as_str()]);
}

#[test]
fn a_lack_of_descriptors_is_an_error_and_passes() {
    const TEST: &str = "ends::a_lack_of_descriptors_is_an_error_and_passes";
    fn lacks() {
        let name = Name::new();
        let (one, other) = (name.open(), name.open());
        wait_for_others(&one, 1);
        let late = name.open();
        late.post_text("from one who is not taken in yet").expect("room");
        other.post_text("from one who is").expect("room");
        // What is open now, and nothing more.
        let (usual, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        let next = std::fs::File::open("/dev/null").expect("room for one");
        let number = std::os::fd::AsRawFd::as_raw_fd(&next) as u64;
        drop(next);
        for room in [0, 2] {
            setrlimit(Resource::RLIMIT_NOFILE, number + room, most).expect("a lower limit");
            let error = one.post_text("to all").expect_err("one of them cannot be taken in");
            let BroadcastError::Missed { missed: 1, posted: 1, first } = error else {
                panic!("{error}")
            };
            assert!(matches!(*first, PostError::Io { .. }), "{first}");
            assert!(one.others().is_err());
            let opened = BroadcastChannel::open(&name.text);
            let refused = opened.expect_err("no descriptor for it");
            let is_refusal =
                matches!(refused, BroadcastError::Io { .. } | BroadcastError::File { .. });
            assert!(is_refusal, "{refused:?}");
        }
        assert_eq!(text(&one), "from one who is", "what can be had is had");
        let error = one.recv().expect_err("and then it is said");
        assert!(matches!(error, BroadcastError::Io { .. }), "{error}");
        setrlimit(Resource::RLIMIT_NOFILE, usual, most).expect("the usual limit");
        assert_eq!(text(&one), "from one who is not taken in yet");
        one.post_text("to all").expect("room");
        let mut words = [text(&late), text(&late)];
        words.sort();
        assert_eq!(words, ["from one who is", "to all"], "of two members: in any order");
        assert_eq!(one.others().expect("an open member"), 2);
    }
    play(TEST, &[("lacks", lacks)]);
}

/// One that never receives, while others come, post and go, keeps what they posted and nothing of
/// those who posted nothing.
#[test]
fn one_that_only_posts_keeps_no_ends_but_those_with_messages() {
    let name = Name::new();
    let feed = name.open();
    for round in 0..20 {
        let visitor = name.open();
        if round % 10 == 0 {
            visitor.post_text("unread").expect("room");
        }
        feed.post_text("news").expect("room");
        assert_eq!(text(&visitor), "news");
    }
    wait_until("the visitors' ends are noticed", || {
        feed.post_text("without a receiver").expect("no member misses it");
        format!("{feed:?}").contains("ports: 2 }")
    });
    assert_eq!([text(&feed), text(&feed)], ["unread", "unread"]);
    nothing(&feed);
    assert!(format!("{feed:?}").contains("ports: 0 }"), "{feed:?}");
}

/// A joiner that cannot be taken in for a lack of descriptors stays at the door. Who waits for this
/// member's descriptor is not woken by that again and again, and waits end in their time.
#[test]
fn a_lack_of_descriptors_wakes_no_member_again_and_again() {
    const TEST: &str = "ends::a_lack_of_descriptors_wakes_no_member_again_and_again";
    fn lacks() {
        let name = Name::new();
        let member = name.open();
        let _late = name.open();
        let (usual, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        let next = std::fs::File::open("/dev/null").expect("room for one");
        let number = std::os::fd::AsRawFd::as_raw_fd(&next) as u64;
        drop(next);
        // No room for the connection, and room for it and not for its port.
        for room in [0, 1] {
            setrlimit(Resource::RLIMIT_NOFILE, number + room, most).expect("a lower limit");
            member.try_recv().expect_err("the joiner cannot be taken in");
            let began = Instant::now();
            for _ in 0..TURNS {
                wait_until("the member is to be looked at again", || is_readable(&member));
                assert!(member.dispatch().is_err(), "the joiner cannot be taken in");
            }
            assert!(began.elapsed() >= TURNS * LEAST_PAUSE, "{:?}", began.elapsed());
            let began = Instant::now();
            let error = member.recv_timeout(LEAST_PAUSE).expect_err("no message");
            assert!(matches!(error, BroadcastError::Io { .. }), "{error}");
            assert!(began.elapsed() >= LEAST_PAUSE);
            let began = Instant::now();
            member.recv().expect_err("it is said after a pause");
            assert!(began.elapsed() >= LEAST_PAUSE);
        }
        setrlimit(Resource::RLIMIT_NOFILE, usual, most).expect("the usual limit");
        wait_until("the member is to be looked at again", || is_readable(&member));
        wait_for_others(&member, 1);
        wait_until_quiet(&member);
    }
    play(TEST, &[("lacks", lacks)]);
}

const TURNS: u32 = 5;
/// Less than the pause, by what a timer may be early.
const LEAST_PAUSE: Duration = Duration::from_millis(40);

// With a loop.

/// A loop that a member delivers in, with one port, and that port's peer.
fn loop_of(member: BroadcastChannel) -> (EventLoop, messageport::MessagePort) {
    let pair = messageport::MessageChannel::new().expect("a channel");
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add(pair.port2).expect("room for a port");
    let added = event_loop.add_source(member, |event_loop, member| {
        member.dispatch_in(event_loop).expect("an open member");
    });
    added.expect("room for a source");
    (event_loop, pair.port1)
}

#[test]
fn a_listener_of_a_member_reaches_the_ports_of_its_loop() {
    let name = Name::new();
    let (one, other) = (name.open(), name.open());
    other.on_message(|event| {
        let text = event.broadcast().expect("a message").text().expect("a text");
        assert!(event.port_id().is_none());
        for (id, port) in event.loop_ports() {
            assert!(std::ptr::eq(event.loop_port(id).expect("lent"), port));
            port.post_text(text).expect("room");
        }
    });
    let (mut event_loop, client) = loop_of(other);
    one.post_text("to all").expect("room");
    event_loop.run_until_idle().expect("the loop waits");
    let event = client.recv_timeout(crate::common::DEADLINE).expect("it was passed on");
    assert_eq!(event.text().expect("a text"), "to all");
}

/// Each action runs before the next message, and may do anything with the loop.
#[test]
fn what_a_listener_of_a_member_defers_runs_before_the_next_message() {
    let name = Name::new();
    let (one, other) = (name.open(), name.open());
    let (says, said) = mpsc::channel();
    other.on_message(move |event| {
        let text = event.broadcast().expect("a message").text().expect("a text").to_owned();
        let (says, later) = (says.clone(), says.clone());
        assert!(event.defer(move |event_loop| {
            later.send(format!("ports: {}", event_loop.ids().count())).expect("a receiver");
            let id = event_loop.ids().next();
            id.map(|id| event_loop.remove(id));
        }));
        says.send(text).expect("a receiver");
    });
    let (mut event_loop, client) = loop_of(other);
    for text in ["one", "two"] {
        one.post_text(text).expect("room");
    }
    event_loop.run_until_idle().expect("the loop waits");
    let said: Vec<_> = said.try_iter().collect();
    assert_eq!(said, ["one", "ports: 1", "two", "ports: 0"]);
    assert!(client.is_closed());
}

/// The program delivers outside of a turn: the next one runs the action, and does not wait.
#[test]
fn what_is_deferred_outside_of_a_turn_runs_in_the_next_one() {
    let name = Name::new();
    let (one, other) = (name.open(), name.open());
    let ran = Arc::new(AtomicU32::new(0));
    let count = ran.clone();
    other.on_message(move |event| {
        let count = count.clone();
        event.defer(move |_| _ = count.fetch_add(1, SeqCst));
    });
    let mut event_loop = EventLoop::new().expect("a loop");
    let fd = event_loop.as_fd().try_clone_to_owned().expect("a descriptor");
    one.post_text("one").expect("room");
    wait_until("it is delivered", || other.dispatch_in(&event_loop).expect("a member") == 1);
    assert_eq!(ran.load(SeqCst), 0);
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(1), "an outer loop is woken");
    event_loop.run().expect("the loop does its work");
    assert_eq!(ran.load(SeqCst), 1);
    // Without a loop there is nothing to defer to.
    one.post_text("two").expect("room");
    wait_until("it is delivered", || other.dispatch().expect("a member") == 1);
    event_loop.run().expect("nothing to do");
    assert_eq!(ran.load(SeqCst), 1);
}

#[test]
fn a_member_that_is_closed_inside_its_listener_delivers_nothing_more_in_its_loop() {
    let name = Name::new();
    let (one, other) = (name.open(), name.open());
    other.on_message(|event| {
        event.broadcast_channel().expect("its channel").close();
        let text = event.broadcast().expect("a message").text().expect("a text").to_owned();
        event.loop_ports().for_each(|(_, port)| port.post_text(&text).expect("room"));
    });
    let (mut event_loop, client) = loop_of(other);
    for text in ["one", "two"] {
        one.post_text(text).expect("room");
    }
    event_loop.run_until_idle().expect("the loop waits");
    assert_eq!(client.try_iter().count(), 1);
}
