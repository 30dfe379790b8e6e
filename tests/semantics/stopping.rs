//! Requests to stop: none is lost, whatever the loop does when it comes, and each ends one `run`.

use crate::common::watchdog::watch;
use crate::{channel, hear, loop_of};
use messageport::{EventLoop, MessagePort, PortId};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Who asks the loop to stop.
#[derive(Clone, Copy, Debug)]
enum By {
    /// The program, before it calls the loop.
    Caller,
    /// A handler, an action that it deferred, work for the loop, or a source: during the call.
    Handler,
    Deferred,
    Work,
    Source,
}

/// How the loop is called.
#[derive(Clone, Copy, Debug)]
enum Call {
    PollOnce,
    RunUntilIdle,
    Run,
    TakeRequest,
}

const REQUESTS: [Option<By>; 6] = [
    None,
    Some(By::Caller),
    Some(By::Handler),
    Some(By::Deferred),
    Some(By::Work),
    Some(By::Source),
];
const CALLS: [Call; 4] = [Call::PollOnce, Call::RunUntilIdle, Call::Run, Call::TakeRequest];

/// A loop with a port and a source, each of which stops it when it is told so.
struct Rig {
    event_loop: EventLoop,
    id: PortId,
    peer: MessagePort,
    source: UnixStream,
}

impl Rig {
    fn new() -> Rig {
        let pair = channel();
        let (mut event_loop, id) = loop_of(pair.port2);
        let handle = event_loop.handle();
        event_loop.get(id).expect("the port").on_message(move |event| {
            let text = event.message().expect("a message").text().expect("a text");
            match text {
                "stop" => handle.stop(),
                _ => _ = event.defer(|event_loop| event_loop.handle().stop()),
            }
        });
        let (source, far) = UnixStream::pair().expect("a pair");
        event_loop
            .add_source(far, |event_loop, far| {
                let mut byte = [0];
                std::io::Read::read_exact(&mut &*far, &mut byte).expect("a byte");
                event_loop.handle().stop();
            })
            .expect("room for a source");
        event_loop.run_until_idle().expect("the loop waits");
        Rig { event_loop, id, peer: pair.port1, source }
    }

    fn ask(&mut self, by: By) {
        match by {
            By::Caller => self.event_loop.handle().stop(),
            By::Handler => self.peer.post_text("stop").expect("room"),
            By::Deferred => self.peer.post_text("defer").expect("room"),
            By::Work => {
                assert!(self.event_loop.handle().post(|event_loop| event_loop.handle().stop()));
            }
            By::Source => {
                std::io::Write::write_all(&mut self.source, &[0]).expect("room");
            }
        }
    }
}

/// All sequences of two requests with calls behind them, against what is to be expected.
#[test]
fn a_stop_ends_one_run_whatever_was_called_before() {
    let _watch = watch("a_stop_ends_one_run_whatever_was_called_before");
    for first in REQUESTS {
        for second in REQUESTS {
            for calls in CALLS.iter().flat_map(|one| CALLS.iter().map(move |two| [*one, *two])) {
                let mut rig = Rig::new();
                let context = format!("{first:?} {second:?} {calls:?}");
                // Requests that the loop knows of, and those that it will meet in its next turn.
                let (mut is_pending, mut is_ahead) = (false, false);
                for (request, call) in [first, second].into_iter().zip(calls) {
                    if let Some(by) = request {
                        rig.ask(by);
                        match by {
                            By::Caller => is_pending = true,
                            _ => is_ahead = true,
                        }
                    }
                    let zero = Duration::ZERO;
                    match call {
                        Call::PollOnce => {
                            rig.event_loop.poll_once(zero).expect("the loop waits");
                            is_pending |= std::mem::take(&mut is_ahead);
                        }
                        Call::RunUntilIdle => {
                            rig.event_loop.run_until_idle().expect("the loop waits");
                            is_pending |= std::mem::take(&mut is_ahead);
                        }
                        Call::TakeRequest => {
                            let was_pending = rig.event_loop.take_stop_request();
                            assert_eq!(was_pending, std::mem::take(&mut is_pending), "{context}");
                        }
                        // Without a request it would go on for ever.
                        Call::Run if is_pending || is_ahead => {
                            rig.event_loop.run().expect("the loop waits");
                            // One that it knows of ends it before it meets the other one.
                            match is_pending {
                                true => is_pending = false,
                                false => is_ahead = false,
                            }
                        }
                        Call::Run => {}
                    }
                    assert_eq!(rig.event_loop.is_stopping(), is_pending, "{context}");
                }
                if is_pending || is_ahead {
                    rig.event_loop.run().expect("it ends for the request");
                }
                assert!(rig.event_loop.get(rig.id).is_some(), "{context}: stopped, not through");
            }
        }
    }
}

/// One that waits returns for it, and says so by `is_stopping`: it would wait for ever.
#[test]
fn a_stop_from_another_thread_ends_a_wait_and_then_the_next_run() {
    let _watch = watch("a_stop_from_another_thread_ends_a_wait_and_then_the_next_run");
    for round in 0..200 {
        let pair = channel();
        let (mut event_loop, id) = loop_of(pair.port2);
        let (says, said) = mpsc::channel();
        let handle = event_loop.handle();
        let other = thread::spawn(move || {
            hear(&said);
            for _ in 0..round * 100 {
                std::hint::spin_loop();
            }
            handle.stop();
        });
        says.send(()).expect("it listens");
        while !event_loop.is_stopping() {
            event_loop.poll_once(Duration::MAX).expect("the loop waits");
        }
        // It does not wait now, and the request stays.
        assert!(!event_loop.poll_once(Duration::MAX).expect("the loop waits"));
        event_loop.run_until_idle().expect("the loop waits");
        assert!(event_loop.is_stopping());
        event_loop.run().expect("it ends for the request");
        assert!(!event_loop.is_stopping() && event_loop.get(id).is_some());
        other.join().expect("no panic");
    }
}

/// The run that is through without it leaves the request to the next one.
#[test]
fn a_stop_that_comes_when_nothing_is_left_ends_the_next_run() {
    let pair = channel();
    let (mut event_loop, _) = loop_of(pair.port2);
    let handle = event_loop.handle();
    event_loop.ids().for_each(|id| {
        let handle = handle.clone();
        event_loop.get(id).expect("the port").on_close(move |_| handle.stop());
    });
    drop(pair.port1);
    event_loop.run().expect("the loop waits");
    assert!(!event_loop.is_stopping(), "it ended this one, which had no port left either");
    event_loop.run().expect("nothing to wait for");
    handle.stop();
    assert!(!event_loop.poll_once(Duration::MAX).expect("nothing to wait for"));
    assert!(event_loop.is_stopping());
}
