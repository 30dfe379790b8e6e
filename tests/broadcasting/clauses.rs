//! Clauses B.

use crate::common::DEADLINE;
use crate::common::messages::chain;
use crate::{between_two_members, hear, nothing, open, say, text, wait_for_others};
use messageport::rkyv::rancor::{Fallible, Source, fail};
use messageport::rkyv::ser::Writer;
use messageport::{BroadcastChannel, BroadcastError, EventLoop, MessageError, MessagePort, rkyv};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// What was delivered, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, what: String) {
        self.0.lock().expect("no thread panicked while holding it").push(what);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no thread panicked while holding it"))
    }

    /// Has what comes to a member written down.
    fn listen(&self, who: &'static str, member: &BroadcastChannel) {
        let log = self.clone();
        member.on_message(move |event| {
            let message = event.broadcast().expect("a message");
            log.note(format!("{who}: {}", message.text().unwrap_or("no text")));
        });
        let log = self.clone();
        member.on_message_error(move |event| {
            let error = event.message_error().expect("an error");
            log.note(format!("{who}: {}", matches!(error, MessageError::Format { .. })));
        });
    }
}

// B1: a closed channel.

fn b1_near(name: &str, far: MessagePort) {
    let member = open(name);
    hear(&far, "open");
    member.post_text("before").expect("room");
    assert!(!member.is_closed());
    member.close();
    member.close();
    assert!(member.is_closed());
    let is_closed = |error: BroadcastError| {
        assert!(matches!(&error, BroadcastError::Closed { name: said } if said == name), "{error}");
    };
    is_closed(member.post_text("after").expect_err("closed"));
    is_closed(member.post_bytes(b"after").expect_err("closed"));
    // The state is looked at before the value is: this one could not be serialised.
    is_closed(
        member.post_message(&Value { is_refused: true, count: &Cell::new(0) }).expect_err("closed"),
    );
    is_closed(member.recv().map(drop).expect_err("closed"));
    is_closed(member.try_recv().map(drop).expect_err("closed"));
    is_closed(member.recv_timeout(DEADLINE).map(drop).expect_err("closed"));
    is_closed(member.others().map(drop).expect_err("closed"));
    assert_eq!(member.dispatch().expect("nothing to do"), 0);
    say(&far, "closed");
    hear(&far, "seen");
}

fn b1_far(name: &str, near: MessagePort) {
    let member = open(name);
    say(&near, "open");
    hear(&near, "closed");
    assert_eq!(text(&member), "before");
    nothing(&member);
    member.post_text("without a receiver").expect("no member misses it");
    assert_eq!(member.others().expect("an open member"), 0);
    say(&near, "seen");
}

between_two_members!("clauses", b1_a_closed_channel_cannot_be_posted_to, b1_near, b1_far);

// B2: which members a message reaches.

fn b2_near(name: &str, far: MessagePort) {
    let (one, two) = (open(name), open(name));
    let elsewhere = open(&format!("{name}-other"));
    hear(&far, "open");
    one.post_text("to the second and to the far one").expect("room");
    // A fresh object of this process: it has what is posted from now on.
    let three = open(name);
    one.post_text("to all").expect("room");
    assert_eq!(text(&two), "to the second and to the far one");
    assert_eq!(text(&two), "to all");
    assert_eq!(text(&three), "to all", "and not what was posted before it came");
    say(&far, "posted");
    hear(&far, "answered");
    [&one, &two, &three].into_iter().for_each(|member| assert_eq!(text(member), "from afar"));
    [&one, &two, &three, &elsewhere].into_iter().for_each(nothing);
    assert_eq!(one.others().expect("an open member"), 3);
    assert_eq!(elsewhere.others().expect("an open member"), 0);
    drop(two);
    three.post_text("after one has left").expect("room");
    assert_eq!(text(&one), "after one has left");
    wait_for_others(&one, 2);
    say(&far, "left");
    hear(&far, "seen");
}

fn b2_far(name: &str, near: MessagePort) {
    let member = open(name);
    say(&near, "open");
    hear(&near, "posted");
    assert_eq!(text(&member), "to the second and to the far one");
    assert_eq!(text(&member), "to all");
    nothing(&member);
    member.post_text("from afar").expect("room");
    say(&near, "answered");
    hear(&near, "left");
    assert_eq!(text(&member), "after one has left");
    nothing(&member);
    say(&near, "seen");
}

between_two_members!(
    "clauses",
    b2_every_other_open_member_of_the_name_has_it_and_the_sender_has_not,
    b2_near,
    b2_far
);

// B3: in which order, and no longer to which members.

fn b3_near(name: &str, far: MessagePort) {
    let log = Log::default();
    let mut event_loop = EventLoop::new().expect("a loop");
    let first = Rc::new(open(name));
    let members =
        [("first", first.clone()), ("second", Rc::new(open(name))), ("third", Rc::new(open(name)))];
    for (who, member) in members {
        log.listen(who, &member);
        event_loop
            .add_source(member, |_, member| {
                member.dispatch().expect("a member");
            })
            .expect("room for a source");
    }
    hear(&far, "open");
    // Who has joined is taken in.
    event_loop.run_until_idle().expect("the loop waits");
    // The first one has nothing, so that the others are readable before it is.
    first.post_text("of the first").expect("room");
    say(&far, "post");
    hear(&far, "posted");
    event_loop.run_until_idle().expect("the loop waits");
    let all = log.take();
    assert_eq!(all.len(), 5, "{all:?}");
    // Each of them has it before those who were created later, though they had something before.
    let who: Vec<_> = all.iter().filter_map(|seen| seen.strip_suffix(": of the far one")).collect();
    assert_eq!(who, ["first", "second", "third"]);
    say(&far, "done");
}

fn b3_far(name: &str, near: MessagePort) {
    let member = open(name);
    say(&near, "open");
    hear(&near, "post");
    member.post_text("of the far one").expect("room");
    say(&near, "posted");
    hear(&near, "done");
}

between_two_members!(
    "clauses",
    b3_members_of_one_loop_are_served_in_the_order_of_their_creation,
    b3_near,
    b3_far
);

fn b3_closing_near(name: &str, far: MessagePort) {
    let log = Log::default();
    let mut event_loop = EventLoop::new().expect("a loop");
    let (first, second) = (open(name), Rc::new(open(name)));
    log.listen("first", &first);
    log.listen("second", &second);
    let closed = second.clone();
    event_loop
        .add_source(first, move |_, first| {
            // It may be called for nothing.
            if first.dispatch().expect("a member") > 0 {
                closed.close();
            }
        })
        .expect("room for a source");
    event_loop
        .add_source(second, |_, second| {
            second.dispatch().expect("a member that was closed is no error");
        })
        .expect("room for a source");
    hear(&far, "posted");
    event_loop.run_until_idle().expect("the loop waits");
    assert_eq!(log.take(), ["first: to both"], "the second was closed before its turn");
    say(&far, "done");
}

fn b3_closing_far(name: &str, near: MessagePort) {
    let member = open(name);
    wait_for_others(&member, 2);
    member.post_text("to both").expect("room");
    say(&near, "posted");
    hear(&near, "done");
}

between_two_members!(
    "clauses",
    b3_a_member_that_was_closed_meanwhile_gets_nothing,
    b3_closing_near,
    b3_closing_far
);

// B4: serialised once.

/// Counts how often it is serialised, or refuses.
struct Value<'c> {
    is_refused: bool,
    count: &'c Cell<u32>,
}

#[derive(Debug, thiserror::Error)]
#[error("the value does not want to")]
struct Refused;

impl rkyv::Archive for Value<'_> {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: rkyv::Place<()>) {}
}

impl<S> rkyv::Serialize<S> for Value<'_>
where
    S: Fallible + Writer + ?Sized,
    S::Error: Source,
{
    fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
        self.count.set(self.count.get() + 1);
        if self.is_refused { fail!(Refused) } else { Ok(()) }
    }
}

/// Serialising takes two passes, the first of which finds the length: as many for no receiver as
/// for three.
fn b4_near(name: &str, far: MessagePort) {
    let count = Cell::new(0);
    let member = open(name);
    member.post_message(&Value { is_refused: false, count: &count }).expect("no member misses it");
    let once = count.replace(0);
    assert!(once > 0, "also without another member");
    let _others = [open(name), open(name)];
    say(&far, "open");
    hear(&far, "open");
    let error = member.post_message(&Value { is_refused: true, count: &count });
    let error = error.expect_err("it refuses");
    assert!(matches!(error, BroadcastError::Serialize(_)), "{error}");
    assert!(chain(&error).contains("does not want to"), "{error}");
    count.set(0);
    member.post_message(&Value { is_refused: false, count: &count }).expect("room");
    assert_eq!(count.get(), once);
    say(&far, "posted");
    hear(&far, "seen");
}

fn b4_far(name: &str, near: MessagePort) {
    hear(&near, "open");
    let member = open(name);
    say(&near, "open");
    hear(&near, "posted");
    // What could not be serialised has reached no member.
    assert_eq!(member.recv_timeout(DEADLINE).expect("a message").bytes(), b"");
    nothing(&member);
    say(&near, "seen");
}

between_two_members!(
    "clauses",
    b4_a_message_is_serialised_once_however_many_it_reaches,
    b4_near,
    b4_far
);

// B5: what cannot be read.

fn b5_near(name: &str, far: MessagePort) {
    let (strict, lenient, delivered) = (open(name), open(name), open(name));
    strict.require_type::<u32>();
    delivered.require_type::<u32>();
    let log = Log::default();
    log.listen("delivered", &delivered);
    hear(&far, "posted");
    let error = strict.recv_timeout(DEADLINE).expect_err("no number");
    let is_format =
        matches!(&error, BroadcastError::Message(MessageError::Format { found: "text", .. }));
    assert!(is_format, "{error:?}");
    let error = strict.recv_timeout(DEADLINE).expect_err("another type");
    let is_invalid = matches!(error, BroadcastError::Message(MessageError::Invalid { .. }));
    assert!(is_invalid, "{error:?}");
    let number = strict.recv_timeout(DEADLINE).expect("later ones come");
    assert_eq!(*number.data::<u32>().expect("a number"), 7);
    // The others have it all.
    assert_eq!(text(&lenient), "no number");
    assert_eq!(lenient.recv_timeout(DEADLINE).expect("a message").bytes(), [5]);
    assert_eq!(lenient.recv_timeout(DEADLINE).expect("a message").bytes(), [7, 0, 0, 0]);
    // The same as events.
    assert_eq!(delivered.dispatch().expect("a member"), 3);
    assert_eq!(log.take(), ["delivered: true", "delivered: false", "delivered: no text"]);
    [&strict, &lenient, &delivered].into_iter().for_each(nothing);
    say(&far, "done");
}

fn b5_far(name: &str, near: MessagePort) {
    let member = open(name);
    wait_for_others(&member, 3);
    member.post_text("no number").expect("room");
    member.post_message(&5u8).expect("room");
    member.post_message(&7u32).expect("room");
    say(&near, "posted");
    hear(&near, "done");
}

between_two_members!(
    "clauses",
    b5_what_one_member_cannot_read_is_its_messageerror_alone,
    b5_near,
    b5_far
);

/// Another member's message may reach the value's own member while the value is serialised.
#[test]
fn b4_a_value_may_post_while_it_is_serialised() {
    struct Posting<'m>(&'m BroadcastChannel);

    impl rkyv::Archive for Posting<'_> {
        type Archived = ();
        type Resolver = ();

        fn resolve(&self, (): (), _: rkyv::Place<()>) {}
    }

    impl<S: Fallible + Writer + ?Sized> rkyv::Serialize<S> for Posting<'_> {
        fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
            // The second pass finds it closed.
            let _ = self.0.post_text("from inside");
            self.0.close();
            Ok(())
        }
    }

    let name = crate::Name::new();
    let (one, other) = (name.open(), name.open());
    let posted = one.post_message(&Posting(&one)).map_err(|error| error.to_string());
    assert!(posted.expect_err("closed by then").contains("closed"));
    assert_eq!(text(&other), "from inside");
    nothing(&other);
}
