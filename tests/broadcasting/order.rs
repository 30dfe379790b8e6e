//! The order in which members of one thread have the messages: that of the posts, and for each one
//! that in which the members were opened.

use crate::common::messages::Rng;
use crate::common::wait_until;
use crate::common::watchdog::watch;
use crate::{Name, nothing, text};
use messageport::{BroadcastChannel, EventLoop};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// What was delivered, in order, as `member:text`.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, what: String) {
        self.0.lock().expect("no thread panicked while holding it").push(what);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no thread panicked while holding it"))
    }
}

/// Members of one name that one loop delivers to. What a member answers depends on the message.
struct Stage {
    event_loop: EventLoop,
    members: Vec<Rc<BroadcastChannel>>,
    log: Log,
    answer: fn(usize, &str) -> Option<String>,
    /// When it goes, no member may be left.
    name: Name,
}

impl Stage {
    fn new(answer: fn(usize, &str) -> Option<String>) -> Stage {
        let event_loop = EventLoop::new().expect("a loop");
        let (members, log) = (Vec::new(), Log::default());
        Stage { event_loop, members, log, answer, name: Name::new() }
    }

    fn open(&mut self) {
        let (who, member) = (self.members.len(), Rc::new(self.name.open()));
        let (log, answer) = (self.log.clone(), self.answer);
        member.on_message(move |event| {
            let text = event.broadcast().expect("a message").text().expect("a text");
            log.note(format!("{who}:{text}"));
            if let Some(answer) = answer(who, text) {
                event.broadcast_channel().expect("its channel").post_text(&answer).expect("room");
            }
        });
        self.members.push(member.clone());
        self.event_loop
            .add_source(member, |_, member| {
                member.dispatch().expect("a member");
            })
            .expect("room for a source");
    }

    fn post(&self, who: usize, text: &str) {
        self.members[who].post_text(text).expect("room");
    }

    fn settle(&mut self) -> Vec<String> {
        self.event_loop.run_until_idle().expect("the loop waits");
        self.log.take()
    }
}

#[test]
fn b3_messages_come_in_the_order_of_posts_and_each_in_that_of_the_members() {
    let mut stage = Stage::new(|_, _| None);
    (0..2).for_each(|_| stage.open());
    let outside = stage.name.open();
    for round in 0..3 {
        outside.post_text("m1").expect("room");
        outside.post_text("m2").expect("room");
        assert_eq!(stage.settle(), ["0:m1", "1:m1", "0:m2", "1:m2"], "round {round}");
    }
}

/// One that has joined and was not taken in yet may have posted first.
#[test]
fn b3_a_message_of_one_that_has_just_joined_comes_in_its_place() {
    let name = Name::new();
    let (reader, known) = (name.open(), name.open());
    known.post_text("1").expect("room");
    assert_eq!(text(&reader), "1");
    name.open().post_text("2").expect("room");
    known.post_text("3").expect("room");
    assert_eq!([text(&reader), text(&reader)], ["2", "3"]);
}

/// Whichever of the senders had posted before, and whether it is known yet.
#[test]
fn b3_messages_of_several_senders_come_in_the_order_of_posts() {
    let mut stage = Stage::new(|_, _| None);
    stage.open();
    let (second, third) = (stage.name.open(), stage.name.open());
    for first_is_known in [false, true] {
        third.post_text("third").expect("room");
        second.post_text("second").expect("room");
        let fresh = stage.name.open();
        fresh.post_text("fresh").expect("room");
        second.post_text("last").expect("room");
        let expected = ["0:third", "0:second", "0:fresh", "0:last"];
        assert_eq!(stage.settle(), expected, "known: {first_is_known}");
        drop(fresh);
    }
    // The same by calls, one at a time: what is posted in between is behind what is there.
    let reader = stage.name.open();
    third.post_text("1").expect("room");
    second.post_text("2").expect("room");
    assert_eq!(text(&reader), "1");
    third.post_text("3").expect("room");
    stage.name.open().post_text("4").expect("room");
    second.post_text("5").expect("room");
    let rest: Vec<_> = (0..4).map(|_| text(&reader)).collect();
    assert_eq!(rest, ["2", "3", "4", "5"]);
    nothing(&reader);
    stage.settle();
}

#[test]
fn b3_what_is_posted_during_a_dispatch_comes_behind_what_is_there() {
    let mut stage =
        Stage::new(|who, text| text.strip_prefix("ask ").filter(|_| who == 0).map(str::to_owned));
    (0..3).for_each(|_| stage.open());
    stage.post(2, "ask a");
    stage.post(2, "ask b");
    stage.post(1, "c");
    let seen = stage.settle();
    let expected = ["0:ask a", "1:ask a", "0:ask b", "1:ask b", "0:c", "2:c"];
    assert_eq!(seen[..6], expected);
    assert_eq!(seen[6..], ["1:a", "2:a", "1:b", "2:b"]);
}

/// The web's algorithm, step by step: a post queues a task for each other open member, oldest
/// first; the loop does the tasks in turn.
struct Model {
    open: usize,
    tasks: VecDeque<(usize, String)>,
}

impl Model {
    fn post(&mut self, who: usize, text: &str) {
        let others = (0..self.open).filter(|member| *member != who);
        self.tasks.extend(others.map(|member| (member, text.to_owned())));
    }

    fn settle(&mut self, answer: fn(usize, &str) -> Option<String>) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some((who, text)) = self.tasks.pop_front() {
            seen.push(format!("{who}:{text}"));
            if let Some(answer) = answer(who, &text) {
                self.post(who, &answer);
            }
        }
        seen
    }
}

/// `n-depth`: one member answers it, until the depth is 0.
fn answer(who: usize, text: &str) -> Option<String> {
    let (number, depth) = text.split_once('-').expect("a number and a depth");
    let (number, depth): (usize, usize) = (number.parse().ok()?, depth.parse().ok()?);
    let answers = depth > 0 && (number + depth) % 3 == who;
    answers.then(|| format!("{}-{}", number + 1000, depth - 1))
}

#[test]
fn b3_any_posts_of_any_members_come_as_on_the_web() {
    let mut rng = Rng(7);
    for _ in 0..10 {
        let mut stage = Stage::new(answer);
        let mut model = Model { open: 0, tasks: VecDeque::new() };
        for round in 0..8 {
            if round < 2 || rng.below(3) == 0 {
                stage.open();
                model.open += 1;
            }
            // More than one turn's share now and then.
            let posts = if rng.below(4) == 0 { 200 } else { rng.below(10) };
            for number in 0..posts {
                let who = rng.below(model.open as u64) as usize;
                let text = format!("{number}-{}", rng.below(4));
                stage.post(who, &text);
                model.post(who, &text);
            }
            assert_eq!(stage.settle(), model.settle(answer), "round {round}");
        }
    }
}

/// A member of the same thread whose messages are not taken, or are by calls, keeps no other one
/// waiting, and loses nothing.
#[test]
fn b3_a_member_that_delivers_nothing_holds_up_no_other() {
    let _watch = watch("b3_a_member_that_delivers_nothing_holds_up_no_other");
    let mut stage = Stage::new(|_, _| None);
    let (unread, read) = (stage.name.open(), stage.name.open());
    (0..2).for_each(|_| stage.open());
    let outside = stage.name.open();
    let numbers: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    numbers.iter().for_each(|number| outside.post_text(number).expect("room"));
    assert_eq!(text(&read), "0");
    let expected = numbers.iter().flat_map(|number| [format!("0:{number}"), format!("1:{number}")]);
    assert_eq!(stage.settle(), expected.collect::<Vec<_>>());
    for member in [&unread, &read] {
        let first = usize::from(std::ptr::eq(member, &read));
        numbers[first..].iter().for_each(|number| assert_eq!(text(member), *number));
        nothing(member);
    }
}

/// Its thread has others wait no more, and it goes on in the other one.
#[test]
fn b3_a_member_that_moves_to_another_thread_holds_up_none_in_the_old_one() {
    let _watch = watch("b3_a_member_that_moves_to_another_thread_holds_up_none_in_the_old_one");
    let mut stage = Stage::new(|_, _| None);
    let moves = stage.name.open();
    stage.open();
    let outside = stage.name.open();
    outside.post_text("one").expect("room");
    let moved = std::thread::spawn(move || {
        let count = Arc::new(Mutex::new(0));
        let counted = count.clone();
        moves.on_message(move |_| {
            *counted.lock().expect("no thread panicked while holding it") += 1
        });
        wait_until("both are delivered", || {
            moves.dispatch().expect("a member");
            *count.lock().expect("no thread panicked while holding it") == 2
        });
    });
    assert_eq!(stage.settle(), ["0:one"]);
    outside.post_text("two").expect("room");
    assert_eq!(stage.settle(), ["0:two"]);
    moved.join().expect("no panic");
}
