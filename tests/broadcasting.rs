//! Broadcast: every other open member has each message once, in its sender's order, whoever comes,
//! goes and dies meanwhile.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::board::Board;
use common::census::Census;
use common::messages::Rng;
use common::role::{command, play};
use common::{DEADLINE, die, wait_until, wanted};
use messageport::{BroadcastChannel, BroadcastError};

const NAME: &str = "news";

fn open() -> BroadcastChannel {
    BroadcastChannel::open(NAME).expect("a membership")
}

fn text(member: &mut BroadcastChannel) -> String {
    let message = member.recv_timeout(DEADLINE).expect("a message");
    message.text().expect("a text").to_owned()
}

fn nothing(member: &mut BroadcastChannel) {
    let answer = member.try_recv().expect("an open member");
    assert!(answer.is_none(), "{answer:?}");
}

/// Plays in a directory of names of its own.
fn in_a_place_of_its_own(test: &str, act: fn()) {
    fn starts_with(test: &str) {
        let runtime = tempfile::tempdir().expect("a directory");
        let mut child = command(test, "acts");
        child.env("XDG_RUNTIME_DIR", runtime.path());
        assert!(child.status().expect("a child").success());
        let names = runtime.path().join("messageport");
        let left = std::fs::read_dir(names).map_or(0, |entries| entries.count());
        assert_eq!(left, 0, "nothing is left behind");
    }
    if std::env::var("MESSAGEPORT_TEST_ROLE").as_deref() == Ok("starts") {
        return play(
            test,
            &[("starts", || {
                let name = std::env::args().nth(1).expect("the test's name");
                starts_with(&name);
            })],
        );
    }
    play(test, &[("starts", || unreachable!("played above")), ("acts", act)]);
}

#[test]
fn b1_a_closed_channel_cannot_be_posted_to() {
    in_a_place_of_its_own("b1_a_closed_channel_cannot_be_posted_to", || {
        let (mut one, mut other) = (open(), open());
        one.post_text("before").expect("room");
        one.close();
        one.close();
        let error = one.post_text("after").expect_err("closed");
        assert!(matches!(&error, BroadcastError::Closed { name } if name == NAME), "{error}");
        let error = one.recv().expect_err("closed");
        assert!(matches!(error, BroadcastError::Closed { .. }), "{error}");
        assert_eq!(text(&mut other), "before");
        nothing(&mut other);
        other.post_text("to nobody").expect("nobody misses it");
        assert_eq!(other.others().expect("an open member"), 0);
    });
}

#[test]
fn b2_every_other_open_member_of_the_name_has_it_and_the_sender_has_not() {
    const TEST: &str = "b2_every_other_open_member_of_the_name_has_it_and_the_sender_has_not";
    in_a_place_of_its_own(TEST, || {
        let before = Census::take();
        let (mut one, mut two) = (open(), open());
        let mut elsewhere = BroadcastChannel::open("other news").expect("a membership");
        one.post_text("to the second").expect("room");
        let mut three = open();
        one.post_text("to both").expect("room");
        assert_eq!(text(&mut two), "to the second");
        assert_eq!(text(&mut two), "to both");
        assert_eq!(text(&mut three), "to both", "and not what was posted before it came");
        three.post_text("from the third").expect("room");
        assert_eq!(text(&mut one), "from the third");
        assert_eq!(text(&mut two), "from the third");
        [&mut one, &mut two, &mut three, &mut elsewhere].into_iter().for_each(nothing);
        drop(two);
        one.post_text("to the third").expect("room");
        assert_eq!(text(&mut three), "to the third");
        assert_eq!(one.others().expect("an open member"), 1);
        drop((one, three, elsewhere));
        assert_eq!(Census::take(), before);
    });
}

#[test]
fn b3_messages_of_one_sender_come_in_their_order() {
    in_a_place_of_its_own("b3_messages_of_one_sender_come_in_their_order", || {
        let (mut one, mut two, mut three) = (open(), open(), open());
        for number in 0..500u32 {
            one.post_message(&(1u8, number)).expect("room");
            two.post_message(&(2u8, number)).expect("room");
        }
        let mut next = BTreeMap::from([(1, 0), (2, 0)]);
        for _ in 0..1000 {
            let message = three.recv_timeout(DEADLINE).expect("a message");
            let (sender, number) = message.deserialize::<(u8, u32)>().expect("two numbers");
            let expected = next.get_mut(&sender).expect("a sender");
            assert_eq!(number, *expected);
            *expected += 1;
        }
        nothing(&mut three);
    });
}

#[test]
fn a_member_that_does_not_receive_misses_what_finds_no_room_and_others_do_not() {
    const TEST: &str = "a_member_that_does_not_receive_misses_what_finds_no_room_and_others_do_not";
    in_a_place_of_its_own(TEST, || {
        let builder = messageport::MessageChannel::builder().capacity(4096).bounded();
        let mut one = open();
        let mut slow = BroadcastChannel::open_with(NAME, builder).expect("a membership");
        let mut quick = open();
        let mut posted = 0;
        let error = loop {
            match one.post_bytes(&[posted as u8; 1000]) {
                Ok(()) => posted += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, BroadcastError::Missed { count: 1, .. }), "{error}");
        let count = |member: &mut BroadcastChannel| {
            let next = || member.try_recv().expect("an open member");
            std::iter::from_fn(next).count()
        };
        assert_eq!(count(&mut quick), posted + 1, "the others have it");
        assert_eq!(count(&mut slow), posted);
        let timeout = slow.recv_timeout(Duration::from_millis(1));
        assert!(matches!(timeout, Err(BroadcastError::Timeout)), "{timeout:?}");
    });
}

// Many processes. Words of the board: members that stay and have joined; that have posted all; that
// have received all; the count of those that stay; messages of each.
const JOINED: usize = 0;
const POSTED: usize = 1;
const DONE: usize = 2;
const TEST: &str = "members_that_stay_have_all_whoever_comes_goes_and_is_killed";

fn stays() {
    let board = Board::given();
    let (me, count, messages) = (number_of("ME"), number_of("STAYING"), number_of("MESSAGES"));
    let mut member = open();
    board.word(JOINED).fetch_add(1, SeqCst);
    wait_until("all have joined", || {
        // A member that never looks lets the ports of those who join pile up in the kernel.
        member.others().expect("an open member");
        board.word(JOINED).load(SeqCst) == count
    });
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    let mut expected = messages * (count - 1);
    let mut take = |member: &mut BroadcastChannel, timeout| {
        let message = match member.recv_timeout(timeout) {
            Ok(message) => message,
            Err(BroadcastError::Timeout) => return 0,
            Err(error) => panic!("{error}"),
        };
        let (sender, number) = message.deserialize::<(u64, u64)>().expect("two numbers");
        let is_guest = sender >= 1000;
        // A guest that came before this member did has posted before.
        let due = next.entry(sender).or_insert(if is_guest { number } else { 0 });
        assert_eq!(number, *due, "from {sender}");
        *due += 1;
        u64::from(!is_guest)
    };
    for number in 0..messages {
        member.post_message(&(me, number)).expect("room");
        expected -= take(&mut member, Duration::ZERO);
    }
    board.word(POSTED).fetch_add(1, SeqCst);
    while expected > 0 {
        expected -= take(&mut member, DEADLINE);
    }
    board.word(DONE).fetch_add(1, SeqCst);
    wait_until("all have all", || {
        take(&mut member, Duration::ZERO);
        board.word(DONE).load(SeqCst) == count
    });
}

/// Joins, posts and leaves, again and again, or dies at it.
fn visits() {
    let (me, is_to_die) = (number_of("ME"), number_of("DIES") == 1);
    let mut rng = Rng(me);
    for visit in 1..=5 {
        // Each visit is a member of its own, with an order of its own.
        let mut member = open();
        for number in 0..rng.below(20) {
            member.post_message(&(me + 1000 * visit, number)).expect("room");
            if is_to_die && rng.below(30) == 0 {
                die();
            }
            let _ = member.try_recv().expect("an open member");
        }
    }
    if is_to_die {
        die();
    }
}

fn number_of(variable: &str) -> u64 {
    std::env::var(variable).expect("the parent sets it").parse().expect("a number")
}

fn crowd() {
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR").expect("set by the parent"));
    let staying = wanted("MESSAGEPORT_MEMBERS", 4);
    let (guests, messages) = (wanted("MESSAGEPORT_GUESTS", 6), 200);
    let board = Board::new();
    let start = |role: &str, me: u64, dies: bool| -> Child {
        let mut child = command(TEST, role);
        board.give(&mut child);
        child.env("ME", me.to_string()).env("STAYING", staying.to_string());
        child.env("MESSAGES", messages.to_string()).env("DIES", u8::from(dies).to_string());
        child.spawn().expect("a child")
    };
    let members: Vec<_> = (0..staying).map(|me| start("stays", me, false)).collect();
    let visitors: Vec<_> =
        (0..guests).map(|guest| start("visits", staying + guest, guest % 3 == 0)).collect();
    for (guest, mut visitor) in visitors.into_iter().enumerate() {
        let status = visitor.wait().expect("a child");
        assert_eq!(status.success(), guest % 3 != 0, "guest {guest}: {status}");
    }
    for mut member in members {
        assert!(member.wait().expect("a child").success());
    }
    // Whoever joins next clears up after those that died.
    drop(open());
    let left = std::fs::read_dir(runtime.join("messageport")).expect("a directory").count();
    assert_eq!(left, 0, "nothing is left behind");
}

#[test]
fn members_that_stay_have_all_whoever_comes_goes_and_is_killed() {
    fn starts() {
        let runtime = tempfile::tempdir().expect("a directory");
        let mut child = command(TEST, "crowd");
        child.env("XDG_RUNTIME_DIR", runtime.path());
        assert!(child.status().expect("a child").success());
    }
    let roles: [(&str, fn()); 4] =
        [("starts", starts), ("crowd", crowd), ("stays", stays), ("visits", visits)];
    play(TEST, &roles);
}
