//! Listeners that serve other users: those that are allowed, by what the kernel says of them.

use crate::common::role::{command, play, skip};
use crate::common::{DEADLINE, receive_text};
use crate::place;
use messageport::{Connect, ConnectError, ListenError, Listener, MessageChannel};
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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
    let error = connect.at(path()).expect_err("it is not allowed");
    assert!(matches!(error, ConnectError::NotAllowed { user: STRANGER }), "{error}");
}

fn is_root() -> bool {
    let is_root = geteuid().is_root();
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
        while listener.refused().count == 0 {
            assert!(listener.accept_timeout(std::time::Duration::from_millis(10)).is_err());
        }
        assert!(child.wait().expect("it ends").success());
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
    let Err(ListenError::File { path: named, call: "fchmodat", .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(named, path);
}
