//! How much memory a pair takes, and when it gives it back.
//!
//! `MESSAGEPORT_FLOODS=1000` floods that often, instead of a few times.
#![allow(unsafe_code)]

use super::channel;
use crate::common::messages::{Rng, Stream};
use crate::common::region::Region;
use crate::common::wanted;
use crate::common::watchdog::{progress, watch};
use messageport::{MessageChannel, MessagePort, PostError};

const KIB: u64 = 1 << 10;
const CAPACITY: u64 = 16 * KIB;
const LIMIT: u64 = 1024 * KIB;

/// Memory of a pair at rest: the header, both first segments, and a page of each larger one where
/// a jump stands.
const AT_REST: u64 = 4 * KIB + 2 * CAPACITY + 7 * 4 * KIB;

fn pair() -> (MessageChannel, Region) {
    let builder = MessageChannel::builder().capacity(CAPACITY as usize).limit(LIMIT as usize);
    let channel = builder.build().expect("a channel");
    let region = Region::of(&channel.port1);
    (channel, region)
}

/// Posts a stream from `number` on until there is no room. Returns the number that is next.
fn flood(port: &MessagePort, stream: Stream, mut number: u64, most: usize) -> u64 {
    loop {
        let body = stream.message(number);
        match port.post_text(&body[..body.len().min(most)]) {
            Ok(()) => number += 1,
            Err(PostError::QueueFull { unread, limit, .. }) => {
                assert!(unread <= limit && limit == LIMIT);
                return number;
            }
            Err(error) => panic!("{error}\n{port:#?}"),
        }
    }
}

/// Receives what is there. Returns the number that is next.
fn drain(port: &MessagePort, stream: Stream, mut number: u64, most: usize) -> u64 {
    while let Some(event) = port.try_recv().expect("an open port") {
        let body = stream.message(number);
        assert_eq!(event.text().expect("a text"), &body[..body.len().min(most)]);
        number += 1;
        progress();
    }
    number
}

/// Floods, drains, and has `after` look at what is left, again and again.
fn flood_and_drain(channel: &MessageChannel, region: &Region, after: impl Fn(&str)) {
    let MessageChannel { port1, port2 } = channel;
    let mut rng = Rng(6);
    let (mut posted, mut received) = (0, 0);
    for round in 0..wanted("MESSAGEPORT_FLOODS", 20) {
        let stream = Stream { seed: rng.next() };
        // Small messages in one round, of all sizes in the next.
        let most = if round % 2 == 0 { CAPACITY as usize / 4 } else { usize::MAX };
        posted = flood(port1, stream, posted, most);
        assert!(region.memory() <= LIMIT + CAPACITY + 4 * KIB, "{} bytes", region.memory());
        received = drain(port2, stream, received, most);
        assert_eq!(received, posted, "round {round}");
        // Until the lane has gone home: it waits until large messages have become rare.
        for _ in 0..if round % 2 == 0 { 1 } else { 70 } {
            posted += u64::from(port1.post_text("small").is_ok());
            received += u64::from(port2.try_recv().expect("an open port").is_some());
        }
        assert_eq!(received, posted, "round {round}");
        after(&format!("round {round}"));
    }
}

#[test]
fn a_flood_of_an_untrusted_pair_is_bounded_and_loses_nothing() {
    let _watch = watch("a_flood_of_an_untrusted_pair_is_bounded_and_loses_nothing");
    let (channel, region) = pair();
    flood_and_drain(&channel, &region, |_| {});
    assert!(region.memory() > LIMIT / 2, "without trust nothing is given back by itself");
    let freed = channel.port1.trim().expect("idle pages");
    assert!(freed > LIMIT / 2, "{freed} bytes");
    assert!(region.memory() <= AT_REST, "{} bytes", region.memory());
}

#[test]
fn a_flood_of_a_trusted_pair_gives_its_memory_back_at_the_next_posts() {
    let _watch = watch("a_flood_of_a_trusted_pair_gives_its_memory_back_at_the_next_posts");
    let (channel, region) = pair();
    // SAFETY: both ends are in this very function.
    unsafe { channel.port1.trust_peer() };
    // SAFETY: the same.
    unsafe { channel.port2.trust_peer() };
    flood_and_drain(&channel, &region, |when| {
        assert!(region.memory() <= AT_REST, "{when}: {} bytes", region.memory());
    });
}

#[test]
fn a_trim_gives_back_what_is_idle_and_only_that() {
    let _watch = watch("a_trim_gives_back_what_is_idle_and_only_that");
    let (MessageChannel { port1, port2 }, region) = pair();
    let stream = Stream { seed: 8 };
    assert_eq!(port1.trim().expect("nothing to do"), 0);
    let posted = flood(&port1, stream, 0, usize::MAX);
    port1.trim().expect("all is in use");
    let mut received = 0;
    while received < posted / 2 {
        let event = port2.try_recv().expect("an open port").expect("a message");
        assert_eq!(event.text().expect("a text"), stream.message(received));
        received += 1;
    }
    port1.trim().expect("half is in use");
    assert_eq!(drain(&port2, stream, received, usize::MAX), posted);
    port1.trim().expect("nothing is in use");
    assert!(region.memory() <= AT_REST, "{} bytes", region.memory());
    // What was given back comes again.
    let again = flood(&port1, stream, 0, usize::MAX);
    assert_eq!(drain(&port2, stream, 0, usize::MAX), again);
    port2.trim().expect("the other lane");
}

#[test]
fn an_idle_pair_takes_at_most_16_kib() {
    let MessageChannel { port1, port2 } = channel();
    let region = Region::of(&port1);
    assert!(region.memory() <= 16 * KIB, "{} bytes", region.memory());
    let _ = (format!("{port1:?}"), port1.stats(), port2.try_recv().expect("an open port"));
    drop(port2);
    port1.close();
    assert!(region.memory() <= 48 * KIB, "{} bytes", region.memory());
}

#[test]
fn a_pair_that_keeps_up_stays_in_its_first_segment() {
    let (MessageChannel { port1, port2 }, region) = pair();
    let stream = Stream { seed: 4 };
    for number in 0..2000 {
        let body = stream.message(number);
        let body = &body[..body.len().min(CAPACITY as usize / 4)];
        port1.post_text(body).expect("room");
        let event = port2.try_recv().expect("an open port").expect("a message");
        assert_eq!(event.text().expect("a text"), body);
    }
    assert_eq!(port1.stats().sent.growth, 0);
    assert!(region.memory() <= CAPACITY + 8 * KIB, "{} bytes", region.memory());
}
