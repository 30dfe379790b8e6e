//! Each end on its own thread, with payload and with sleeps: for Miri and for the machine.

use std::sync::mpsc;
use std::thread::{self, Thread};
use std::time::Duration;

use crate::ring::consumer::{Consumer, Peek};
use crate::ring::harness::{payload, read_payload, write_payload};
use crate::ring::lane;
use crate::ring::memory::Memory;
use crate::ring::notifier::{Sleep, Wait, Wake};
use crate::ring::producer::{Producer, Refusal};
use crate::ring::segment::Geometry;
use crate::wire::record::Format;

const MESSAGES: u64 = if cfg!(miri) { 300 } else { 20_000 };

#[test]
fn two_threads_pass_every_message_whole_over_a_bounded_lane() {
    run(Geometry::new(256, 256));
}

#[test]
fn two_threads_pass_every_message_whole_over_a_growing_lane() {
    run(Geometry::new(128, 2048));
}

fn run(geometry: Geometry) {
    let memory = Memory::on_heap(geometry.limit());
    let (producer, consumer) = lane::fresh(&memory, geometry, 0u64.wrapping_sub(160));
    let (to_producer, from_main) = mpsc::channel();
    let posting = thread::spawn(move || {
        let receiver = from_main.recv().expect("the main thread lives");
        post_all(producer, geometry, &receiver);
    });
    to_producer.send(thread::current()).expect("the thread waits for this");
    receive_all(consumer, geometry, posting.thread());
    posting.join().expect("the producer found nothing wrong");
}

fn post_all(mut producer: Producer, geometry: Geometry, receiver: &Thread) {
    for number in 0..MESSAGES {
        let len = len_of(number, &geometry);
        let plan = loop {
            match producer.plan(u64::from(len)) {
                Ok(plan) => break plan,
                Err(Refusal::Full) => wait_for_room(&mut producer, u64::from(len), receiver),
                Err(refusal) => panic!("message {number}: {refusal:?}"),
            }
        };
        let offset = plan.payload_offset();
        write_payload(producer.memory(), offset, &payload(number, len));
        producer.stage(plan, len, Format::Bytes);
        if number % 3 != 1 || number + 1 == MESSAGES {
            wake(producer.commit(), receiver);
        }
    }
}

fn wait_for_room(producer: &mut Producer, len: u64, receiver: &Thread) {
    wake(producer.commit(), receiver);
    if let Some(hop) = producer.hop(len) {
        wake(hop, receiver);
    } else if producer.prepare_wait(len, Sleep::Futex) == Wait::Sleep {
        sleep("the producer, for room", producer.memory());
    }
}

fn receive_all(mut consumer: Consumer, geometry: Geometry, sender: &Thread) {
    let mut number = 0;
    while number < MESSAGES {
        match consumer.peek().expect("an honest peer") {
            Peek::Message(record) => {
                assert_eq!(record.len, len_of(number, &geometry));
                let found = read_payload(consumer.memory(), &record);
                assert!(found == payload(number, record.len), "message {number} is torn");
                consumer.take(&record);
                wake(consumer.release(record.end), sender);
                number += 1;
            }
            Peek::Empty if consumer.has_unreleased() => {
                wake(consumer.release(consumer.position()), sender);
            }
            Peek::Empty => {
                if consumer.prepare_wait(Sleep::Doorbell) == Ok(Wait::Sleep) {
                    sleep("the consumer, for a message", consumer.memory());
                }
            }
            Peek::Closed(kind) => panic!("no side closed, but the peek says {kind:?}"),
        }
    }
}

fn len_of(number: u64, geometry: &Geometry) -> u32 {
    let largest = geometry.largest_message();
    let len = if number.is_multiple_of(17) { largest } else { number * 7 % (largest.min(64) + 1) };
    len as u32
}

fn wake(wake: Wake, sleeper: &Thread) {
    match wake {
        Wake::NoSleeper => {}
        Wake::Futex | Wake::Doorbell => sleeper.unpark(),
    }
}

/// Sleeps as the kernel would. A wake-up that is lost ends the test and shows the lane.
fn sleep(who: &str, memory: &Memory) {
    let deadline = Duration::from_secs(60);
    let began = std::time::Instant::now();
    thread::park_timeout(deadline);
    assert!(began.elapsed() < deadline, "{who} slept for ever: {:#?}", memory.lane());
}
