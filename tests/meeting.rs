//! Meeting by a name: each client gets one fresh port, strangers are refused with a clear error,
//! and a name does not outlive its listener.

mod common;
#[path = "meeting/others.rs"]
mod others;

use std::fs::{self, Permissions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use common::census::Census;
use common::limits::{allow_all_descriptors, allow_more_descriptors};
use common::role::{command, play};
use common::watchdog::watch;
use common::{DEADLINE, die, receive_end, receive_text, wait_until};
use messageport::{
    CloseReason, Connect, ConnectError, ListenError, Listener, MessageChannel, RefusedClients,
    connect,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, recv, send, socket};
use tempfile::TempDir;

/// A place for a name, and what removes it.
fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("name");
    (directory, path)
}

fn listen(path: &PathBuf) -> Listener {
    Listener::bind_at(path, MessageChannel::builder()).expect("a listener")
}

/// Connects as a program that this crate has no part in.
fn stranger(path: &PathBuf) -> OwnedFd {
    let kind = SockType::SeqPacket;
    let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let address = UnixAddr::new(path).expect("a short path");
    nix::sys::socket::connect(socket.as_raw_fd(), &address).expect("there is a listener");
    socket
}

fn hello(version: u64, schema: u64) -> Vec<u8> {
    let format = 8 << 32 | 1 << 16 | 4 << 8 | 8;
    let words = [u64::from_le_bytes(*b"MPHELLO1"), version, format, schema];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn each_client_has_a_port_of_its_own() {
    let _watch = watch("each_client_has_a_port_of_its_own");
    let (_directory, path) = place();
    let listener = listen(&path);
    assert!(listener.try_accept().expect("a listener").is_none());
    let clients: Vec<_> = (0..20)
        .map(|number| {
            let path = path.clone();
            thread::spawn(move || {
                let port = Connect::new().timeout(DEADLINE).at(&path).expect("a listener");
                port.post_text(&number.to_string()).expect("room");
                assert_eq!(receive_text(&port), format!("you are {number}"));
                let peer = port.peer_credentials().expect("met by a name");
                assert_eq!(peer.pid, std::process::id());
            })
        })
        .collect();
    for _ in 0..clients.len() {
        let port = listener.accept_timeout(DEADLINE).expect("a client");
        let number = receive_text(&port);
        port.post_text(&format!("you are {number}")).expect("room");
        assert_eq!(port.peer_credentials().expect("met").pid, std::process::id());
        assert_eq!(receive_end(&port), CloseReason::PeerDropped);
    }
    clients.into_iter().for_each(|client| client.join().expect("a client that is content"));
    let timeout = listener.accept_timeout(Duration::from_millis(1));
    assert!(matches!(timeout, Err(ListenError::Timeout)), "{timeout:?}");
}

#[test]
fn a_name_is_one_listener_s_and_goes_with_it() {
    let (_directory, path) = place();
    let first = listen(&path);
    let second = Listener::bind_at(&path, MessageChannel::builder());
    assert!(matches!(second, Err(ListenError::InUse { .. })), "{second:?}");
    let mode = fs::symlink_metadata(&path).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(first);
    let left: Vec<_> = fs::read_dir(path.parent().expect("a directory")).expect("it").collect();
    assert!(left.is_empty(), "{left:?}");
    let answer = Connect::new().at(&path);
    assert!(matches!(answer, Err(ConnectError::NoListener { .. })), "{answer:?}");
    drop(listen(&path));
}

#[test]
fn a_killed_listener_s_name_is_taken_over() {
    const TEST: &str = "a_killed_listener_s_name_is_taken_over";
    fn listens_and_dies() {
        let path = PathBuf::from(std::env::var_os("PLACE").expect("a place"));
        let _listener = listen(&path);
        die();
    }
    fn takes_over() {
        let (_directory, path) = place();
        let before = Census::take();
        for _ in 0..5 {
            let mut child = command(TEST, "listens_and_dies");
            child.env("PLACE", &path).spawn().expect("a child").wait().expect("a child");
            assert!(path.exists(), "it could not clear up");
            let answer = Connect::new().at(&path);
            assert!(matches!(answer, Err(ConnectError::NoListener { .. })), "{answer:?}");
            let listener = listen(&path);
            let client = thread::spawn({
                let path = path.clone();
                move || Connect::new().timeout(DEADLINE).at(path).expect("a listener")
            });
            let port = listener.accept_timeout(DEADLINE).expect("a client");
            port.post_text("welcome").expect("room");
            assert_eq!(receive_text(&client.join().expect("a client")), "welcome");
            drop((listener, port));
            // The name stays behind again, with the next one that dies.
        }
        before.wait_for("at the end");
    }
    play(TEST, &[("takes_over", takes_over), ("listens_and_dies", listens_and_dies)]);
}

#[test]
fn a_name_in_the_runtime_directory_serves_other_processes() {
    const TEST: &str = "a_name_in_the_runtime_directory_serves_other_processes";
    fn asks() {
        let port = connect("answers").expect("a listener");
        port.post_text("who are you?").expect("room");
        assert_eq!(receive_text(&port), "the one you asked");
    }
    fn answers() {
        let listener = Listener::bind("answers").expect("a listener");
        let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR").expect("set below"));
        assert_eq!(listener.path(), runtime.join("messageport/answers"));
        let mut child = command(TEST, "asks").spawn().expect("a child");
        let port = listener.accept_timeout(DEADLINE).expect("a client");
        assert_eq!(port.peer_credentials().expect("met").pid, child.id());
        assert_eq!(receive_text(&port), "who are you?");
        port.post_text("the one you asked").expect("room");
        assert_eq!(receive_end(&port), CloseReason::PeerDropped);
        assert!(child.wait().expect("a child").success());
    }
    fn starts() {
        let runtime = tempfile::tempdir().expect("a directory");
        let mut child = command(TEST, "answers");
        child.env("XDG_RUNTIME_DIR", runtime.path());
        assert!(child.status().expect("a child").success());
    }
    play(TEST, &[("starts", starts), ("answers", answers), ("asks", asks)]);
}

#[test]
fn a_directory_that_others_may_enter_is_refused() {
    const TEST: &str = "a_directory_that_others_may_enter_is_refused";
    fn tries() {
        let listened = Listener::bind("name");
        assert!(matches!(listened, Err(ListenError::Directory { .. })), "{listened:?}");
        let connected = connect("name");
        assert!(matches!(connected, Err(ConnectError::Directory { .. })), "{connected:?}");
    }
    fn starts() {
        let runtime = tempfile::tempdir().expect("a directory");
        let names = runtime.path().join("messageport");
        fs::create_dir(&names).expect("a directory");
        fs::set_permissions(&names, Permissions::from_mode(0o755)).expect("our own directory");
        let play = || {
            let mut child = command(TEST, "tries");
            child.env("XDG_RUNTIME_DIR", runtime.path()).status().expect("a child").success()
        };
        assert!(play(), "open to all");
        fs::remove_dir(&names).expect("an empty directory");
        std::os::unix::fs::symlink("/tmp", &names).expect("a link");
        assert!(play(), "a link");
    }
    play(TEST, &[("starts", starts), ("tries", tries)]);
}

#[test]
fn names_that_are_none_are_refused() {
    for name in ["", ".", "..", "a/b", "a\0b", &"x".repeat(65)] {
        let listened = Listener::bind(name);
        assert!(matches!(listened, Err(ListenError::BadName { .. })), "{name:?}: {listened:?}");
        let connected = connect(name);
        assert!(matches!(connected, Err(ConnectError::BadName { .. })), "{name:?}: {connected:?}");
    }
    let (directory, _) = place();
    let far = directory.path().join("x".repeat(120));
    let listened = Listener::bind_at(&far, MessageChannel::builder());
    assert!(matches!(listened, Err(ListenError::File { .. })), "{listened:?}");
    let connected = Connect::new().at(&far);
    assert!(matches!(connected, Err(ConnectError::File { .. })), "{connected:?}");
}

#[test]
fn f38_another_schema_is_refused_by_both_numbers() {
    let (_directory, path) = place();
    let listener =
        Listener::bind_at(&path, MessageChannel::builder().schema(7)).expect("a listener");
    assert_eq!(listener.refused(), RefusedClients::default());
    thread::scope(|scope| {
        // The listener counts all of them, and tells of the last one.
        for (count, schema) in [(1, 8), (2, 9), (3, 0)] {
            let place = &path;
            let wrong =
                scope.spawn(move || Connect::new().schema(schema).timeout(DEADLINE).at(place));
            wait_until("the wrong one was sent away", || {
                assert!(listener.try_accept().expect("a listener").is_none());
                wrong.is_finished()
            });
            let error = wrong.join().expect("no panic").expect_err("another schema").to_string();
            let theirs = format!("{schema:#x}");
            assert!(
                error.contains("schema") && error.contains("0x7") && error.contains(&theirs),
                "{error}"
            );
            let refused = listener.refused();
            assert_eq!(refused.count, count);
            let last = refused.last.expect("the wrong one");
            assert_eq!((last.what, last.found, last.expected), ("schema", schema, 7));
            assert_eq!(last.credentials.pid, std::process::id());
            let words = last.to_string();
            let says = words.contains(&format!("schema, {theirs}")) && words.contains("has 0x7");
            assert!(says, "{words}");
        }
        let refused = listener.refused();
        let right = scope.spawn(|| Connect::new().schema(7).timeout(DEADLINE).at(&path));
        let port = listener.accept_timeout(DEADLINE).expect("a client");
        assert_eq!(port.schema(), 7);
        assert_eq!(right.join().expect("no panic").expect("the same schema").schema(), 7);
        assert_eq!(listener.refused(), refused);
    });
}

#[test]
fn strangers_are_sent_away_and_delay_no_client() {
    let _watch = watch("strangers_are_sent_away_and_delay_no_client");
    let (_directory, path) = place();
    let listener = listen(&path);
    let silent: Vec<_> = (0..10).map(|_| stranger(&path)).collect();
    let rude = stranger(&path);
    send(rude.as_raw_fd(), b"GET / HTTP/1.1", MsgFlags::empty()).expect("room");
    let old = stranger(&path);
    send(old.as_raw_fd(), &hello(1, 0), MsgFlags::empty()).expect("room");
    drop(stranger(&path));
    let client = thread::spawn({
        let path = path.clone();
        move || Connect::new().timeout(DEADLINE).at(path).expect("a listener")
    });
    let port = listener.accept_timeout(DEADLINE).expect("the one client that is one");
    port.post_text("you are").expect("room");
    assert_eq!(receive_text(&client.join().expect("a client")), "you are");
    // The old one is told what it met; the rude one is not worth an answer.
    let mut answer = [0; 64];
    let len = recv(old.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("an answer");
    assert_eq!((len, &answer[..8]), (32, &b"MPREFUSE"[..]));
    assert_eq!(answer[8], 12, "the layout version of this side");
    assert_eq!(recv(rude.as_raw_fd(), &mut answer, MsgFlags::empty()), Ok(0));
    drop(silent);
    assert!(listener.try_accept().expect("a listener").is_none());
}

#[test]
fn a_listener_that_says_nothing_is_not_waited_for_without_end() {
    let (_directory, path) = place();
    let _listener = listen(&path);
    let error = Connect::new().timeout(Duration::from_millis(20)).at(&path).expect_err("silence");
    assert!(matches!(error, ConnectError::Timeout), "{error}");
}

#[test]
fn a_listener_nests_in_a_loop_of_one_s_own() {
    let (_directory, path) = place();
    let listener = listen(&path);
    let ready = |timeout| {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).expect("a poll") > 0
    };
    assert!(!ready(PollTimeout::ZERO));
    let client = thread::spawn({
        let path = path.clone();
        move || Connect::new().timeout(DEADLINE).at(path).expect("a listener")
    });
    let port = loop {
        assert!(ready(PollTimeout::from(60_000u16)), "a client has come");
        if let Some(port) = listener.try_accept().expect("a listener") {
            break port;
        }
    };
    drop(port);
    assert_eq!(receive_end(&client.join().expect("a client")), CloseReason::PeerDropped);
    wait_until("no client is left", || !ready(PollTimeout::ZERO));
}

#[test]
fn a_name_that_a_lock_may_have_is_refused() {
    let (_directory, path) = place();
    let listener = listen(&path);
    let lock = path.with_extension("lock");
    let refused = Listener::bind_at(&lock, MessageChannel::builder()).map(drop);
    assert!(matches!(refused, Err(ListenError::BadName { .. })), "{refused:?}");
    let refused = Listener::bind("some.lock").map(drop);
    assert!(matches!(refused, Err(ListenError::BadName { .. })), "{refused:?}");
    let refused = Listener::bind_at(&path, MessageChannel::builder()).map(drop);
    assert!(matches!(refused, Err(ListenError::InUse { .. })), "{refused:?}");
    drop(listener);
}

#[test]
fn a_file_of_another_user_stays() {
    let (_directory, path) = place();
    let lock = path.with_extension("lock");
    fs::write(&path, "precious").expect("a file");
    let refused = Listener::bind_at(&path, MessageChannel::builder()).map(drop);
    assert!(matches!(refused, Err(ListenError::File { call: "bind", .. })), "{refused:?}");
    assert_eq!(fs::read(&path).expect("it is there"), b"precious");
    fs::remove_file(&path).expect("ours");
    fs::write(&lock, "precious too").expect("a file");
    let refused = Listener::bind_at(&path, MessageChannel::builder()).map(drop);
    let error = refused.expect_err("a file of another user").to_string();
    assert!(error.contains(".lock") && error.contains(&*path.to_string_lossy()), "{error}");
    assert_eq!(fs::read(&lock).expect("it is there"), b"precious too");
}

#[test]
fn a_listener_whose_file_was_replaced_leaves_the_new_one() {
    let (_directory, path) = place();
    let listener = listen(&path);
    fs::remove_file(&path).expect("it is there");
    fs::write(&path, "another's").expect("a file");
    drop(listener);
    assert_eq!(fs::read(&path).expect("it is there"), b"another's");
}

#[test]
fn a_client_that_has_spoken_is_not_displaced() {
    let _watch = watch("a_client_that_has_spoken_is_not_displaced");
    let (_directory, path) = place();
    let listener = listen(&path);
    let early = stranger(&path);
    assert!(listener.try_accept().expect("a listener").is_none());
    send(early.as_raw_fd(), &hello(12, 0), MsgFlags::empty()).expect("it listens");
    // As many as there is place for, and more knock.
    let silent: Vec<_> = (0..128).map(|_| stranger(&path)).collect();
    let port = listener.try_accept().expect("a listener").expect("the one that has spoken");
    port.post_text("welcome").expect("it is there");
    drop(silent);
}

/// It has no reason to connect again: it waits as one does that was not let in yet.
#[test]
fn a_client_for_whose_port_there_is_too_little_is_served_later() {
    fn victim() {
        let (_directory, path) = place();
        let listener = listen(&path);
        let client = stranger(&path);
        let greeting = hello(12, 0);
        send(client.as_raw_fd(), &greeting, MsgFlags::empty()).expect("it listens");
        // One for the client's socket, and too few for a channel.
        allow_more_descriptors(3);
        let error = listener.try_accept().map(drop).expect_err("too few descriptors");
        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
        let error = listener.accept_timeout(Duration::from_millis(1)).map(drop);
        assert!(!matches!(error, Err(ListenError::Timeout)), "{error:?}");
        allow_all_descriptors();
        let port = listener.accept_timeout(DEADLINE).expect("the client has waited");
        drop(port);
        let mut answer = [0; 1024];
        let len = recv(client.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT);
        assert!(len.is_ok_and(|len| len > greeting.len()), "no port: {len:?}");
        // What it waited for is not watched any more.
        let next = thread::spawn(move || Connect::new().timeout(DEADLINE).at(path).map(drop));
        drop(listener.accept_timeout(DEADLINE).expect("another client"));
        next.join().expect("a client").expect("a listener");
    }
    let name = "a_client_for_whose_port_there_is_too_little_is_served_later";
    play(name, &[("victim", victim)]);
}
