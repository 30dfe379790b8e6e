//! Ports that are received from together: turns, ends, and what is taken out again.

#![allow(unsafe_code)]

mod common;
#[path = "common/filter.rs"]
mod filter;

use std::error::Error;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use common::watchdog::watch;
use common::{DEADLINE, receive_text};
use messageport::{CloseReason, EventLoop, LoopError, MessageChannel, PortId, PortSet, RecvError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn channel() -> MessageChannel {
    MessageChannel::new().expect("a channel")
}

/// Who said what: a text, or the reason of an end.
fn hear(set: &PortSet) -> (PortId, Result<String, CloseReason>) {
    let said = set.recv_timeout(DEADLINE).expect("a set").expect("a port reports something");
    match said {
        (id, Ok(event)) => (id, Ok(event.text().expect("a text").to_owned())),
        (id, Err(RecvError::Closed { reason })) => (id, Err(reason)),
        (_, Err(other)) => panic!("{other}"),
    }
}

#[test]
fn a_port_that_floods_does_not_silence_the_others() {
    let _watch = watch("a_port_that_floods_does_not_silence_the_others");
    let (loud, quiet) = (channel(), channel());
    let mut set = PortSet::new().expect("a set");
    let flood = set.add(loud.port2).expect("room for a port");
    let id = set.add(quiet.port2).expect("room for a port");
    let post = || loud.port1.post_text("noise").expect("room");
    (0..10).for_each(|_| post());
    // By then the quiet one has been asked, and had nothing.
    (0..10).for_each(|_| assert_eq!(hear(&set).0, flood));
    post();
    quiet.port1.post_text("help").expect("room");
    let turns = (0..1000).position(|_| {
        post();
        hear(&set).0 == id
    });
    assert!(turns.is_some_and(|turns| turns < 100), "{turns:?}");
}

#[test]
fn ports_take_turns() {
    let channels: Vec<_> = (0..5).map(|_| channel()).collect();
    let mut set = PortSet::new().expect("a set");
    let (near, far): (Vec<_>, Vec<_>) =
        channels.into_iter().map(|channel| (channel.port1, channel.port2)).unzip();
    for port in &near {
        (0..3).for_each(|number| port.post_text(&number.to_string()).expect("room"));
    }
    let ids: Vec<_> = far.into_iter().map(|port| set.add(port).expect("room")).collect();
    for number in 0..3 {
        for id in &ids {
            assert_eq!(hear(&set), (*id, Ok(number.to_string())));
        }
    }
    assert!(set.try_recv().expect("a set").is_none());
}

#[test]
fn an_end_is_told_once_and_behind_all_messages() {
    let (one, other) = (channel(), channel());
    let mut set = PortSet::new().expect("a set");
    let first = set.add(one.port2).expect("room for a port");
    let second = set.add(other.port2).expect("room for a port");
    one.port1.post_text("last words").expect("room");
    one.port1.close();
    assert_eq!(hear(&set), (first, Ok("last words".to_owned())));
    assert_eq!(hear(&set), (first, Err(CloseReason::PeerClosed)));
    drop(one.port1);
    assert!(set.try_recv().expect("a set").is_none());
    assert!(set.recv_timeout(Duration::from_millis(1)).expect("a set").is_none());
    other.port1.post_text("still here").expect("room");
    assert_eq!(hear(&set), (second, Ok("still here".to_owned())));
    assert_eq!(set.len(), 2);
    assert!(set.remove(first).is_some_and(|port| port.is_closed()));
    assert!(set.remove(first).is_none() && set.get(first).is_none());
    assert_eq!(set.iter().map(|(id, _)| id).collect::<Vec<_>>(), [second]);
}

#[test]
fn a_port_that_is_taken_out_is_a_port_as_any_other() {
    let pair = channel();
    let mut set = PortSet::new().expect("a set");
    let id = set.add(pair.port2).expect("room for a port");
    pair.port1.post_text("one").expect("room");
    pair.port1.post_text("two").expect("room");
    assert_eq!(hear(&set), (id, Ok("one".to_owned())));
    set.get(id).expect("it is there").post_text("an answer").expect("room");
    let port = set.remove(id).expect("it is there");
    assert!(set.is_empty() && set.try_recv().expect("a set").is_none());
    assert_eq!(receive_text(&port), "two");
    assert_eq!(receive_text(&pair.port1), "an answer");
    let again = set.add(port).expect("room for a port");
    assert_eq!(again, id, "a port keeps its id");
    pair.port1.post_text("three").expect("room");
    assert_eq!(hear(&set), (again, Ok("three".to_owned())));
}

#[test]
fn a_set_wakes_up_for_a_message_and_is_readable_for_others_loops() {
    let _watch = watch("a_set_wakes_up_for_a_message_and_is_readable_for_others_loops");
    let pair = channel();
    let mut set = PortSet::new().expect("a set");
    let id = set.add(pair.port2).expect("room for a port");
    let poster = thread::spawn(move || {
        for number in 0..1000 {
            pair.port1.post_text(&number.to_string()).expect("room");
            thread::yield_now();
        }
        pair.port1
    });
    for number in 0..1000 {
        assert_eq!(hear(&set), (id, Ok(number.to_string())));
    }
    let port = poster.join().expect("a poster that is content");
    assert!(set.try_recv().expect("a set").is_none());
    port.post_text("late").expect("room");
    let mut waits = [PollFd::new(set.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(DEADLINE).expect("it fits");
    assert_eq!(poll(&mut waits, timeout), Ok(1));
    assert_eq!(hear(&set), (id, Ok("late".to_owned())));
}

/// By calls a port that was closed here says so; so it does in a set, behind its queue.
#[test]
fn a_port_that_was_closed_here_says_its_end_once() {
    let (one, other) = (channel(), channel());
    let mut set = PortSet::new().expect("a set");
    let (closed, idle) = (set.add(one.port2).expect("room"), set.add(other.port2).expect("room"));
    assert!(set.try_recv().expect("a set").is_none());
    one.port1.post_text("queued").expect("room");
    for _ in 0..2 {
        set.get(closed).expect("a port").close();
        set.get(idle).expect("a port").close();
    }
    let mut said = vec![hear(&set), hear(&set), hear(&set)];
    said.sort_by_key(|(id, _)| *id);
    let queued = Ok("queued".to_owned());
    let end = Err(CloseReason::Local);
    assert_eq!(said, [(closed, queued), (closed, end.clone()), (idle, end)]);
    assert!(set.try_recv().expect("a set").is_none());
    let taken = set.remove(closed).expect("a port");
    taken.close();
    assert!(set.try_recv().expect("a set").is_none());
}

/// An error of a loop or of a set gives back what was to be taken in, and is an error as any other.
#[test]
fn what_could_not_be_added_comes_back() {
    fn is_error<T: Error + Send + Sync + 'static>(_: &T) {}
    let _watch = watch("what_could_not_be_added_comes_back");
    let (one, other) = (channel(), channel());
    thread::spawn(move || {
        let mut event_loop = EventLoop::new().expect("a loop");
        let mut set = PortSet::new().expect("a set");
        let (source, _far) = UnixStream::pair().expect("a pair");
        filter::answer(libc::SYS_epoll_ctl, filter::When::Always, libc::ENOSPC).expect("a filter");
        let refused = event_loop.add(one.port2).expect_err("no room");
        is_error(&refused);
        assert!(refused.to_string().contains("epoll_ctl"), "{refused}");
        assert!(refused.source().is_some(), "the kernel's own error stands behind it");
        let refused = set.add(refused.into_inner()).expect_err("no room");
        let (LoopError::Io(error), port) = refused.into_parts() else { panic!("another error") };
        assert_eq!(error.source.raw_os_error(), Some(libc::ENOSPC), "{}", error.call);
        one.port1.post_text("as before").expect("room");
        assert_eq!(receive_text(&port), "as before");
        let refused = event_loop.add_with(port, |_, _, _| {}).expect_err("no room");
        assert!(!refused.into_inner().is_started());
        let refused = event_loop.add_source(source, |_, _| {}).expect_err("no room");
        is_error(&refused);
        let _source: UnixStream = refused.into_inner();
        // Nothing of them is left behind, for which either would wait.
        assert!(set.is_empty() && event_loop.ids().next().is_none());
        event_loop.run().expect("it returns at once");
        // Where the reason alone is wanted, `?` makes it that; the port is dropped then.
        let add = |mut event_loop: EventLoop| -> Result<(), LoopError> {
            event_loop.add(other.port2)?;
            Ok(())
        };
        assert!(matches!(add(event_loop), Err(LoopError::Io { .. })));
        assert!(other.port1.is_closed());
    })
    .join()
    .expect("no panic");
}
