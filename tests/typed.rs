//! Ports with types: what is no `Rx` is an error of its own, the next message comes after it, and
//! no handler sees it.

mod common;

use common::ends::between_two_ends;
use common::{DEADLINE, receive, receive_end, wait_until};
use messageport::{
    CloseReason, EventLoop, MessageChannel, MessageError, MessagePort, RecvError, TypedError,
    TypedPort, rkyv,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[derive(
    rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, messageport::SafeArchive, Debug, PartialEq,
)]
#[rkyv(derive(Debug))]
struct Question {
    number: u64,
    words: String,
}

type Server = TypedPort<Question, u64>;
type Client = TypedPort<u64, Question>;

fn question(number: u64) -> Question {
    Question { number, words: format!("what is {number}?") }
}

fn pair() -> (Server, Client) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    (port1.typed(), port2.typed())
}

/// The same with an end that can post anything.
fn with_stranger() -> (Server, MessagePort) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    (port1.typed(), port2)
}

/// Posts what is no `Question`, once in each way there is. Says how many that were.
fn post_wrong(port: &MessagePort) -> usize {
    port.post_text("words").expect("room");
    port.post_bytes(&[0; 16]).expect("room");
    port.post_bytes(b"").expect("room");
    port.post_message(&7u8).expect("room");
    // As long as a question, with words that are no UTF-8.
    port.post_message(&[0xfefe_fefe_fefe_fefe_u64; 2]).expect("room");
    5
}

/// Why a message is none of the type.
#[track_caller]
fn wrong<T: std::fmt::Debug>(answer: Result<T, TypedError>) -> MessageError {
    match answer {
        Err(TypedError::Message(error)) => error,
        other => panic!("expected a message of another type: {other:?}"),
    }
}

#[test]
fn each_end_has_its_types() {
    let (server, client) = pair();
    for number in 0..100 {
        client.post_message(&question(number)).expect("room");
        let event = server.recv().expect("a question");
        assert_eq!(event.data().number, number);
        assert_eq!(event.deserialize().expect("a question"), question(number));
        assert_eq!(event.bytes().len(), event.into_inner().into_message().bytes().len());
        server.post_message_timeout(&(number * 2), DEADLINE).expect("room");
        let answer = client.recv_timeout(DEADLINE).expect("an answer");
        assert_eq!(answer.data().to_native(), number * 2);
    }
    assert!(client.try_recv().expect("an open port").is_none());
    client.close();
    assert!(client.is_closed() && server.is_closed());
    let end = server.recv().expect_err("the end");
    let reason = CloseReason::PeerClosed;
    assert!(matches!(end, TypedError::Recv(RecvError::Closed { reason: why }) if why == reason));
}

/// Every call that receives says it, and the next message goes on.
#[test]
fn a_message_of_another_type_is_an_error_and_the_next_one_comes() {
    let (server, stranger) = with_stranger();
    type Call = fn(&Server) -> Result<u64, TypedError>;
    let calls: [Call; 4] = [
        |server| server.recv().map(|event| event.data().number.to_native()),
        |server| server.recv_timeout(DEADLINE).map(|event| event.data().number.to_native()),
        |server| {
            let deadline = Instant::now() + DEADLINE;
            server.recv_deadline(deadline).map(|event| event.data().number.to_native())
        },
        |server| {
            let event = server.try_recv()?.expect("a message");
            Ok(event.data().number.to_native())
        },
    ];
    for call in calls {
        for number in 0..3 {
            let count = post_wrong(&stranger);
            stranger.post_message(&question(number)).expect("room");
            let errors: Vec<_> = (0..count).map(|_| wrong(call(&server))).collect();
            for error in &errors[..3] {
                assert!(matches!(error, MessageError::Format { .. }), "{error}");
            }
            for error in &errors[3..] {
                assert!(matches!(error, MessageError::Invalid { .. }), "{error}");
                assert!(error.to_string().contains("Question"), "{error}");
            }
            assert_eq!(call(&server).expect("a question"), number);
        }
    }
    assert!(!server.is_closed());
}

#[test]
fn a_deadline_and_a_timeout_pass() {
    let (server, _client) = pair();
    let timeout = |answer| match answer {
        Err(TypedError::Recv(RecvError::Timeout)) => true,
        Err(_) => false,
        Ok(event) => panic!("{event:?}"),
    };
    assert!(timeout(server.recv_deadline(Instant::now())));
    assert!(timeout(server.recv_deadline(Instant::now() + Duration::from_millis(1))));
    assert!(timeout(server.recv_timeout(Duration::ZERO)));
}

#[test]
fn an_iterator_gives_the_wrong_ones_as_errors_and_ends_with_the_peer() {
    let (server, stranger) = with_stranger();
    let mut count = 0;
    for number in 0..10 {
        stranger.post_message(&question(number)).expect("room");
        count += post_wrong(&stranger);
    }
    drop(stranger);
    let (mut right, mut errors) = (Vec::new(), 0);
    for event in &server {
        match event {
            Ok(event) => right.push(event.data().number.to_native()),
            Err(_) => errors += 1,
        }
    }
    assert_eq!((right, errors), ((0..10).collect(), count));
    assert!(server.iter().next().is_none());
}

#[test]
fn a_burst_is_published_at_once() {
    let (server, client) = pair();
    let burst = client.burst();
    burst.stage(&question(1)).expect("room");
    burst.stage(&question(2)).expect("room");
    assert!(server.try_recv().expect("an open port").is_none());
    burst.commit();
    let numbers: Vec<_> =
        server.iter().take(2).flatten().map(|event| event.data().number.to_native()).collect();
    assert_eq!(numbers, [1, 2]);
}

#[test]
fn what_moves_with_a_message_is_taken_and_ends_with_one_that_is_refused() {
    let (server, stranger) = with_stranger();
    let (taken, lost) = (MessageChannel::new().unwrap(), MessageChannel::new().unwrap());
    stranger.post_text_with("no question", [lost.port2.into()]).expect("room");
    let client: Client = stranger.typed();
    client.post_message_with(&question(1), [taken.port2.into()]).expect("room");
    wrong(server.recv());
    // A port that an untrusted sender posted, and that is not taken, is closed unread.
    assert_eq!(receive_end(&lost.port1), CloseReason::PeerDied);
    let port = server.recv().expect("a question").take_port().expect("a port");
    port.post_text("it has arrived").expect("room");
    assert_eq!(receive(&taken.port1).text().expect("a text"), "it has arrived");
    let file = std::fs::File::open("/dev/null").expect("a file");
    client
        .post_message_with_timeout(&question(2), [file.into()], DEADLINE)
        .expect("room in the socket");
    let descriptor = server.recv().expect("a question").take_descriptor();
    assert!(descriptor.is_ok(), "{descriptor:?}");
}

#[test]
fn a_typed_port_is_waited_for_by_its_descriptor() {
    let (server, client) = pair();
    let doorbell = server.as_fd();
    assert!(server.try_recv().expect("an open port").is_none());
    client.post_message(&question(3)).expect("room");
    let timeout = PollTimeout::try_from(DEADLINE).expect("it fits");
    assert_eq!(poll(&mut [PollFd::new(doorbell, PollFlags::POLLIN)], timeout), Ok(1));
    assert_eq!(server.try_recv().expect("an open port").expect("a question").data().number, 3);
}

#[test]
fn without_its_types_a_port_takes_everything() {
    let (server, stranger) = with_stranger();
    post_wrong(&stranger);
    wrong(server.recv());
    let port = server.into_inner();
    assert_eq!(receive(&port).bytes(), [0; 16]);
    // And events are not checked any more either.
    let log = Log::default();
    log.listen(&port);
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add(port).expect("room for a port");
    event_loop.run_until_idle().expect("the loop waits");
    assert_eq!(log.take(), ["a message"; 3]);
}

/// What a port's listeners were called with.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<&'static str>>>);

impl Log {
    fn note(&self, word: &'static str) {
        self.0.lock().expect("no thread panicked while holding it").push(word);
    }

    /// Starts the port, whatever its types.
    fn listen(&self, port: &MessagePort) {
        let [message, error, end] = [(); 3].map(|()| self.clone());
        port.on_message(move |_| message.note("a message"));
        port.on_message_error(move |event| {
            let is_clean = event.message().is_none() && event.message_error().is_some();
            error.note(if is_clean { "an error" } else { "an error with a message" });
        });
        port.on_close(move |_| end.note("the end"));
    }

    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().expect("no thread panicked while holding it"))
    }
}

#[test]
fn in_a_loop_no_handler_of_messages_sees_a_wrong_one() {
    let (server, stranger) = with_stranger();
    let log = Log::default();
    log.listen(server.port());
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add(server).expect("room for a port");
    stranger.post_message(&question(1)).expect("room");
    stranger.post_text("no question").expect("room");
    stranger.post_message(&question(2)).expect("room");
    event_loop.run_until_idle().expect("the loop waits");
    assert_eq!(log.take(), ["a message", "an error", "a message"]);
    let count = post_wrong(&stranger);
    stranger.post_message(&question(3)).expect("room");
    drop(stranger);
    event_loop.run().expect("the loop waits");
    let mut expected = vec!["an error"; count];
    expected.extend(["a message", "the end"]);
    assert_eq!(log.take(), expected);
}

/// The handler is given the value, and replies while it reads it.
fn serves(port: MessagePort) {
    let server: Server = port.typed();
    let errors = Arc::new(Mutex::new(0));
    let (count, seen) = (errors.clone(), errors.clone());
    server.port().on_message_error(move |_| {
        *count.lock().expect("no thread panicked while holding it") += 1
    });
    server.on_message(move |event, question| {
        let words = format!("what is {}?", question.number);
        assert_eq!(question.words.as_str(), words);
        event.port().post_message(&(question.number.to_native() + 1000))
    });
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add(server).expect("room for a port");
    event_loop.run().expect("the loop waits");
    assert_eq!(*seen.lock().expect("no thread panicked while holding it"), 50 * 5);
}

fn asks(port: MessagePort) {
    for number in 0..500 {
        if number % 10 == 0 {
            post_wrong(&port);
        }
        port.post_message(&question(number)).expect("room");
    }
    let client: Client = port.typed();
    for number in 0..500 {
        let answer = client.recv_timeout(DEADLINE).expect("an answer");
        assert_eq!(answer.data().to_native(), number + 1000);
    }
}

between_two_ends!(a_handler_is_given_the_value_and_replies_from_inside, serves, asks);

fn answers(port: MessagePort) {
    let server: Server = port.typed();
    let (mut right, mut errors) = (0, 0);
    for event in &server {
        match event {
            Ok(event) => {
                // From inside: the event is still alive.
                server.post_message(&event.data().number.to_native()).expect("room");
                right += 1;
            }
            Err(_) => errors += 1,
        }
    }
    assert_eq!((right, errors), (500, 250));
}

fn asks_and_waits(port: MessagePort) {
    for number in 0..500 {
        if number % 10 == 0 {
            post_wrong(&port);
        }
        port.post_message(&question(number)).expect("room");
    }
    for number in 0..500 {
        let answer = receive(&port).deserialize::<u64>().expect("an answer");
        assert_eq!(answer, number);
    }
    wait_until("all is taken", || port.backlog().messages == 0);
}

between_two_ends!(two_ends_talk_by_types_with_wrong_ones_between, answers, asks_and_waits);

/// An event that was made by the program has no message, and is nothing to a typed handler.
#[test]
fn an_event_of_the_program_does_not_reach_a_typed_handler() {
    let (server, _client) = pair();
    let log = Log::default();
    let (inner, failures) = (log.clone(), log.clone());
    server.on_message(move |_, _| inner.note("a message"));
    server.port().on_listener_failure(move |_, _| failures.note("a failure"));
    server.port().dispatch_event(messageport::Event::new("message")).expect("a fresh event");
    assert_eq!(log.take(), [""; 0]);
}
