//! One message to many ports: who has it, who has not, and why.

#![allow(unsafe_code)]

mod common;
#[path = "common/filter.rs"]
mod filter;

use common::limits::{allow_all_address_space, allow_more_address_space};
use common::messages::chain;
use common::role::{command, play, skip};
use common::{receive, receive_end, receive_text, wait_until};
use messageport::rkyv::rancor::{Fallible, Source, fail};
use messageport::rkyv::ser::Writer;
use messageport::{
    CloseReason, CollectionError, Member, MemberId, MessageChannel, MessageError, MessagePort,
    PortCollection, PostError, Receive, Worker, parent_port, rkyv,
};
use std::cell::Cell;
use std::error::Error;

fn channel() -> MessageChannel {
    MessageChannel::new().expect("a channel")
}

/// A channel whose lanes hold seven messages of 500 bytes, and never grow.
fn bounded() -> MessageChannel {
    MessageChannel::builder().capacity(4096).bounded().build().expect("a channel")
}

/// A collection of so many ports of its own, and their peers.
fn owning(count: usize) -> (PortCollection<Member<'static>>, Vec<MemberId>, Vec<MessagePort>) {
    let mut all = PortCollection::new();
    let (ids, peers) = (0..count)
        .map(|_| {
            let MessageChannel { port1, port2 } = channel();
            (all.add(port1), port2)
        })
        .unzip();
    (all, ids, peers)
}

fn members(all: &PortCollection<Member<'_>>) -> Vec<MemberId> {
    all.iter().map(|(id, _)| id).collect()
}

fn assert_empty(port: &MessagePort) {
    let answer = port.try_recv().expect("an open port");
    assert!(answer.is_none(), "{answer:?}");
}

/// Which members a post did not reach, and why.
fn failures(answer: Result<(), CollectionError>) -> Vec<(MemberId, CloseReason)> {
    let error = answer.expect_err("a member has gone");
    assert!(error.serialize.is_none(), "{error}");
    let reason = |error| match error {
        PostError::Closed { reason } => reason,
        other => panic!("expected a closed port: {other}"),
    };
    error.failures.into_iter().map(|(id, error)| (id, reason(error))).collect()
}

/// Archives as a number, and counts how often it is asked to.
struct Counted<'c>(&'c Cell<u32>);

impl rkyv::Archive for Counted<'_> {
    type Archived = rkyv::Archived<u32>;
    type Resolver = u32;

    fn resolve(&self, resolver: u32, out: rkyv::Place<Self::Archived>) {
        rkyv::Archive::resolve(&resolver, (), out);
    }
}

impl<S: Fallible + ?Sized> rkyv::Serialize<S> for Counted<'_> {
    fn serialize(&self, _: &mut S) -> Result<u32, S::Error> {
        self.0.set(self.0.get() + 1);
        Ok(self.0.get())
    }
}

/// Writes something, and then does not want to.
struct Refuses;

#[derive(Debug, thiserror::Error)]
#[error("the value does not want to")]
struct Refused;

impl rkyv::Archive for Refuses {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: rkyv::Place<()>) {}
}

impl<S> rkyv::Serialize<S> for Refuses
where
    S: Fallible + Writer + ?Sized,
    S::Error: Source,
{
    fn serialize(&self, serializer: &mut S) -> Result<(), S::Error> {
        serializer.write(&[0xee; 100])?;
        fail!(Refused)
    }
}

#[test]
fn ports_and_halves_may_be_owned_or_lent() {
    let [port, half, lent_port, lent_half] = [(); 4].map(|()| channel());
    let (own, _receiver) = half.port1.split();
    let (lent, _other_receiver) = lent_half.port1.split();
    let mut all = PortCollection::new();
    let ids = [all.add(port.port1), all.add(own), all.add(&lent_port.port1), all.add(&lent)];
    assert_eq!((all.len(), all.is_empty()), (4, false));
    assert!(matches!(all.get(ids[0]), Some(Member::Port(_))));
    assert!(matches!(all.get(ids[1]), Some(Member::Sender(_))));
    assert!(matches!(all.get(ids[2]), Some(Member::Borrowed(_))));
    assert!(matches!(all.get(ids[3]), Some(Member::Borrowed(_))));
    all.post_message(&7u32).expect("room");
    all.post_text("words").expect("room");
    all.post_bytes(b"raw").expect("room");
    // What is lent is used beside.
    lent_port.port1.post_text("from its owner").expect("room");
    for peer in [&port.port2, &half.port2, &lent_port.port2, &lent_half.port2] {
        assert_eq!(*receive(peer).data::<u32>().expect("a number"), 7);
        assert_eq!(receive_text(peer), "words");
        assert_eq!(receive(peer).bytes(), b"raw");
    }
    assert_eq!(receive_text(&lent_port.port2), "from its owner");
    // What is owned goes with the collection, what is lent stays.
    drop(all);
    assert_eq!(receive_end(&port.port2), CloseReason::PeerDropped);
    assert_eq!(receive_end(&half.port2), CloseReason::PeerDropped);
    lent_port.port1.post_text("still here").expect("room");
    lent.post_text("still here").expect("room");
}

#[test]
fn members_stand_in_the_order_in_which_they_came() {
    let (mut all, ids, peers) = owning(5);
    assert_eq!(members(&all), ids);
    let taken = all.remove(ids[1]).expect("a member");
    assert!(all.remove(ids[1]).is_none() && all.get(ids[1]).is_none());
    let again = all.add(match taken {
        Member::Port(port) => port,
        other => panic!("it was a port: {other:?}"),
    });
    assert!(!ids.contains(&again), "no name is used twice");
    let order = [ids[0], ids[2], ids[3], ids[4], again];
    assert_eq!(members(&all), order);
    drop(peers);
    let failed: Vec<_> = failures(all.post_text("never read")).into_iter().collect();
    assert_eq!(failed, order.map(|id| (id, CloseReason::PeerDropped)));
}

#[test]
fn an_empty_collection_posts_to_no_member() {
    let mut all = PortCollection::new();
    all.post_message(&1u8).expect("there is no member that it could miss");
    assert!(all.is_empty() && all.remove_closed().is_empty());
}

#[test]
fn a_value_is_serialised_once_for_all() {
    let (all, _, peers) = owning(20);
    let count = Cell::new(0);
    for round in 1..=3 {
        all.post_message(&Counted(&count)).expect("room");
        assert_eq!(count.get(), round);
        for peer in &peers {
            let event = receive(peer);
            assert_eq!(*event.data::<Counted<'_>>().expect("a number"), round);
        }
    }
}

/// What they get is what one post would have given them.
#[test]
fn every_kind_of_value_arrives_as_from_a_post_of_its_own() {
    fn check<T>(
        all: &PortCollection<Member<'_>>,
        peers: &[MessagePort],
        near: &MessageChannel,
        value: &T,
    ) where
        T: messageport::Post + Receive,
    {
        all.post_message(value).expect("room");
        near.port1.post_message(value).expect("room");
        let single = receive(&near.port2);
        single.data::<T>().expect("the value");
        for peer in peers {
            let event = receive(peer);
            assert_eq!((event.bytes(), event.format()), (single.bytes(), single.format()));
            event.data::<T>().expect("the value");
        }
    }
    let (all, _, peers) = owning(3);
    let near = channel();
    check(&all, &peers, &near, &());
    check(&all, &peers, &near, &u128::MAX);
    check(&all, &peers, &near, &"a string outside of its place".to_string());
    check(&all, &peers, &near, &vec![vec![1u64; 1000]; 100]);
    check(&all, &peers, &near, &(1u8, vec!["a".to_string()], Some(2u64)));
}

#[test]
fn a_dead_member_is_reported_and_the_others_have_it() {
    let (mut all, ids, mut peers) = owning(5);
    drop(peers.remove(3));
    peers.remove(1).close();
    if let Some(Member::Port(port)) = all.get(ids[0]) {
        port.close();
    }
    let expected = [
        (ids[0], CloseReason::Local),
        (ids[1], CloseReason::PeerClosed),
        (ids[3], CloseReason::PeerDropped),
    ];
    let error = all.post_message(&7u32).expect_err("three are gone");
    assert_eq!((error.posted, error.failures.len()), (2, 3));
    let words = error.to_string();
    assert!(words.contains("to 2 members and not to 3"), "{words}");
    assert!(error.source().is_some_and(|source| source.to_string().contains("this end closed it")));
    assert_eq!(failures(all.post_text("again")), expected);
    assert_eq!(failures(all.post_bytes(b"again")), expected);
    for peer in &peers[1..] {
        assert_eq!(*receive(peer).data::<u32>().expect("a number"), 7);
        assert_eq!(receive_text(peer), "again");
        assert_eq!(receive(peer).bytes(), b"again");
    }
    let gone: Vec<_> = all.remove_closed().into_iter().map(|(id, _)| id).collect();
    assert_eq!(gone, expected.map(|(id, _)| id));
    assert_eq!(members(&all), [ids[2], ids[4]]);
    assert!(all.remove_closed().is_empty());
    all.post_text("to those who are left").expect("room");
    for peer in &peers[1..] {
        assert_eq!(receive_text(peer), "to those who are left");
    }
}

#[test]
fn a_full_member_is_reported_and_stays_and_the_others_have_it() {
    let mut all = PortCollection::new();
    let (slow, quick, other) = (bounded(), channel(), channel());
    all.add(quick.port1);
    let full = all.add(slow.port1);
    all.add(other.port1);
    let mut posted = 0;
    let error = loop {
        match all.post_bytes(&[posted; 500]) {
            Ok(()) => posted += 1,
            Err(error) => break error,
        }
        assert!(posted < 100, "a bounded lane takes no hundred");
    };
    assert_eq!((error.posted, error.failures.len()), (2, 1));
    let (id, reason) = &error.failures[0];
    assert!(*id == full && matches!(reason, PostError::QueueFull { .. }), "{reason}");
    assert!(all.remove_closed().is_empty(), "who is slow is not gone");
    // The slow one has all but the last, and goes on once it has read.
    for number in 0..posted {
        assert_eq!(receive(&slow.port2).bytes(), [number; 500]);
    }
    assert_empty(&slow.port2);
    all.post_text("room again").expect("room");
    assert_eq!(receive_text(&slow.port2), "room again");
    for peer in [&quick.port2, &other.port2] {
        for number in 0..=posted {
            assert_eq!(receive(peer).bytes(), [number; 500]);
        }
        assert_eq!(receive_text(peer), "room again");
    }
}

#[test]
fn a_message_that_can_never_fit_is_said_for_whom() {
    let mut all = PortCollection::new();
    let (small, large) = (bounded(), channel());
    let narrow = all.add(small.port1);
    all.add(large.port1);
    let error = all.post_message(&vec![1u8; 100_000]).expect_err("one cannot hold it");
    let (id, reason) = &error.failures[0];
    assert!(*id == narrow && matches!(reason, PostError::TooLarge { .. }), "{reason}");
    assert_eq!(receive(&large.port2).deserialize::<Vec<u8>>().unwrap(), vec![1; 100_000]);
}

#[test]
fn a_value_that_refuses_reaches_no_member() {
    let (all, _, peers) = owning(3);
    let error = all.post_message(&Refuses).expect_err("it refuses");
    assert!(matches!(error.serialize, Some(PostError::Serialize(_))), "{error:?}");
    assert_eq!((error.posted, error.failures.len()), (0, 0));
    let words = chain(&error);
    assert!(words.contains("no member") && words.contains("does not want to"), "{words}");
    assert!(error.source().is_some());
    peers.iter().for_each(assert_empty);
    all.post_text("as ever").expect("room");
    peers.iter().for_each(|peer| assert_eq!(receive_text(peer), "as ever"));
}

/// A post from inside of one's own serialisation: the ports are not at work yet.
#[test]
fn a_member_may_be_posted_to_from_inside_a_serialize() {
    struct Posts<'p>(&'p MessagePort);

    impl rkyv::Archive for Posts<'_> {
        type Archived = ();
        type Resolver = ();

        fn resolve(&self, (): (), _: rkyv::Place<()>) {}
    }

    impl<S: Fallible + ?Sized> rkyv::Serialize<S> for Posts<'_> {
        fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
            self.0.post_text("inner").expect("room");
            Ok(())
        }
    }

    let pair = channel();
    let mut all = PortCollection::new();
    all.add(&pair.port1);
    all.post_message(&Posts(&pair.port1)).expect("room");
    assert_eq!(receive_text(&pair.port2), "inner");
    receive(&pair.port2).data::<()>().expect("the outer one");
}

/// Members in other processes, one of which is killed between two posts and one of which takes a
/// message for something else.
#[test]
fn processes_have_it_and_a_dead_one_is_reported() {
    const TEST: &str = "processes_have_it_and_a_dead_one_is_reported";
    fn listens() {
        let port = parent_port().expect("a port to the parent");
        for number in 0..100u64 {
            assert_eq!(receive(&port).deserialize::<u64>().expect("a number"), number);
        }
        let wrong = receive(&port).deserialize::<Vec<String>>().expect_err("a number");
        assert!(matches!(wrong, MessageError::Invalid { .. }), "{wrong}");
        port.post_text("all of them").expect("room");
        assert_eq!(receive_text(&port), "goodbye");
    }
    fn posts() {
        let mut children = Vec::new();
        let mut all = PortCollection::new();
        let mut ids = Vec::new();
        for _ in 0..3 {
            let worker = Worker::spawn(command(TEST, "listens")).expect("a worker");
            let (port, child) = worker.into_parts();
            ids.push(all.add(port));
            children.push(child);
        }
        for number in 0..50u64 {
            all.post_message(&number).expect("room");
        }
        common::kill_process(children[1].id());
        children[1].wait().expect("a child");
        let Some(Member::Port(dead)) = all.get(ids[1]) else { panic!("it was a port") };
        wait_until("its end is seen", || dead.is_closed());
        for number in 50..100u64 {
            assert_eq!(failures(all.post_message(&number)), [(ids[1], CloseReason::PeerDied)]);
        }
        assert_eq!(all.remove_closed().len(), 1);
        all.post_message(&0xffu8).expect("room");
        for (_, member) in all.iter() {
            let Member::Port(port) = member else { panic!("it was a port") };
            assert_eq!(receive_text(port), "all of them");
        }
        all.post_text("goodbye").expect("room");
        for child in [0, 2] {
            assert!(children[child].wait().expect("a child").success());
        }
    }
    play(TEST, &[("posts", posts), ("listens", listens)]);
}

/// The archive for all members is one allocation, and each member's pages are its own.
#[test]
fn a_lack_of_memory_is_an_error_that_says_which_members_have_it() {
    const TEST: &str = "a_lack_of_memory_is_an_error_that_says_which_members_have_it";
    /// More than glibc has reserved for a thread.
    const LEN: usize = 66 << 20;
    fn posts() {
        let mut all = PortCollection::owned();
        let MessageChannel { port1, port2 } =
            MessageChannel::builder().limit(256 << 20).build().expect("a channel");
        let id = all.add(port1);
        let long = "l".repeat(LEN);
        allow_more_address_space(LEN as u64 / 4);
        let refused = all.post_message(&long);
        allow_all_address_space();
        let error = refused.expect_err("no memory");
        assert!(matches!(error.serialize, Some(PostError::Serialize(_))), "{error:?}");
        assert_empty(&port2);
        let posting = std::thread::spawn(move || {
            // This thread gets no fresh page.
            let when = filter::When::Equals(2, libc::MADV_POPULATE_WRITE as u32);
            let answered = filter::answer(libc::SYS_madvise, when, libc::ENOMEM);
            let refused = answered.is_ok().then(|| all.post_text(&long));
            (all, refused)
        });
        let (all, refused) = posting.join().expect("an error and no panic");
        match refused.map(|refused| refused.expect_err("no memory")) {
            None => skip("no seccomp filter here"),
            Some(error) => {
                let [(which, PostError::Io(reason))] = &error.failures[..] else {
                    panic!("{error:?}")
                };
                assert_eq!((*which, error.posted), (id, 0));
                assert_eq!(reason.source.raw_os_error(), Some(libc::ENOMEM));
            }
        }
        all.post_text("as ever").expect("room");
        assert_eq!(receive_text(&port2), "as ever");
    }
    play(TEST, &[("posts", posts)]);
}
