//! Many calls of many threads, with everything that can end one.

use crate::common::role::{command, play};
use crate::common::watchdog::progress;
use crate::common::{kill_process, messages::Rng};
use crate::{Question, expected, question};
use messageport::{
    Call, CallError, CloseReason, OwnedRequest, PostError, Requester, Responder, TypedError,
    Worker, parent_port,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const THREADS: u64 = 8;
/// Calls that each thread has open at a time: 1,000 in all.
const OPEN: usize = 125;
/// Calls of each thread.
const CALLS: u64 = 2_000;

type Reply = crate::Answer;

/// What a question has the responder do, by its number.
fn is_refused(number: u64) -> bool {
    number % 23 == 5
}

fn is_dropped(number: u64) -> bool {
    number % 29 == 7
}

/// Holds up to some hundred requests, and answers them in random order, some of them from another
/// thread.
fn answers() {
    let port = parent_port().expect("a port to the parent");
    let responder: Responder<Question, Reply> = port.responder();
    let (send, other) = std::sync::mpsc::channel::<OwnedRequest<Question, Reply>>();
    let helper = thread::spawn(move || other.into_iter().for_each(|request| finish(&request)));
    let mut rng = Rng(99);
    let mut held = Vec::new();
    loop {
        let received = match held.is_empty() {
            true => responder.recv().map(Some),
            false => responder.try_recv(),
        };
        match received {
            Ok(Some(request)) => held.push(request.into_owned().expect("memory")),
            Ok(None) => {}
            Err(TypedError::Recv(_)) => break,
            Err(error) => panic!("{error}"),
        }
        if held.len() > rng.below(600) as usize || !held.is_empty() && rng.below(4) == 0 {
            let request = held.swap_remove(rng.below(held.len() as u64) as usize);
            match rng.below(4) {
                0 => send.send(request).expect("the other thread"),
                _ => finish(&request),
            }
        }
        progress();
    }
    drop((send, held));
    helper.join().expect("no panic");
}

fn finish(request: &OwnedRequest<Question, Reply>) {
    let number = request.data().number.to_native();
    let answered = match number {
        number if is_refused(number) => request.refuse("on purpose"),
        number if is_dropped(number) => Ok(()),
        _ => request.reply_timeout(&crate::answer(request.data()), Duration::MAX),
    };
    match answered {
        Ok(()) | Err(PostError::Closed { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// How often calls ended in each way.
#[derive(Default)]
struct Tally {
    replies: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
    timeouts: AtomicU64,
    cancelled: AtomicU64,
    closed: AtomicU64,
}

impl Tally {
    /// Checks one outcome, which belongs to this number and no other.
    fn count(&self, number: u64, outcome: Result<messageport::Reply<Reply>, CallError>) {
        let counter = match outcome {
            Ok(reply) => {
                assert_eq!(reply.deserialize().expect("an answer"), expected(number));
                assert!(!is_refused(number) && !is_dropped(number));
                &self.replies
            }
            Err(CallError::Refused { text }) => {
                assert!(text == "on purpose" && is_refused(number), "{number}: {text}");
                &self.refused
            }
            Err(CallError::Unanswered) => {
                assert!(is_dropped(number), "{number}");
                &self.unanswered
            }
            Err(CallError::Timeout) => &self.timeouts,
            Err(CallError::Cancelled) => &self.cancelled,
            Err(CallError::Closed { reason: CloseReason::PeerDied, .. }) => &self.closed,
            Err(error) => panic!("{number}: {error}"),
        };
        counter.fetch_add(1, SeqCst);
        progress();
    }

    fn all(&self) -> HashMap<&'static str, u64> {
        [
            ("replies", &self.replies),
            ("refused", &self.refused),
            ("unanswered", &self.unanswered),
            ("timeouts", &self.timeouts),
            ("cancelled", &self.cancelled),
            ("closed", &self.closed),
        ]
        .map(|(name, counter)| (name, counter.load(SeqCst)))
        .into()
    }
}

/// One thread: keeps `OPEN` calls open, and ends them in random order and in each way.
fn call_again_and_again(requester: &Requester<Question, Reply>, thread: u64, tally: &Tally) -> u64 {
    let mut rng = Rng(thread);
    let mut open: Vec<(u64, Call<Reply>)> = Vec::new();
    let mut started = 0;
    let end_one = |open: &mut Vec<(u64, Call<Reply>)>, rng: &mut Rng| {
        let (number, call) = open.swap_remove(rng.below(open.len() as u64) as usize);
        match rng.below(20) {
            0 => {
                let canceller = call.canceller();
                let other = thread::spawn(move || canceller.cancel());
                tally.count(number, call.wait());
                other.join().expect("no panic");
            }
            1 => {
                drop(call);
                tally.cancelled.fetch_add(1, SeqCst);
            }
            2 => tally.count(number, call.wait_timeout(Duration::from_micros(rng.below(300)))),
            _ => tally.count(number, call.wait()),
        }
    };
    for round in 0..CALLS {
        let number = thread * CALLS + round;
        match requester.start(&question(number)) {
            Ok(call) => {
                open.push((number, call));
                started += 1;
            }
            Err(PostError::Closed { .. }) => break,
            Err(error) => panic!("{error}"),
        }
        if open.len() >= OPEN {
            end_one(&mut open, &mut rng);
        }
    }
    while !open.is_empty() {
        end_one(&mut open, &mut rng);
    }
    started
}

fn crowd(test: &str, kill_after: Option<u64>) {
    let worker = Worker::spawn(command(test, "answers")).expect("a worker");
    let (port, mut child) = worker.into_parts();
    let requester: Requester<Question, Reply> = port.requester();
    let tally = Arc::new(Tally::default());
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (requester, tally) = (requester.clone(), tally.clone());
            thread::spawn(move || call_again_and_again(&requester, thread, &tally))
        })
        .collect();
    if let Some(replies) = kill_after {
        crate::common::wait_until("some calls were answered", || {
            tally.replies.load(SeqCst) >= replies
        });
        kill_process(child.id());
    }
    let started: u64 = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
    let all = tally.all();
    assert_eq!(all.values().sum::<u64>(), started, "each call ends once: {all:?}");
    assert_eq!(requester.open_calls(), 0);
    assert!(all["replies"] > 0 && all["cancelled"] > 0, "{all:?}");
    match kill_after {
        Some(_) => assert!(all["closed"] > 0, "{all:?}"),
        None => {
            assert_eq!(started, THREADS * CALLS);
            assert_eq!(all["closed"], 0, "{all:?}");
            assert!(all["refused"] > 0 && all["unanswered"] > 0, "{all:?}");
        }
    }
    drop(requester);
    child.wait().expect("a child");
}

#[test]
fn a_thousand_open_calls_of_eight_threads_end_once_each() {
    const TEST: &str = "crowd::a_thousand_open_calls_of_eight_threads_end_once_each";
    play(TEST, &[("calls", || crowd(TEST, None)), ("answers", answers)]);
}

#[test]
fn a_thousand_open_calls_end_once_each_when_the_responder_is_killed() {
    const TEST: &str = "crowd::a_thousand_open_calls_end_once_each_when_the_responder_is_killed";
    fn calls() {
        for round in 0..5 {
            crowd(TEST, Some(1 + 700 * round));
        }
    }
    play(TEST, &[("calls", calls), ("answers", answers)]);
}
