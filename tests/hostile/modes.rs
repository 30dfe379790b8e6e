//! The same scribbling against what stands upon a port: requesters and responders, a sender that
//! threads share, streams of bytes, collections, and tasks. Each call ends, and what has ended stays
//! so, with the same reason.

use super::scribble::{AIMS, scribble};
use super::{Pair, Stop, pair};
use crate::common::messages::Rng;
use crate::common::wanted;
use crate::common::watchdog::{progress, watch};
use messageport::{
    CallError, CloseReason, MessagePort, PortCollection, PostError, RecvError, TypedError,
};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::Duration;

const SHORT: Duration = Duration::from_micros(50);

/// Calls of a victim's kind until it has ended, or this many times.
pub const ROUNDS: u64 = 200;

/// Runs `suffer` with a victim whose peer posts some honest messages and answers, while it scribbles
/// over all that they share.
pub fn while_scribbled_over(test: &str, suffer: impl Fn(MessagePort)) {
    let _watch = watch(test);
    for round in 0..wanted("MESSAGEPORT_SCRIBBLES", 70) {
        let Pair { victim, peer, region } = pair();
        let aim = AIMS[round as usize % AIMS.len()];
        let stop = Stop::new();
        for number in 0..20u64 {
            // Some end as a request or as a reply does.
            let trailer = [number + 1, (1 + number % 5) << 32];
            let _ = match number % 3 {
                0 => peer.post_bytes(&[3; 200][..number as usize * 10]),
                _ => peer.post_message(&(number, trailer)),
            };
        }
        thread::scope(|scope| {
            let _at_end = stop.at_end();
            scope.spawn(|| {
                let (peer, mut rng) = (peer, Rng(round));
                while !stop.is_set() {
                    answer(&peer, &mut rng);
                    scribble(&region, aim, &mut rng);
                    rng.dawdle(Duration::from_micros(5));
                }
            });
            suffer(victim);
        });
        progress();
    }
}

/// Answers what may be a call in some way.
fn answer(peer: &MessagePort, rng: &mut Rng) {
    if let Ok(Some(event)) = peer.try_recv()
        && let Some(mut trailer) = event.bytes().last_chunk::<16>().copied()
    {
        // Where a trailer has its kind.
        trailer[12] = 2 + rng.below(4) as u8;
        let _ = peer.post_message(&(rng.next(), trailer));
    }
}

/// An end that was told: it stays, and so does its reason.
#[derive(Default)]
pub struct End(Option<CloseReason>);

impl End {
    #[track_caller]
    pub fn is(&mut self, reason: CloseReason) {
        assert_eq!(*self.0.get_or_insert(reason), reason, "another end");
    }

    #[track_caller]
    pub fn is_not_yet(&self) {
        assert_eq!(self.0, None, "open again");
    }
}

/// What a post may say.
#[track_caller]
pub fn posted(end: &mut End, answer: Result<(), PostError>) {
    match answer {
        Ok(()) | Err(PostError::QueueFull { .. } | PostError::Timeout) => end.is_not_yet(),
        Err(PostError::Closed { reason }) => end.is(reason),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_requester_that_is_scribbled_over_ends_at_worst() {
    while_scribbled_over("modes::a_requester_that_is_scribbled_over_ends_at_worst", |victim| {
        let requester = victim.requester::<u64, u64>();
        let mut end = End::default();
        for round in 0..ROUNDS {
            let ended = match round % 3 {
                0 => requester.call_timeout(&round, SHORT),
                1 => requester.call_map_timeout(&round, SHORT, |number| number.to_native()),
                _ => match requester.start(&round) {
                    Ok(call) => match call.wait_timeout(SHORT) {
                        Ok(reply) => Ok(reply.data().to_native()),
                        Err(error) => Err(error),
                    },
                    Err(PostError::Closed { reason }) => {
                        Err(CallError::Closed { reason, is_posted: false })
                    }
                    Err(error) => Err(error.into()),
                },
            };
            match ended {
                // A forged reply is one.
                Ok(_) | Err(CallError::Timeout | CallError::Unanswered) => end.is_not_yet(),
                Err(CallError::Refused { .. } | CallError::Message(_)) => end.is_not_yet(),
                Err(CallError::Post(PostError::QueueFull { .. } | PostError::Timeout)) => {
                    end.is_not_yet();
                }
                Err(CallError::Closed { reason, .. }) => end.is(reason),
                // The types that the peer has declared are scribbled over as well.
                Err(CallError::Post(PostError::TypeMismatch(_))) => {}
                Err(error) => panic!("{error}\n{requester:#?}"),
            }
            if end.0.is_some() && round % 16 == 15 {
                break;
            }
        }
        assert_eq!(requester.open_calls(), 0);
    });
}

#[test]
fn a_responder_that_is_scribbled_over_ends_at_worst() {
    while_scribbled_over("modes::a_responder_that_is_scribbled_over_ends_at_worst", |victim| {
        let responder = victim.responder::<u64, u64>();
        let (mut end, mut sent) = (End::default(), End::default());
        for round in 0..ROUNDS {
            match responder.recv_timeout(SHORT) {
                Ok(request) => {
                    end.is_not_yet();
                    let number = request.data().to_native();
                    match round % 3 {
                        0 => posted(&mut sent, request.reply(&number)),
                        1 => posted(&mut sent, request.reply_timeout(&number, SHORT)),
                        _ => match request.into_owned() {
                            Ok(request) => posted(&mut sent, request.refuse("no")),
                            Err(error) => panic!("{error}"),
                        },
                    }
                }
                Err(TypedError::Recv(RecvError::Timeout) | TypedError::Message(_)) => {
                    end.is_not_yet();
                }
                Err(TypedError::Recv(RecvError::Closed { reason })) => end.is(reason),
                Err(TypedError::TypeMismatch(_)) => {}
                Err(error) => panic!("{error}\n{responder:#?}"),
            }
            if end.0.is_some() && round % 16 == 15 {
                break;
            }
        }
    });
}

#[test]
fn a_shared_sender_that_is_scribbled_over_ends_at_worst() {
    while_scribbled_over("modes::a_shared_sender_that_is_scribbled_over_ends_at_worst", |victim| {
        let (sender, _receiver) = victim.split();
        let sender = sender.into_shared();
        let post = || {
            let mut end = End::default();
            for round in 0..ROUNDS {
                let answer = match round % 4 {
                    0 => sender.post_bytes(&[1; 100]),
                    1 => sender.post_message(&round),
                    2 => sender.post_bytes_timeout(&[2; 2000], SHORT),
                    _ => {
                        let file = File::open("/dev/null").expect("a file");
                        let sent = sender.post_text_with("file", [file.into()]);
                        sent.map_err(|error| {
                            let (reason, list) = error.into_parts();
                            assert_eq!(list.len(), 1);
                            reason
                        })
                    }
                };
                posted(&mut end, answer);
                let _ = (sender.is_closed(), sender.backlog(), sender.stats());
            }
        };
        thread::scope(|scope| {
            (0..3).for_each(|_| _ = scope.spawn(post));
        });
    });
}

#[test]
fn a_stream_of_bytes_and_a_collection_that_are_scribbled_over_end_at_worst() {
    const TEST: &str =
        "modes::a_stream_of_bytes_and_a_collection_that_are_scribbled_over_end_at_worst";
    while_scribbled_over(TEST, |victim| {
        let (mut has_ended, mut bytes) = (false, [0; 100]);
        let mut reader = victim.reader().timeout(SHORT);
        for _ in 0..ROUNDS {
            match reader.read(&mut bytes) {
                Ok(0) => has_ended = true,
                Ok(_) => assert!(!has_ended, "open again"),
                Err(error) => match error.kind() {
                    ErrorKind::TimedOut | ErrorKind::InvalidData => {
                        assert!(!has_ended, "open again");
                    }
                    // Bytes may be missing.
                    ErrorKind::UnexpectedEof => has_ended = true,
                    _ => panic!("{error}"),
                },
            }
            match victim.writer().timeout(SHORT).write(&[1; 100]) {
                Ok(count) => assert_eq!(count, 100),
                Err(error) if error.kind() == ErrorKind::TimedOut => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}"),
            }
        }
        drop(reader);
        let mut all = PortCollection::owned();
        all.add(victim);
        for round in 0..ROUNDS {
            // An end is reported, and the member has gone.
            let _ = all.post_message(&round);
        }
    });
}
