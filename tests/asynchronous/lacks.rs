//! Where there are no descriptors for a message, tasks sleep until it comes without them.

use crate::common::limits::{allow_all_descriptors, allow_more_descriptors};
use crate::common::role::play;
use crate::{into_async, on_each};
use futures_lite::future::or;
use futures_util::StreamExt;
use messageport::{MessageChannel, MessageError, Transferable};
use std::fs::File;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};

#[derive(Default)]
struct Sleeper {
    is_woken: Mutex<bool>,
    wakes: Condvar,
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        *self.is_woken.lock().expect("no panic") = true;
        self.wakes.notify_all();
    }
}

/// Far more than one in the twentieth part of a second, far fewer than of a task that wakes itself.
const MOST_POLLS: u32 = 50;

/// Runs a task while this process can have no more descriptors.
fn without_descriptors<T>(task: impl Future<Output = T>) -> T {
    let sleeper = Arc::new(Sleeper::default());
    let waker = Waker::from(sleeper.clone());
    let mut context = Context::from_waker(&waker);
    let mut task = pin!(task);
    allow_more_descriptors(0);
    let mut polls = 0;
    let answer = loop {
        polls += 1;
        if let Poll::Ready(answer) = task.as_mut().poll(&mut context) {
            break answer;
        }
        let is_woken = sleeper.is_woken.lock().expect("no panic");
        let mut is_woken =
            sleeper.wakes.wait_while(is_woken, |is_woken| !*is_woken).expect("no panic");
        *is_woken = false;
    };
    allow_all_descriptors();
    assert!(polls <= MOST_POLLS, "{polls} polls");
    answer
}

fn token() -> Transferable {
    File::open("/dev/null").expect("a file").into()
}

fn is_lost<T>(taken: Result<T, MessageError>) -> bool {
    matches!(taken, Err(MessageError::TransfersLost { descriptors: 1 }))
}

#[test]
fn a_stream_sleeps_while_there_are_no_descriptors() {
    const TEST: &str = "lacks::a_stream_sleeps_while_there_are_no_descriptors";
    fn sleeps() {
        on_each(TEST, async || {
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            let mut port2 = into_async(port2);
            // What each side takes once.
            port1.post_message_with(&1, [token()]).expect("room");
            drop(port2.recv().await.expect("a message"));
            port1.post_message_with(&2, [token()]).expect("room");
            let (_, mut receiver) = port2.split();
            let message = without_descriptors(receiver.next()).expect("no end").expect("a message");
            assert!(is_lost(message.take_descriptor()));
        });
    }
    play(TEST, &[("sleeps", sleeps)]);
}

#[test]
fn requests_and_replies_sleep_while_there_are_no_descriptors() {
    const TEST: &str = "lacks::requests_and_replies_sleep_while_there_are_no_descriptors";
    fn sleeps() {
        on_each(TEST, async || {
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            let (requester, mut driver) = into_async(port1).requester::<u32, u32>();
            let mut responder = into_async(port2).responder::<u32, u32>();
            for number in 0..2 {
                let call = async {
                    requester.call_with(&number, [token()]).await.expect("room").expect("a reply")
                };
                let mut call = pin!(or(call, async {
                    let end = (&mut driver).await;
                    panic!("it has ended: {end}")
                }));
                assert!(futures_lite::future::poll_once(&mut call).await.is_none());
                let take = async { responder.recv().await.expect("a request") };
                let request = if number == 0 { take.await } else { without_descriptors(take) };
                assert_eq!(is_lost(request.take_descriptor()), number == 1);
                request.reply_with(&number, [token()]).expect("room");
                let reply = if number == 0 { call.await } else { without_descriptors(call) };
                assert_eq!(reply.deserialize().expect("a number"), number);
                assert_eq!(is_lost(reply.take_descriptor()), number == 1);
            }
        });
    }
    play(TEST, &[("sleeps", sleeps)]);
}
