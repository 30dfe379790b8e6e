//! Requests and replies: each call ends exactly once, with its own reply or its own error.

#![allow(unsafe_code)]

#[path = "requests/calls.rs"]
mod calls;
#[path = "requests/checks.rs"]
mod checks;
mod common;
#[path = "requests/crowd.rs"]
mod crowd;
#[path = "requests/ends.rs"]
mod ends;
#[path = "common/filter.rs"]
mod filter;
#[path = "requests/hostile.rs"]
mod hostile;
#[path = "requests/lacks.rs"]
mod lacks;
#[path = "requests/loops.rs"]
mod loops;
#[path = "requests/room.rs"]
mod room;
#[cfg(any(feature = "tokio", feature = "async-io"))]
#[path = "requests/tasks.rs"]
mod tasks;

use messageport::{CallError, MessageChannel, Requester, Responder, rkyv};
use std::fmt::Debug;

/// A request whose reply is told by it.
#[messageport::message]
#[derive(Clone, Debug, PartialEq)]
struct Question {
    number: u64,
    words: Vec<String>,
}

/// Its reply.
#[messageport::message]
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    number: u64,
    text: String,
}

fn question(number: u64) -> Question {
    let words = (0..number % 5).map(|word| format!("word {word} of {number}")).collect();
    Question { number, words }
}

/// The reply to a question.
fn answer(question: &ArchivedQuestion) -> Answer {
    let text = question.words.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(", ");
    Answer { number: question.number.to_native(), text }
}

fn expected(number: u64) -> Answer {
    let bytes = rkyv::to_bytes::<rkyv::rancor::BoxedError>(&question(number)).expect("a question");
    answer(rkyv::access::<ArchivedQuestion, rkyv::rancor::BoxedError>(&bytes).expect("valid"))
}

type Asks = Requester<Question, Answer>;
type Answers = Responder<Question, Answer>;

fn pair() -> (Asks, Answers) {
    pair_of(MessageChannel::new().expect("a channel"))
}

fn pair_of(channel: MessageChannel) -> (Asks, Answers) {
    (channel.port1.requester(), channel.port2.responder())
}

/// A channel whose lanes hold few messages, and never grow.
fn bounded() -> MessageChannel {
    MessageChannel::builder().capacity(4096).bounded().build().expect("a channel")
}

/// Answers the next request as it should be.
#[track_caller]
fn answer_next(responder: &Answers) {
    let request = responder.recv_timeout(common::DEADLINE).expect("a request");
    request.reply(&answer(request.data())).expect("room");
}

/// Why a call has no reply.
#[track_caller]
fn failure<T: Debug>(outcome: Result<T, CallError>) -> CallError {
    outcome.expect_err("a call without a reply")
}
