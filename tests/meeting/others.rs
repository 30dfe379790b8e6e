//! Listeners that serve other users: those that are allowed, by what the kernel says of them.
#![allow(unsafe_code)]

use crate::common::role::{command, may_be_other_users, play, say, skip};
use crate::common::{DEADLINE, proc, receive_text};
use crate::place;
use messageport::{Connect, ConnectError, ListenError, Listener, MessageChannel};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use std::env;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const USER: u32 = 3001;
const GROUP: u32 = 3002;
const SUPPLEMENTARY: u32 = 3003;
const STRANGER: u32 = 3004;
const PATH: &str = "MESSAGEPORT_TEST_PATH";

fn become_user(user: u32, group: u32, supplementary: &[u32]) {
    let groups: Vec<Gid> = supplementary.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).expect("root may");
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    setresgid(group, group, group).expect("root may");
    setresuid(user, user, user).expect("root may");
}

fn path() -> PathBuf {
    env::var_os(PATH).expect("the parent says where").into()
}

/// Connects and says so.
fn greet() {
    let connect = Connect::new().timeout(DEADLINE).listener_user(0);
    let port = connect.at(path()).expect("it is allowed");
    assert_eq!(port.peer_credentials().expect("met by a name").uid, 0);
    port.post_text("here").expect("room");
    assert_eq!(receive_text(&port), "welcome");
}

fn user() {
    become_user(USER, STRANGER, &[]);
    // It does not know whose the listener is.
    let error = Connect::new().at(path()).expect_err("another user's");
    assert!(matches!(error, ConnectError::ForeignUser { found: 0, expected: USER }), "{error}");
    greet();
}

fn group() {
    become_user(STRANGER, GROUP, &[]);
    greet();
}

fn supplementary() {
    let many: Vec<u32> = (10_000..10_100).chain([SUPPLEMENTARY]).collect();
    become_user(STRANGER, STRANGER, &many);
    greet();
}

fn stranger() {
    become_user(STRANGER, STRANGER, &[10_000]);
    let connect = Connect::new().timeout(DEADLINE).listener_user(0);
    for _ in 0..ATTEMPTS {
        let error = connect.at(path()).expect_err("it is not allowed");
        assert!(matches!(error, ConnectError::NotAllowed { user: STRANGER }), "{error}");
    }
}

/// How often the stranger tries: often the listener refuses it before it has said who it is.
const ATTEMPTS: u64 = 500;

fn is_root() -> bool {
    let is_root = may_be_other_users();
    if !is_root {
        skip("only root can be other users");
    }
    is_root
}

/// A directory that others may enter.
fn open_place() -> (tempfile::TempDir, PathBuf) {
    let (directory, path) = place();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("ours");
    (directory, path)
}

fn start(role: &str, path: &Path) -> std::process::Child {
    command("others::other_users_are_served_if_they_are_allowed", role)
        .env(PATH, path)
        .spawn()
        .expect("a child")
}

#[test]
fn other_users_are_served_if_they_are_allowed() {
    fn serves() {
        if !is_root() {
            return;
        }
        let (_directory, path) = open_place();
        let mut listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a place");
        listener.allow_users([USER]).expect("our own file");
        listener.allow_groups([GROUP, SUPPLEMENTARY]).expect("our own file");
        for (role, uid) in [("user", USER), ("group", STRANGER), ("supplementary", STRANGER)] {
            let mut child = start(role, &path);
            let port = listener.accept_timeout(DEADLINE).expect("a client");
            let peer = port.peer_credentials().expect("met by a name");
            assert_eq!((peer.uid, peer.pid), (uid, child.id()), "{role}");
            assert_eq!(receive_text(&port), "here");
            port.post_text("welcome").expect("room");
            assert!(child.wait().expect("it ends").success(), "{role}");
        }
        let mut child = start("stranger", &path);
        while listener.refused().count < ATTEMPTS {
            assert!(listener.accept_timeout(std::time::Duration::from_millis(10)).is_err());
        }
        assert!(child.wait().expect("it ends").success(), "each attempt is refused at once");
        let refused = listener.refused().last.expect("one was refused");
        assert_eq!((refused.what, refused.found), ("user", STRANGER.into()));
        // Its own user needs no leave.
        let own = std::thread::spawn(move || Connect::new().timeout(DEADLINE).at(&path).is_ok());
        assert!(listener.accept_timeout(DEADLINE).is_ok() && own.join().expect("no panic"));
    }
    play(
        "others::other_users_are_served_if_they_are_allowed",
        &[
            ("serves", serves),
            ("user", user),
            ("group", group),
            ("supplementary", supplementary),
            ("stranger", stranger),
        ],
    );
}

#[test]
fn no_other_user_can_reach_a_listener_unless_it_says_so() {
    const TEST: &str = "others::no_other_user_can_reach_a_listener_unless_it_says_so";
    fn stranger() {
        become_user(USER, GROUP, &[]);
        let error = Connect::new().listener_user(0).at(path()).expect_err("a private socket");
        assert!(matches!(error, ConnectError::File { .. }), "{error}");
    }
    fn serves() {
        if !is_root() {
            return;
        }
        let (_directory, path) = open_place();
        let listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a place");
        let status = command(TEST, "stranger").env(PATH, &path).status().expect("a child");
        assert!(status.success());
        assert_eq!(listener.refused().count, 0, "the kernel has refused it");
    }
    play(TEST, &[("serves", serves), ("stranger", stranger)]);
}

#[test]
fn a_listener_without_its_file_lets_no_one_else_in() {
    let (_directory, path) = place();
    let mut listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a place");
    fs::remove_file(&path).expect("it is there");
    let refused = listener.allow_users([USER]);
    let Err(ListenError::File { path: named, call: "openat", .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(named, path);
}

/// Who may write to the directory may put a link there, or another socket.
#[test]
fn what_is_in_place_of_the_socket_stays_as_private_as_it_is() {
    let (directory, path) = place();
    let secret = directory.path().join("secret");
    for is_link in [true, false] {
        let mut listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a place");
        fs::rename(&path, directory.path().join("moved")).expect("it is there");
        let _kept = match is_link {
            true => {
                fs::write(&secret, "secret").expect("ours");
                std::os::unix::fs::symlink(&secret, &path).expect("a link");
                None
            }
            false => Some(std::os::unix::net::UnixListener::bind(&secret).expect("a socket")),
        };
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("ours");
        if !is_link {
            fs::hard_link(&secret, &path).expect("a link");
        }
        let refused = listener.allow_users([USER]);
        assert!(matches!(refused, Err(ListenError::File { .. })), "{refused:?}");
        let mode = fs::metadata(&secret).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        for path in [&secret, &path, &directory.path().join("moved")] {
            fs::remove_file(path).expect("ours");
        }
    }
}

/// In a namespace in which all users have numbers, but not all groups.
#[test]
fn a_group_that_stands_for_several_is_not_let_in() {
    const TEST: &str = "others::a_group_that_stands_for_several_is_not_let_in";
    fn inside() {
        let (_directory, path) = place();
        say("ready");
        let mut byte = [0];
        std::io::stdin().read_exact(&mut byte).expect("the parent says so");
        let mut listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a place");
        let refused = listener.allow_groups([65534]).expect_err("it stands for several");
        let text = std::error::Error::source(&refused).expect("a cause").to_string();
        assert!(text.contains("65534"), "{text}");
        listener.allow_users([65534]).expect("it is one user");
        listener.allow_groups([0]).expect("it is one group");
    }
    fn outside() {
        if !is_root() {
            return;
        }
        let mut child = command(TEST, "inside");
        child.stdin(Stdio::piped()).stdout(Stdio::piped());
        // SAFETY: the call takes an integer.
        let leave = || match unsafe { libc::unshare(libc::CLONE_NEWUSER) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        };
        // SAFETY: it makes one call, and allocates nothing.
        unsafe { child.pre_exec(leave) };
        let Ok(mut child) = child.spawn() else { return skip("no user namespaces here") };
        let map =
            |name: &str, map: &str| fs::write(proc(format_args!("{}/{name}", child.id())), map);
        map("gid_map", "0 0 1").expect("root may");
        map("uid_map", "0 0 4294967295").expect("root may");
        child.stdin.take().expect("piped").write_all(b"!").expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    play(TEST, &[("outside", outside), ("inside", inside)]);
}
