//! What the kernel may answer, and what a peer may do to it: older kernels, limits, a lack of
//! memory, and a lock that is never given back. Each claim is tried in processes of its own, since
//! a filter or a limit stays for the rest of a process's life, and a broken claim may be a signal.

#![allow(unsafe_code)]

mod common;
#[path = "common/filter.rs"]
mod filter;
#[path = "kernel/locked.rs"]
mod locked;

use common::proc;
use std::fs;
use std::io::{self, Read, Write};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use messageport::{
    ChannelError, CloseReason, MessageChannel, MessagePort, PostError, RecvError, Worker,
    parent_port,
};
use nix::sys::resource::{Resource, getrlimit};

use common::census::Census;
use common::limits::{allow_more_address_space, limit_to};
use common::role::{command, may_be_other_users, play, skip};
use filter::{When, answer};
use locked::{Lock, PATIENCE, region_of, user_faults};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

// Older kernels.

/// Installs a filter, or says that this machine has none.
fn answers(number: i64, when: When, errno: i32) -> bool {
    let installed = answer(number, when, errno);
    if let Err(error) = &installed {
        skip(&format!("no seccomp filter here: {error}"));
    }
    installed.is_ok()
}

fn refused(built: Result<MessageChannel, ChannelError>) -> String {
    match built {
        Ok(_) => panic!("a channel was made"),
        Err(error) => error.to_string(),
    }
}

/// A channel of this process works in both directions.
fn works(channel: &MessageChannel) {
    channel.port1.post_text("there").expect("a post");
    channel.port2.post_text("back").expect("a post");
    assert_eq!(channel.port2.recv().expect("a message").text().expect("a text"), "there");
    assert_eq!(channel.port1.recv().expect("a message").text().expect("a text"), "back");
}

fn is_populate_write() -> When {
    When::Equals(2, libc::MADV_POPULATE_WRITE as u32)
}

#[test]
fn f45_a_kernel_that_cannot_populate_is_refused_by_name() {
    fn creator() {
        if answers(libc::SYS_madvise, is_populate_write(), libc::EINVAL) {
            let error = refused(MessageChannel::new());
            assert!(error.contains("5.14"), "{error}");
        }
    }
    play("f45_a_kernel_that_cannot_populate_is_refused_by_name", &[("creator", creator)]);
}

#[test]
fn f35_a_kernel_without_noexec_seal_still_makes_channels() {
    fn creator() {
        let noexec = When::HasBits(1, libc::MFD_NOEXEC_SEAL);
        if answers(libc::SYS_memfd_create, noexec, libc::EINVAL) {
            works(&MessageChannel::new().expect("a channel without the newer flag"));
        }
    }
    play("f35_a_kernel_without_noexec_seal_still_makes_channels", &[("creator", creator)]);
}

#[test]
fn f35_a_refused_memfd_is_an_error_that_names_the_call() {
    fn forbidden() {
        if answers(libc::SYS_memfd_create, When::Always, libc::EPERM) {
            let error = refused(MessageChannel::new());
            assert!(error.contains("memfd_create"), "{error}");
        }
    }
    play("f35_a_refused_memfd_is_an_error_that_names_the_call", &[("forbidden", forbidden)]);
}

#[test]
fn f35_a_memfd_past_the_last_descriptor_is_an_error_that_names_the_call() {
    const TEST: &str = "f35_a_memfd_past_the_last_descriptor_is_an_error_that_names_the_call";
    fn exhausted() {
        if answers(libc::SYS_memfd_create, When::Always, libc::EMFILE) {
            let error = refused(MessageChannel::new());
            assert!(error.contains("memfd_create"), "{error}");
        }
    }
    play(TEST, &[("exhausted", exhausted)]);
}

#[test]
fn t8_every_other_refused_call_of_a_creation_is_an_error_that_leaks_nothing() {
    const TEST: &str = "t8_every_other_refused_call_of_a_creation_is_an_error_that_leaks_nothing";
    fn creator() {
        let before = Census::take();
        let shared_mmap = When::HasBits(3, libc::MAP_SHARED as u32);
        let calls = [
            (libc::SYS_ftruncate, When::Always, libc::ENOSPC),
            (libc::SYS_mmap, shared_mmap, libc::ENOMEM),
            (libc::SYS_socketpair, When::Always, libc::ENFILE),
        ];
        for (number, when, errno) in calls {
            // A filter stays with its thread, so each call is refused in a thread of its own.
            let made = thread::spawn(move || {
                answers(number, when, errno).then(|| refused(MessageChannel::new()))
            });
            made.join().expect("an error and no panic");
        }
        before.wait_for("a failed creation leaves nothing open");
    }
    play(TEST, &[("creator", creator)]);
}

#[test]
fn a_worker_without_a_pidfd_is_an_error_that_names_the_call_and_leaves_nothing() {
    const TEST: &str =
        "a_worker_without_a_pidfd_is_an_error_that_names_the_call_and_leaves_nothing";
    fn starts() {
        if answers(libc::SYS_pidfd_open, When::Always, libc::EPERM) {
            let before = Census::take();
            let error = Worker::spawn(command(TEST, "starts")).expect_err("no pidfd");
            assert!(error.to_string().contains("pidfd_open"), "{error}");
            before.wait_for("a failed start leaves nothing open");
            assert!(common::census::has_no_children());
        }
    }
    play(TEST, &[("starts", starts)]);
}

// Limits of the process.

fn refused_for_size_until_the_limit_is_lower(named: &str) {
    let error = refused(MessageChannel::builder().limit(512 * MIB).build());
    assert!(error.contains(named) && error.contains("`limit`"), "{error}");
    // The remedy that the error names is one.
    works(&MessageChannel::builder().limit(MIB).build().expect("a small channel"));
}

#[test]
fn f45_a_file_size_limit_is_an_error_that_names_the_remedy() {
    fn creator() {
        // A process that goes past this limit gets SIGXFSZ, which would end this one.
        limit_to(Resource::RLIMIT_FSIZE, 256 * MIB as u64);
        refused_for_size_until_the_limit_is_lower("RLIMIT_FSIZE");
        // The region may be as long as that, and no longer: a header, and two lanes of a MiB.
        let needed = (64 << 10) + 2 * MIB as u64;
        limit_to(Resource::RLIMIT_FSIZE, needed);
        works(&MessageChannel::builder().limit(MIB).build().expect("it is just allowed"));
        limit_to(Resource::RLIMIT_FSIZE, needed - 1);
        let error = refused(MessageChannel::builder().limit(MIB).build());
        assert!(error.contains("RLIMIT_FSIZE"), "{error}");
    }
    play("f45_a_file_size_limit_is_an_error_that_names_the_remedy", &[("creator", creator)]);
}

#[test]
fn f45_an_address_space_limit_is_an_error_that_names_the_remedy() {
    fn creator() {
        allow_more_address_space(256 * MIB as u64);
        refused_for_size_until_the_limit_is_lower("RLIMIT_AS");
    }
    play("f45_an_address_space_limit_is_an_error_that_names_the_remedy", &[("creator", creator)]);
}

#[test]
fn a_limit_of_locked_memory_is_an_error_that_names_it_until_the_channel_is_smaller() {
    const TEST: &str =
        "a_limit_of_locked_memory_is_an_error_that_names_it_until_the_channel_is_smaller";
    fn locks() {
        // Root has no such limit.
        if may_be_other_users() {
            nix::unistd::seteuid(nix::unistd::Uid::from_raw(4711)).expect("root becomes any user");
        } else if nix::unistd::geteuid().is_root() {
            return skip("this root becomes no other user");
        }
        let (_, most) = getrlimit(Resource::RLIMIT_MEMLOCK).expect("a limit");
        if most < 8 * MIB as u64 {
            return skip("this process may lock too little memory");
        }
        limit_to(Resource::RLIMIT_MEMLOCK, 8 * MIB as u64);
        // This one is not the cause.
        allow_more_address_space(1 << 40);
        // SAFETY: the call takes an integer.
        assert_eq!(unsafe { libc::mlockall(libc::MCL_FUTURE) }, 0);
        let error = refused(MessageChannel::new());
        assert!(error.contains("mmap") && error.contains("RLIMIT_MEMLOCK"), "{error}");
        assert!(error.contains("`limit`"), "{error}");
        let small = MessageChannel::builder().limit(MIB).build().expect("it is small enough");
        works(&small);
        let bounded = MessageChannel::builder().bounded().build().expect("it is small enough");
        works(&bounded);
    }
    play(TEST, &[("locks", locks)]);
}

#[test]
fn t8_a_shortage_of_descriptors_is_an_error_that_leaks_none() {
    fn creator() {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits can be read");
        let before = Census::take();
        let mut failures = 0;
        for allowed in 3.. {
            limit_to(Resource::RLIMIT_NOFILE, allowed);
            let made = MessageChannel::new();
            limit_to(Resource::RLIMIT_NOFILE, soft);
            let Err(error) = made else { break };
            let text = error.to_string();
            assert!(text.contains("memfd_create") || text.contains("socket"), "{text}");
            before.wait_for(format_args!("with {allowed} descriptors: {text}"));
            failures += 1;
        }
        assert!(failures > 0, "the limit did not matter");
        before.wait_for("at the end");
    }
    play("t8_a_shortage_of_descriptors_is_an_error_that_leaks_none", &[("creator", creator)]);
}

// A lack of memory.

fn lacks_memory(error: &PostError) -> bool {
    matches!(error, PostError::Io(error) if error.source.raw_os_error() == Some(libc::ENOMEM))
}

/// Posts from a thread in which no fresh page is to be had, until that is an error.
fn post_without_memory(port: MessagePort, message: &[u8]) -> (MessagePort, usize) {
    let mut accepted = 0;
    if answers(libc::SYS_madvise, is_populate_write(), libc::ENOMEM) {
        let error = loop {
            match port.post_bytes(message) {
                Ok(()) => accepted += 1,
                Err(error) => break error,
            }
        };
        assert!(lacks_memory(&error), "after {accepted} messages: {error}");
    }
    (port, accepted)
}

#[test]
fn f45_a_lack_of_memory_is_an_error_of_the_post() {
    fn poster() {
        let channel = MessageChannel::builder().limit(4 * MIB).build().expect("a channel");
        let MessageChannel { port1, port2 } = channel;
        let message = [1; KIB];
        let poor = thread::spawn(move || post_without_memory(port1, &message));
        let (port1, accepted) = poor.join().expect("an error and no panic");
        // Where memory is to be had again, the port goes on, and nothing was lost or doubled.
        port1.post_bytes(&[2; 100 * KIB]).expect("a post with memory");
        port1.close();
        for _ in 0..accepted {
            assert_eq!(port2.recv().expect("a message").bytes(), &message);
        }
        assert_eq!(port2.recv().expect("a message").bytes(), &[2; 100 * KIB]);
        let end = port2.recv().map(|event| event.bytes().len());
        assert!(matches!(end, Err(RecvError::Closed { reason: CloseReason::PeerClosed })));
    }
    play("f45_a_lack_of_memory_is_an_error_of_the_post", &[("poster", poster)]);
}

/// Every way of posting, with a message that needs fresh pages. None may succeed.
fn post_in_every_way(port: &MessagePort) {
    let bytes = vec![3; 200 * KIB];
    let text = "t".repeat(200 * KIB);
    let posts: [(&str, Result<(), PostError>); 6] = [
        ("post_bytes", port.post_bytes(&bytes)),
        ("post_text", port.post_text(&text)),
        ("post_message", port.post_message(&text)),
        ("post_bytes_timeout", port.post_bytes_timeout(&bytes, Duration::MAX)),
        ("loan", port.loan(bytes.len()).and_then(|loan| loan.post())),
        ("burst", port.burst().stage_bytes(&bytes)),
    ];
    for (way, posted) in posts {
        assert!(posted.as_ref().is_err_and(lacks_memory), "{way}: {posted:?}");
    }
}

#[test]
fn f45_a_lack_of_memory_is_an_error_of_every_way_to_post() {
    fn poster() {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let poor = thread::spawn(move || {
            if answers(libc::SYS_madvise, is_populate_write(), libc::ENOMEM) {
                post_in_every_way(&port1);
            }
            port1
        });
        let port1 = poor.join().expect("an error and no panic");
        assert_eq!(port1.backlog().messages, 0);
        port1.post_text("after").expect("a post with memory");
        assert_eq!(port2.recv().expect("a message").text().expect("a text"), "after");
        assert!(port2.try_recv().expect("an open port").is_none());
    }
    play("f45_a_lack_of_memory_is_an_error_of_every_way_to_post", &[("poster", poster)]);
}

// A lock that the peer holds.

/// The hostile side: a parent that takes the lock of the region it shares with `victim`, and gives
/// it back only when the victim has ended, or hangs.
fn hostile(mut victim: Command, prepare: fn(&MessagePort), under_lock: fn(&MessagePort)) {
    let faults = match user_faults() {
        Ok(faults) => faults,
        Err(error) => return skip(&format!("no userfaultfd here: {error}")),
    };
    let (gate, mut opener) = io::pipe().expect("a pipe");
    victim.stdin(gate);
    let builder = MessageChannel::builder().limit(4 * MIB);
    let worker = Worker::spawn_with(victim, builder).expect("a worker");
    let (port, mut process) = worker.into_parts();
    prepare(&port);
    let lock = Lock::take(region_of(process.id()), faults);
    opener.write_all(b"!").expect("the victim waits");
    under_lock(&port);

    let victim_id = process.id();
    let (send, ended) = mpsc::channel();
    let waiter = thread::spawn(move || send.send(process.wait()));
    let in_time = ended.recv_timeout(PATIENCE);
    let held = lock.is_held();
    let stacks = if in_time.is_err() { stacks_of(victim_id) } else { String::new() };
    lock.release();
    waiter.join().expect("the victim is waited for").ok();
    let status = in_time.unwrap_or_else(|_| panic!("the victim hangs: {port:?}\n{stacks}"));
    assert!(status.as_ref().is_ok_and(|status| status.success()), "the victim: {status:?}");
    assert!(held, "the lock was given back too early, so nothing was shown");
}

/// Where in the kernel each thread of a process is. Only root is told.
fn stacks_of(process: u32) -> String {
    let tasks = fs::read_dir(proc(format_args!("{process}/task"))).into_iter().flatten().flatten();
    tasks.filter_map(|task| fs::read_to_string(task.path().join("stack")).ok()).collect()
}

/// The victim's side of the gate: opens when the lock is taken.
fn wait_for_the_lock() {
    io::stdin().read_exact(&mut [0]).expect("the hostile side opens the gate");
}

/// The victim is attached when its first message is there.
fn wait_until_attached(port: &MessagePort) {
    let ready = port.recv_timeout(PATIENCE).expect("the victim says that it is there");
    assert_eq!(ready.text().expect("a text"), "ready");
}

/// The victim's port, with the lock taken after it was attached.
fn attach_before_the_lock() -> MessagePort {
    let port = parent_port().expect("a port to the hostile parent");
    port.post_text("ready").expect("a post");
    wait_for_the_lock();
    port
}

const MANY: usize = 700;
const BIG: [u8; 4000] = [5; 4000];

/// More than the first segment takes, so that the receiver has to follow into others.
fn post_many(port: &MessagePort) {
    wait_until_attached(port);
    for _ in 0..MANY {
        port.post_bytes(&BIG).expect("room for all");
    }
    assert!(port.stats().sent.growth > 0);
}

#[test]
fn f44_a_lock_held_by_the_peer_stops_no_post() {
    const TEST: &str = "f44_a_lock_held_by_the_peer_stops_no_post";
    fn victim() {
        let port = attach_before_the_lock();
        port.loan(BIG.len()).and_then(|loan| loan.post()).expect("room for a loan");
        port.burst().stage_bytes(&BIG).expect("room in a burst");
        let full = loop {
            match port.post_bytes(&BIG) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(full, PostError::QueueFull { .. }), "{full}");
        assert!(port.stats().sent.growth > 0, "{port:?}");
        let late = port.post_bytes_timeout(&BIG, Duration::from_millis(1));
        assert!(late.is_err(), "{late:?}");
    }
    fn hostile_side() {
        hostile(command(TEST, "victim"), wait_until_attached, |_| {});
    }
    play(TEST, &[("hostile", hostile_side), ("victim", victim)]);
}

#[test]
fn f44_a_lock_held_by_the_peer_stops_no_receive() {
    const TEST: &str = "f44_a_lock_held_by_the_peer_stops_no_receive";
    fn victim() {
        let port = attach_before_the_lock();
        for _ in 0..MANY {
            assert_eq!(port.recv().expect("a message").bytes(), &BIG);
        }
        // This one is posted under the lock, and may find the victim asleep.
        assert_eq!(port.recv().expect("a message").text().expect("a text"), "late");
    }
    fn hostile_side() {
        let late = |port: &MessagePort| port.post_text("late").expect("a post");
        hostile(command(TEST, "victim"), post_many, late);
    }
    play(TEST, &[("hostile", hostile_side), ("victim", victim)]);
}

#[test]
fn f44_a_lock_held_by_the_peer_stops_no_close() {
    const TEST: &str = "f44_a_lock_held_by_the_peer_stops_no_close";
    fn victim() {
        let port = attach_before_the_lock();
        port.post_bytes(&BIG).expect("a post");
        port.close();
        let error = port.post_bytes(&BIG).expect_err("the port is closed");
        assert!(matches!(error, PostError::Closed { reason: CloseReason::Local }), "{error}");
        // Many messages are unread, the pages of several segments in use.
        drop(port);
    }
    fn hostile_side() {
        hostile(command(TEST, "victim"), post_many, |_| {});
    }
    play(TEST, &[("hostile", hostile_side), ("victim", victim)]);
}

#[test]
fn f44_a_lock_held_by_the_peer_stops_no_attach() {
    const TEST: &str = "f44_a_lock_held_by_the_peer_stops_no_attach";
    fn victim() {
        wait_for_the_lock();
        let port = parent_port().expect("a port to the hostile parent");
        assert_eq!(port.recv().expect("a message").text().expect("a text"), "early");
        port.post_text("ready").expect("a post");
    }
    fn hostile_side() {
        let early = |port: &MessagePort| port.post_text("early").expect("a post");
        hostile(command(TEST, "victim"), early, wait_until_attached);
    }
    play(TEST, &[("hostile", hostile_side), ("victim", victim)]);
}
