//! How much memory a pair takes, and when it gives it back.
//!
//! `MESSAGEPORT_FLOODS=1000` floods that often, instead of a few times.
#![allow(unsafe_code)]

use super::channel;
use crate::common::limits::{allow_all_address_space, allow_more_address_space};
use crate::common::messages::{Rng, Stream};
use crate::common::region::Region;
use crate::common::role::play;
use crate::common::watchdog::{progress, watch};
use crate::common::{DEADLINE, receive, receive_end, wanted};
use messageport::{CloseReason, MessageChannel, MessageError, MessagePort, PostError};
use std::time::{Duration, Instant};

const KIB: u64 = 1 << 10;
const CAPACITY: u64 = 16 * KIB;
const LIMIT: u64 = 1024 * KIB;

/// Memory of a pair at rest: the header, both first segments, and a page of each larger one where
/// a jump stands.
const AT_REST: u64 = 4 * KIB + 2 * CAPACITY + 7 * 4 * KIB;

/// Bytes of a page.
fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let size = size.expect("sysconf").expect("a page has a size");
    u64::try_from(size).expect("a size is positive")
}

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
        // Until the lane is back in the base segment: it waits until large messages have become
        // rare.
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

/// A pair whose ends trust each other, and its region.
fn trusted_pair() -> (MessageChannel, Region) {
    let (channel, region) = pair();
    trust(&channel);
    (channel, region)
}

pub fn trust(channel: &MessageChannel) {
    // SAFETY: both ends stay in the test that asked for them.
    unsafe { channel.port1.trust_peer() };
    // SAFETY: the same.
    unsafe { channel.port2.trust_peer() };
}

#[test]
fn a_trusted_pair_gives_its_memory_back_once_it_was_idle() {
    let _watch = watch("a_trusted_pair_gives_its_memory_back_once_it_was_idle");
    let (channel, region) = trusted_pair();
    flood_and_drain(&channel, &region, |_| {});
    let deadline = Instant::now() + DEADLINE;
    while region.memory() > AT_REST {
        assert!(Instant::now() < deadline, "{} bytes\n{:#?}", region.memory(), channel.port1);
        channel.port1.post_text("small").expect("room");
        channel.port2.try_recv().expect("an open port").expect("a message");
        progress();
    }
}

#[test]
fn a_trusted_pair_keeps_its_memory_for_the_next_burst() {
    let _watch = watch("a_trusted_pair_keeps_its_memory_for_the_next_burst");
    let (MessageChannel { port1, port2 }, region) = trusted_pair();
    let stream = Stream { seed: 9 };
    let deadline = Instant::now() + DEADLINE / 2;
    let (mut posted, mut received) = (0, 0);
    loop {
        let began = Instant::now();
        posted = flood(&port1, stream, posted, CAPACITY as usize / 4);
        received = drain(&port2, stream, received, CAPACITY as usize / 4);
        let full = region.memory();
        for number in 0..1000 {
            port1.post_text("home, and round it").expect("room");
            assert!(port2.try_recv().expect("an open port").is_some(), "message {number}");
        }
        let left = region.memory();
        // A round that took longer proves nothing: the pages may have been idle for long enough.
        if began.elapsed() < Duration::from_millis(900) {
            assert!(full > LIMIT / 2 && left >= full, "{left} bytes are left of {full}");
            return;
        }
        if Instant::now() > deadline {
            return eprintln!("skipped: no round took less than a second");
        }
        progress();
    }
}

/// Bytes that a pair still has when it posts a few short messages a while after a burst.
fn left_after_pauses(MessageChannel { port1, port2 }: &MessageChannel) -> u64 {
    let region = Region::of(port1);
    let short = || {
        port1.post_bytes(&[7; 1000]).expect("room");
        port2.try_recv().expect("an open port").expect("a message");
    };
    let posted = flood(port1, Stream { seed: 5 }, 0, usize::MAX);
    assert_eq!(drain(port2, Stream { seed: 5 }, 0, usize::MAX), posted);
    assert!(region.memory() > LIMIT / 2, "{} bytes", region.memory());
    // Until the lane is back in the base segment.
    (0..100).for_each(|_| short());
    // What is idle for a second is given back.
    std::thread::sleep(Duration::from_millis(1100));
    (0..40).for_each(|_| short());
    region.memory()
}

/// A sender with little to say looks for idle pages long before it has gone round its lane.
#[test]
fn a_few_messages_are_enough_for_a_trusted_pair_to_give_memory_back() {
    let _watch = watch("a_few_messages_are_enough_for_a_trusted_pair_to_give_memory_back");
    let capacity = LIMIT / 4;
    let builder = MessageChannel::builder().capacity(capacity as usize).limit(LIMIT as usize);
    let [untrusted, trusted] = [(), ()].map(|()| builder.build().expect("a channel"));
    trust(&trusted);
    let left = left_after_pauses(&trusted);
    assert!(left < LIMIT / 2, "{left} bytes are left: {:#?}", trusted.port1);
    // Between others a call for that could be held up.
    let left = left_after_pauses(&untrusted);
    assert!(left > LIMIT / 2, "{left} bytes are left: {:#?}", untrusted.port1);
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

/// A return to the base segment would be a commit, and the close is in what a commit stores.
#[test]
fn a_trim_after_a_close_takes_nothing_back() {
    let _watch = watch("a_trim_after_a_close_takes_nothing_back");
    let (MessageChannel { port1, port2 }, _) = pair();
    let posted = (0..).take_while(|_| port1.post_bytes(&[7; 100]).is_ok()).count();
    (0..posted).for_each(|_| drop(receive(&port2)));
    port1.close();
    port1.trim().expect("memory of this end");
    assert_eq!(receive_end(&port2), CloseReason::PeerClosed);
}

#[test]
fn an_idle_pair_takes_a_page_and_its_end_none() {
    let MessageChannel { port1, port2 } = channel();
    let region = Region::of(&port1);
    // The header's page is the only one.
    let idle = region.memory();
    assert!(idle <= 16 * KIB || idle == page_size(), "{idle} bytes");
    let _ = (format!("{port1:?}"), port1.stats(), port2.try_recv().expect("an open port"));
    assert_eq!(region.memory(), idle, "a look that finds nothing takes no memory");
    drop(port2);
    assert_eq!(region.memory(), idle, "a drop");
    port1.close();
    assert_eq!(region.memory(), idle, "a close");
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

/// The second copy of a message is as long as the peer likes, too.
#[test]
fn a_message_becomes_an_owned_one_where_there_is_no_memory_for_a_second_copy() {
    // More than glibc has reserved for a thread, whatever it was given back before.
    const LEN: usize = 66 << 20;
    fn victim() {
        let builder = MessageChannel::builder().limit(256 << 20);
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let posted = vec![7; LEN];
        port1.post_bytes(&posted).expect("room");
        let event = receive(&port2);
        allow_more_address_space(LEN as u64 / 4);
        let message = event.into_message();
        assert!(message.bytes().len() == LEN && message.bytes().iter().all(|byte| *byte == 7));
        drop(message);
        allow_all_address_space();
        port1.post_bytes(&posted).expect("room");
        drop(posted);
        // In place there is only one copy: the ring's.
        #[allow(unsafe_code)]
        // SAFETY: both ends are this test's.
        unsafe {
            port2.trust_peer();
        }
        let event = receive(&port2);
        allow_more_address_space(LEN as u64 / 4);
        let refused = event.try_into_message().map(drop).expect_err("no memory");
        assert!(matches!(refused, MessageError::OutOfMemory { len } if len == LEN as u64));
        allow_all_address_space();
        port1.post_text("on").expect("room");
        assert_eq!(receive(&port2).text().expect("a text"), "on");
    }
    let name = "memory::a_message_becomes_an_owned_one_where_there_is_no_memory_for_a_second_copy";
    play(name, &[("victim", victim)]);
}
