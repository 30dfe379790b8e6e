//! A sender that never receives learns of a death, at any rate and by every way to post. Its peer
//! was not asleep when it was killed, so that no post rings for it.

use super::{linger, parent, start};
use crate::common::role::play;
use crate::common::{DEADLINE, kill_process, refusal};
use messageport::{CloseReason, MessagePort, PostError, RecvError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// Every way to post a short message.
type Way = fn(&Sender) -> Result<(), PostError>;

fn ways() -> Vec<(&'static str, Way)> {
    vec![
        ("bytes", |sender| sender.post_bytes(&[7; 8])),
        ("text", |sender| sender.post_text("a text")),
        ("value", |sender| sender.post_message(&7u64)),
        ("long bytes", |sender| sender.post_bytes(&[7; 3000])),
        ("long value", |sender| sender.post_message(&vec![7u8; 3000])),
        ("loan", |sender| sender.loan(8)?.post()),
        ("burst", |sender| {
            let burst = sender.burst();
            burst.stage(&7u64)?;
            burst.stage_text("two")?;
            burst.commit();
            Ok(())
        }),
        ("waiting", |sender| sender.post_text_timeout("a text", DEADLINE)),
        ("bytes with a list", |sender| {
            sender.post_bytes_with(&[7; 8], []).map_err(|error| error.into_parts().0)
        }),
        ("value with a list", |sender| {
            sender.post_message_with(&7u64, []).map_err(|error| error.into_parts().0)
        }),
    ]
}

/// Kills the peer of a sender that posts every `pace`, and returns how many posts still began
/// later than a tenth of a second after the death and were `Ok`.
fn late_posts(
    test: &str,
    pace: Duration,
    post: fn(&Sender) -> Result<(), PostError>,
) -> (u32, String) {
    let (port, mut child) = start(test, "lingers").into_parts();
    wait_for_the_child(&port);
    let (sender, receiver) = port.split();
    let next = || {
        thread::sleep(pace);
        (Instant::now(), post(&sender))
    };
    for _ in 0..5 {
        next().1.expect("the peer lives");
    }
    kill_process(child.id());
    // Its sockets are closed before it can be waited for.
    child.wait().expect("a child of our own");
    let (death, mut late) = (Instant::now(), 0);
    loop {
        match next() {
            (began, Ok(())) => late += u32::from(began > death + Duration::from_millis(100)),
            (_, refused) => {
                assert_eq!(refusal(refused), CloseReason::PeerDied);
                break;
            }
        }
        assert!(death.elapsed() < DEADLINE, "a death was never noticed: {sender:#?}");
    }
    assert_eq!(refusal(post(&sender)), CloseReason::PeerDied);
    (late, format!("{receiver:#?}"))
}

/// The child has its port, and does not wait for anything that comes through it.
fn wait_for_the_child(port: &MessagePort) {
    assert_eq!(crate::common::receive_text(port), "here");
}

fn lingers() {
    let port = parent();
    port.post_text("here").expect("room");
    linger();
}

#[test]
fn a_death_ends_posts_by_every_way_at_one_a_millisecond() {
    const TEST: &str = "posting::a_death_ends_posts_by_every_way_at_one_a_millisecond";
    fn posts() {
        for (name, post) in ways() {
            let (late, receiver) = late_posts(TEST, Duration::from_millis(1), post);
            assert!(late <= 64, "{name}: {late} posts after a tenth of a second: {receiver}");
        }
    }
    play(TEST, &[("posts", posts), ("lingers", lingers)]);
}

#[test]
fn a_death_ends_posts_that_are_as_fast_as_they_can_be() {
    const TEST: &str = "posting::a_death_ends_posts_that_are_as_fast_as_they_can_be";
    fn posts() {
        for (name, post) in ways() {
            let (late, receiver) = late_posts(TEST, Duration::ZERO, post);
            assert!(late <= 64, "{name}: {late} posts after a tenth of a second: {receiver}");
        }
    }
    play(TEST, &[("posts", posts), ("lingers", lingers)]);
}

/// The clock is looked at before each of these, so that no count of posts has to be used up first.
#[test]
fn a_death_ends_posts_that_are_seldom() {
    const TEST: &str = "posting::a_death_ends_posts_that_are_seldom";
    fn posts() {
        for pace in [20, 200] {
            let post = |sender: &Sender| sender.post_bytes(&[7; 8]);
            let (late, receiver) = late_posts(TEST, Duration::from_millis(pace), post);
            assert!(late <= 2, "{pace} ms: {late} posts after a tenth of a second: {receiver}");
        }
    }
    play(TEST, &[("posts", posts), ("lingers", lingers)]);
}

/// Neither a descriptor that is watched nor a wait asks the kernel here.
#[test]
fn a_receiver_that_only_looks_learns_of_a_death() {
    const TEST: &str = "posting::a_receiver_that_only_looks_learns_of_a_death";
    fn looks() {
        let (port, mut child) = start(TEST, "lingers").into_parts();
        wait_for_the_child(&port);
        assert!(port.try_recv().expect("the peer lives").is_none());
        kill_process(child.id());
        child.wait().expect("a child of our own");
        let deadline = Instant::now() + DEADLINE / 2;
        let end = loop {
            match port.try_recv() {
                Ok(None) => assert!(Instant::now() < deadline, "never noticed: {port:#?}"),
                answer => break answer.map(|event| event.is_some()),
            }
        };
        let reason = CloseReason::PeerDied;
        assert!(matches!(end, Err(RecvError::Closed { reason: why }) if why == reason), "{end:?}");
    }
    play(TEST, &[("looks", looks), ("lingers", lingers)]);
}
