//! Members of broadcast channels in tasks.

use crate::common::limits::{
    allow_all_address_space, allow_all_descriptors, allow_more_address_space,
    allow_more_descriptors,
};
use crate::common::role::{command, play};
use crate::common::watchdog::progress;
use crate::on_each;
use futures_lite::future::{poll_once, zip};
use futures_util::StreamExt;
use messageport::{
    AsyncBroadcastChannel, BroadcastChannel, BroadcastError, BroadcastEvent, MessageError,
};
use std::io::ErrorKind;

fn name(test: &str) -> String {
    format!("test-{test}-{}", std::process::id())
}

fn open(name: &str) -> AsyncBroadcastChannel {
    BroadcastChannel::open(name).expect("a member").into_async().expect("a reactor")
}

#[test]
fn members_in_tasks_are_told_who_comes_and_goes() {
    on_each("members::members_in_tasks_are_told_who_comes_and_goes", async || {
        let name = name("presence");
        let mut room = open(&name);
        for round in 0..3 {
            assert!(poll_once(room.recv_event()).await.is_none(), "round {round}");
            let joining = async {
                futures_lite::future::yield_now().await;
                let guest = open(&name);
                guest.post_text("hello").expect("room");
                guest.get_ref().id()
            };
            let seeing = async {
                let BroadcastEvent::Joined(peer) = room.recv_event().await.expect("an event")
                else {
                    panic!("it joins first");
                };
                let event = room.recv_event().await.expect("an event");
                assert!(matches!(event, BroadcastEvent::Message { sender, .. } if sender == peer));
                let event = room.recv_event().await.expect("an event");
                assert!(matches!(event, BroadcastEvent::Left { peer: gone, .. } if gone == peer));
                peer.id
            };
            let (guest, seen) = zip(joining, seeing).await;
            assert_eq!(guest, seen);
        }
    });
}

#[test]
fn members_in_tasks_receive_what_others_post() {
    on_each("members::members_in_tasks_receive_what_others_post", async || {
        const COUNT: u32 = 500;
        let name = name("tasks");
        let (feed, mut one) = (open(&name), open(&name));
        assert_eq!((feed.get_ref().name(), feed.get_ref().others().ok()), (&*name, Some(1)));
        assert!(one.try_recv().expect("a member").is_none());
        assert!(poll_once(one.recv()).await.is_none(), "nothing was posted");
        // One that joins while the other waits.
        let mut two = open(&name);
        let posting = async {
            for number in 0..COUNT {
                feed.post_message(&number).expect("room");
                if number % 50 == 0 {
                    futures_lite::future::yield_now().await;
                }
            }
            feed.post_text("text").expect("room");
            feed.post_bytes(b"bytes").expect("room");
        };
        async fn taking(member: &mut AsyncBroadcastChannel) {
            for number in 0..COUNT {
                let message = member.recv().await.expect("a message");
                assert_eq!(*message.data::<u32>().expect("a number"), number);
            }
            assert_eq!(member.recv().await.expect("a message").text().expect("a text"), "text");
            assert_eq!(member.recv().await.expect("a message").bytes(), b"bytes");
        }
        zip(zip(taking(&mut one), taking(&mut two)), posting).await;
        one.require_type::<u32>();
        feed.post_text("no number").expect("room");
        feed.post_message(&7u32).expect("room");
        let wrong = one.next().await.expect("open");
        assert!(matches!(wrong, Err(BroadcastError::Message(_))), "{wrong:?}");
        assert!(one.next().await.expect("open").is_ok());
        one.close();
        assert!(one.next().await.is_none() && one.next().await.is_none());
        let closed = one.recv().await;
        assert!(matches!(closed, Err(BroadcastError::Closed { .. })), "{closed:?}");
        assert_eq!(two.into_inner().try_recv().expect("a member").expect("one").bytes().len(), 9);
    });
}

/// A receive that is dropped at any poll loses nothing; the poster is in another process, and dies.
#[test]
fn a_member_of_a_task_misses_nothing() {
    const TEST: &str = "members::a_member_of_a_task_misses_nothing";
    const COUNT: u64 = 5_000;
    fn posts() {
        let name = std::env::var("NAME").expect("a name");
        let member = BroadcastChannel::open(&name).expect("a member");
        for number in 0..COUNT {
            member.post_message(&number).expect("room");
            if number % 97 == 0 {
                std::thread::yield_now();
            }
        }
        crate::common::die();
    }
    fn receives() {
        on_each(TEST, async || {
            let name = name("misses");
            let mut member = open(&name);
            let mut child = command(TEST, "posts").env("NAME", &name).spawn().expect("a child");
            for number in 0..COUNT {
                let message =
                    std::future::poll_fn(|context| std::pin::pin!(member.recv()).poll(context));
                let message = message.await.expect("a message");
                assert_eq!(message.deserialize::<u64>().expect("a number"), number);
                if number % 1000 == 0 {
                    progress();
                }
            }
            child.wait().expect("a child");
            assert!(poll_once(member.recv()).await.is_none());
        });
    }
    play(TEST, &[("receives", receives), ("posts", posts)]);
}

#[test]
fn a_flooded_member_leaves_turns_to_others_of_its_task() {
    on_each("members::a_flooded_member_leaves_turns_to_others_of_its_task", async || {
        let name = name("flood");
        let (feed, mut member) = (open(&name), open(&name));
        (0..1_000u32).for_each(|number| feed.post_message(&number).expect("room"));
        let received = std::cell::Cell::new(0);
        let taking = async {
            for number in 0..1_000 {
                member.recv().await.expect("a message");
                received.set(number + 1);
            }
        };
        let ((), before) = zip(taking, async { received.get() }).await;
        assert!(before <= 100, "{before} messages came first");
    });
}

#[test]
fn a_member_that_lacks_descriptors_for_a_joiner_says_so_and_goes_on() {
    const TEST: &str = "members::a_member_that_lacks_descriptors_for_a_joiner_says_so_and_goes_on";
    fn joins() {
        let name = std::env::var("NAME").expect("a name");
        let member = BroadcastChannel::open(&name).expect("a member");
        member.post_text("joined").expect("room");
        let answer = member.recv().expect("an answer");
        assert_eq!(answer.text().expect("a text"), "welcome");
    }
    fn receives() {
        on_each(TEST, async || {
            let name = name("lacks");
            let mut member = open(&name);
            assert!(poll_once(member.recv()).await.is_none());
            let mut child = command(TEST, "joins").env("NAME", &name).spawn().expect("a child");
            allow_more_descriptors(1);
            let error = member.recv().await.expect_err("no descriptor is left");
            assert!(matches!(error, BroadcastError::Io(_)), "{error}");
            assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
            allow_all_descriptors();
            let message = member.recv().await.expect("a message");
            assert_eq!(message.text().expect("a text"), "joined");
            member.post_text("welcome").expect("room");
            assert!(child.wait().expect("a child").success());
        });
    }
    play(TEST, &[("receives", receives), ("joins", joins)]);
}

#[test]
fn a_member_without_memory_for_a_message_is_told_which_one_and_goes_on() {
    const TEST: &str =
        "members::a_member_without_memory_for_a_message_is_told_which_one_and_goes_on";
    /// More than glibc has reserved for a thread, whatever it was given back before.
    const LEN: usize = 66 << 20;
    async fn without_memory<T>(task: impl Future<Output = T>) -> T {
        allow_more_address_space(LEN as u64 / 4);
        let answer = task.await;
        allow_all_address_space();
        progress();
        answer
    }
    fn receives() {
        on_each(TEST, async || {
            let name = name("memory");
            let open = || {
                let builder = BroadcastChannel::builder().limit(256 << 20);
                let member = BroadcastChannel::open_with(&name, builder).expect("a member");
                member.into_async().expect("a reactor")
            };
            let (feed, mut member) = (open(), open());
            let long = vec![7; LEN];
            for is_stream in [false, true] {
                feed.post_text("before").expect("room");
                feed.post_bytes(&long).expect("room");
                feed.post_text("behind").expect("room");
                let mut next = async || match is_stream {
                    true => member.next().await.expect("open"),
                    false => member.recv().await,
                };
                assert_eq!(next().await.expect("a message").text().expect("a text"), "before");
                let lost = without_memory(next()).await.map(drop);
                let Err(BroadcastError::Message(MessageError::OutOfMemory { len })) = lost else {
                    panic!("{lost:?}")
                };
                assert_eq!(len, LEN as u64);
                assert_eq!(next().await.expect("a message").text().expect("a text"), "behind");
            }
            // A post copies the message for all members first.
            let refused = without_memory(async { feed.post_bytes(&long) }).await;
            let Err(BroadcastError::Io(error)) = refused else { panic!("{refused:?}") };
            assert_eq!(error.source.kind(), ErrorKind::OutOfMemory);
            feed.post_text("on").expect("room");
            assert_eq!(member.recv().await.expect("a message").text().expect("a text"), "on");
        });
    }
    play(TEST, &[("receives", receives)]);
}
