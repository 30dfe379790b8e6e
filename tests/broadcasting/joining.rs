//! Joining: at the same time as others, before any member looks, at members that are dead or full,
//! and while being killed at each step.

use crate::common::census::Census;
use crate::common::role::{command, play, skip};
use crate::common::watchdog::{progress, watch};
use crate::common::{DEADLINE, die};
use crate::{NAME, Name, filter, nothing, open, text, wait_for_others};
use messageport::{BroadcastChannel, BroadcastError};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use std::collections::BTreeMap;
use std::env;
use std::fs::{self, Permissions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Barrier;
use std::thread;

fn child(test: &str, role: &str, name: &Name) -> ExitStatus {
    let mut child = command(test, role);
    child.env(NAME, &name.text).stdout(std::process::Stdio::null());
    child.status().expect("a child")
}

fn given() -> String {
    env::var(NAME).expect("the parent gave a name")
}

fn posts_three() -> BroadcastChannel {
    let member = open(&given());
    for word in ["one", "two", "three"] {
        member.post_text(word).expect("room");
    }
    member
}

#[test]
fn what_was_posted_before_a_member_looked_is_received_however_its_sender_ended() {
    const TEST: &str =
        "joining::what_was_posted_before_a_member_looked_is_received_however_its_sender_ended";
    fn closes() {
        posts_three().close();
    }
    fn exits() {
        std::mem::forget(posts_three());
        std::process::exit(0);
    }
    fn is_killed() {
        let _member = posts_three();
        die();
    }
    fn receives() {
        for (role, is_success) in [("closes", true), ("exits", true), ("is_killed", false)] {
            let name = Name::new();
            let (member, other) = (name.open(), name.open());
            // It has joined, posted and ended before this member looks.
            assert_eq!(child(TEST, role, &name).success(), is_success, "{role}");
            for word in ["one", "two", "three"] {
                assert_eq!(text(&member), word, "{role}");
            }
            nothing(&member);
            // One that only posts notices the end as well, and keeps what it has not received.
            other.post_text("to one").expect("room");
            wait_for_others(&other, 1);
            assert_eq!(text(&other), "one", "{role}");
            assert_eq!(text(&member), "to one");
            wait_for_others(&member, 1);
            // Who joins removes what the dead one left.
            let last = name.open();
            assert_eq!(name.files().len(), 3, "{role}: {:?}", name.files());
            wait_for_others(&last, 2);
        }
    }
    let roles: [(&str, fn()); 4] =
        [("receives", receives), ("closes", closes), ("exits", exits), ("is_killed", is_killed)];
    play(TEST, &roles);
}

/// The calls by which one joins, in their order.
const STEPS: [(&str, &[i64]); 9] = [
    ("the directory is opened", &[libc::SYS_fstat, libc::SYS_statx, libc::SYS_newfstatat]),
    ("its socket has a file", &[libc::SYS_bind]),
    ("it listens", &[libc::SYS_listen]),
    ("it has its name", &[libc::SYS_renameat, libc::SYS_renameat2]),
    ("it looks for others", &[libc::SYS_getdents64]),
    ("it looks whether one has come to it", &[libc::SYS_accept4]),
    ("it connects to another", &[libc::SYS_connect]),
    ("it makes a channel", &[libc::SYS_memfd_create]),
    ("it leaves a port there", &[libc::SYS_sendmsg]),
];
const STEP: &str = "MESSAGEPORT_TEST_STEP";

#[test]
fn a_joiner_that_is_killed_at_any_step_does_no_harm() {
    const TEST: &str = "joining::a_joiner_that_is_killed_at_any_step_does_no_harm";
    fn joins_until_killed() {
        let step: usize = env::var(STEP).expect("a step").parse().expect("a number");
        let name = given();
        for call in STEPS[step].1 {
            if let Err(error) = filter::kill_at(*call) {
                return skip(&format!("no seccomp filter here: {error}"));
            }
        }
        let _member = open(&name);
        panic!("it was to be killed when {}", STEPS[step].0);
    }
    fn others_go_on() {
        for (step, (what, _)) in STEPS.iter().enumerate() {
            let name = Name::new();
            let (one, two) = (name.open(), name.open());
            let mut child = command(TEST, "joins_until_killed");
            let status = child
                .env(NAME, &name.text)
                .env(STEP, step.to_string())
                .stdout(std::process::Stdio::null())
                .status()
                .expect("a child");
            if status.success() {
                return skip("no seccomp filter here");
            }
            assert_eq!(status.signal(), Some(libc::SIGSYS), "when {what}");
            one.post_text("still here").expect("room");
            assert_eq!(text(&two), "still here", "when {what}");
            name.age();
            let three = name.open();
            assert_eq!(name.files().len(), 3, "when {what}: {:?}", name.files());
            three.post_text("new").expect("room");
            assert_eq!(text(&one), "new", "when {what}");
            assert_eq!(text(&two), "new", "when {what}");
            [&one, &two, &three].into_iter().for_each(|member| {
                nothing(member);
                wait_for_others(member, 2);
            });
            progress();
        }
    }
    play(TEST, &[("others_go_on", others_go_on), ("joins_until_killed", joins_until_killed)]);
}

/// Of two that join at the same moment, one or both find the other: what each posts comes once, and
/// in its order.
#[test]
fn two_that_join_at_once_have_each_message_once() {
    let _watch = watch("two_that_join_at_once_have_each_message_once");
    let mut doubled = 0;
    for _ in 0..200 {
        let name = Name::new();
        let start = Barrier::new(2);
        let both = thread::scope(|scope| {
            let join = |me: u32| {
                let (name, start) = (&name, &start);
                scope.spawn(move || {
                    start.wait();
                    let member = name.open();
                    start.wait();
                    for number in 0..10u32 {
                        member.post_message(&(me, number)).expect("room");
                    }
                    for expected in 0..10u32 {
                        let message = member.recv_timeout(DEADLINE).expect("a message");
                        let found = message.deserialize::<(u32, u32)>().expect("two numbers");
                        assert_eq!(found, (1 - me, expected));
                    }
                    start.wait();
                    nothing(&member);
                    assert_eq!(member.others().expect("an open member"), 1);
                    start.wait();
                    format!("{member:?}").contains("ports: 2 }")
                })
            };
            let both = [join(0), join(1)];
            both.map(|thread| thread.join().expect("no panic"))
        });
        doubled += u32::from(both.contains(&true));
        progress();
    }
    println!("{doubled} of 200 had two channels");
}

/// Threads that join, post and leave all the time: each message once, in its sender's order, none
/// of one's own.
#[test]
fn threads_join_post_and_leave_all_the_time() {
    let _watch = watch("threads_join_post_and_leave_all_the_time");
    let name = Name::new();
    let stays = name.open();
    thread::scope(|scope| {
        for me in 0..6u32 {
            let name = &name;
            scope.spawn(move || {
                for round in 0..20u32 {
                    let member = name.open();
                    let mut seen = BTreeMap::new();
                    for number in 0..8u32 {
                        member.post_message(&(me * 1000 + round, number)).expect("room");
                        look(&member, &mut seen);
                    }
                    look(&member, &mut seen);
                    assert!(!seen.contains_key(&(me * 1000 + round)), "its own");
                    progress();
                }
            });
        }
    });
    let mut seen = BTreeMap::new();
    look(&stays, &mut seen);
    assert_eq!(seen.len(), 6 * 20, "each of them has posted to the one that stayed");
    assert!(seen.values().all(|last| *last == 7), "and it has all: {seen:?}");
    wait_for_others(&stays, 0);
}

/// Receives what is there, and checks that each sender's numbers follow on each other.
fn look(member: &BroadcastChannel, seen: &mut BTreeMap<u32, u32>) {
    while let Some(message) = member.try_recv().expect("an open member") {
        let (from, number) = message.deserialize::<(u32, u32)>().expect("two numbers");
        if let Some(last) = seen.insert(from, number) {
            assert_eq!(number, last + 1, "from {from}");
        }
    }
}

#[test]
fn joining_and_leaving_gives_everything_back() {
    const TEST: &str = "joining::joining_and_leaving_gives_everything_back";
    fn comes_and_goes() {
        let name = Name::new();
        drop(name.open());
        let before = Census::take();
        for round in 0..30 {
            let members = [(); 4].map(|()| name.open());
            members[round % 4].post_text("here").expect("room");
            if round % 2 == 0 {
                members.iter().for_each(|member| wait_for_others(member, 3));
            }
            drop(members);
            assert!(!name.directory().exists());
            before.wait_for(format_args!("round {round}"));
        }
    }
    play(TEST, &[("comes_and_goes", comes_and_goes)]);
}

#[test]
fn names_that_are_none_are_refused() {
    for name in ["", ".", "..", "a/b", "a\0b", "news.lock", &"x".repeat(65)] {
        let opened = BroadcastChannel::open(name);
        assert!(matches!(opened, Err(BroadcastError::BadName { .. })), "{name:?}: {opened:?}");
    }
    // The longest one, wherever the directory of names is.
    let long = format!("{:x<64}", format!("test-{}", std::process::id()));
    let (one, other) = (open(&long), open(&long));
    one.post_text("far down").expect("room");
    assert_eq!(text(&other), "far down");
}

#[test]
fn a_directory_that_is_not_the_user_s_own_is_refused() {
    let name = Name::new();
    drop(name.open());
    let refused = |why: &str| {
        let error = BroadcastChannel::open(&name.text).expect_err("not ours alone");
        assert!(matches!(error, BroadcastError::Directory { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    };
    fs::create_dir(name.directory()).expect("a place");
    fs::set_permissions(name.directory(), Permissions::from_mode(0o755)).expect("our own");
    refused("others than its user");
    fs::remove_dir(name.directory()).expect("empty");
    fs::write(name.directory(), "precious").expect("a file");
    refused("no directory");
    assert_eq!(fs::read(name.directory()).expect("it is there"), b"precious");
    fs::remove_file(name.directory()).expect("ours");
    std::os::unix::fs::symlink("/tmp", name.directory()).expect("a link");
    refused("no directory");
    fs::remove_file(name.directory()).expect("ours");
}

#[test]
fn a_member_of_another_schema_is_refused_by_both_numbers() {
    let name = Name::new();
    let builder = BroadcastChannel::builder();
    let member = BroadcastChannel::open_with(&name.text, builder.schema(7)).expect("a membership");
    let error = BroadcastChannel::open_with(&name.text, builder.schema(8)).expect_err("another");
    let said = error.to_string();
    assert!(said.contains("schema") && said.contains("0x7") && said.contains("0x8"), "{said}");
    assert_eq!(name.files().len(), 1, "nothing is left of the attempt");
    assert_eq!(member.others().expect("an open member"), 0);
    let other = BroadcastChannel::open_with(&name.text, builder.schema(7)).expect("a membership");
    other.post_text("the same").expect("room");
    assert_eq!(text(&member), "the same");
}

/// A socket that looks like a member's, and accepts no joiner.
fn deaf(name: &Name) -> OwnedFd {
    let file = {
        let member = name.open();
        let file = name.files().pop().expect("the member's");
        // So that the directory stays.
        fs::write(name.directory().join("keep"), "").expect("room on the disk");
        drop(member);
        file
    };
    let kind = SockType::SeqPacket;
    let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let address = UnixAddr::new(&name.directory().join(file)).expect("a short path");
    bind(socket.as_raw_fd(), &address).expect("a free name");
    listen(&socket, Backlog::new(0).expect("a small number")).expect("a socket that is bound");
    socket
}

#[test]
fn a_member_that_accepts_no_joiner_is_named_after_a_while() {
    let name = Name::new();
    let socket = deaf(&name);
    // The first one finds place in the queue, and there it stays.
    let first = name.open();
    let error = BroadcastChannel::open(&name.text).expect_err("no place");
    let is_busy = matches!(&error, BroadcastError::Busy { path, .. }
        if path.starts_with(name.directory()) && path.exists());
    assert!(is_busy, "{error}");
    assert_eq!(name.files().len(), 3, "nothing is left of the attempt: {:?}", name.files());
    wait_for_others(&first, 1);
    // Once it has gone, there is place.
    drop(socket);
    let second = name.open();
    second.post_text("at last").expect("room");
    assert_eq!(text(&first), "at last");
    wait_for_others(&first, 1);
    fs::remove_file(name.directory().join("keep")).expect("ours");
}
