//! Broadcast: every other open member has each message once, in its sender's order, whichever
//! members come, go and die meanwhile.

#![allow(unsafe_code)]

#[path = "broadcasting/churn.rs"]
mod churn;
#[path = "broadcasting/clauses.rs"]
mod clauses;
mod common;
#[path = "broadcasting/ends.rs"]
mod ends;
#[path = "common/filter.rs"]
mod filter;
#[path = "broadcasting/joining.rs"]
mod joining;
#[path = "broadcasting/memory.rs"]
mod memory;
#[path = "broadcasting/order.rs"]
mod order;
#[path = "broadcasting/presence.rs"]
mod presence;
#[path = "broadcasting/strangers.rs"]
mod strangers;

use common::members::directory_of;
use common::role::command;
use common::{DEADLINE, receive_text, wait_until};
use messageport::{BroadcastChannel, MessageChannel, MessagePort, Worker};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// A name of a test's own. When it goes, nothing of it may be left.
struct Name {
    text: String,
}

impl Name {
    fn new() -> Name {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Name { text: format!("test-{}-{number}", std::process::id()) }
    }

    /// The directory of the name's members.
    fn directory(&self) -> PathBuf {
        directory_of(&self.text)
    }

    fn open(&self) -> BroadcastChannel {
        open(&self.text)
    }

    /// What is in the directory.
    fn files(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.directory()) else { return Vec::new() };
        let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("a name");
        entries.map(|entry| name(entry.expect("an entry"))).collect()
    }
}

impl Name {
    /// Makes files look old that were on the way to their names when their owners were killed: it
    /// takes some seconds until another process may remove them.
    fn age(&self) {
        for file in self.files().into_iter().filter(|file| file.ends_with(".new")) {
            let (path, then) = (self.directory().join(file), TimeSpec::new(1, 0));
            utimensat(AT_FDCWD, &path, &then, &then, UtimensatFlags::NoFollowSymlink)
                .expect("it is ours");
        }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if !thread::panicking() {
            assert!(!self.directory().exists(), "left behind: {:?}", self.files());
        }
    }
}

fn open(name: &str) -> BroadcastChannel {
    BroadcastChannel::open(name).expect("a membership")
}

/// The next message, which is a text.
fn text(member: &BroadcastChannel) -> String {
    let message = member.recv_timeout(DEADLINE);
    let message = message.unwrap_or_else(|error| panic!("{error}\n{member:#?}"));
    message.text().expect("a text").to_owned()
}

/// Nothing is there for this member.
fn nothing(member: &BroadcastChannel) {
    let answer = member.try_recv().expect("an open member");
    assert!(answer.is_none(), "{answer:?}");
}

/// Waits until a member knows of so many others.
fn wait_for_others(member: &BroadcastChannel, count: usize) {
    wait_until("the others are so many", || member.others().expect("an open member") == count);
}

/// A test of what two members do to each other: between two threads, and then between two
/// processes. Both have the channel's name, and a port to agree by.
macro_rules! between_two_members {
    ($module:literal, $name:ident, $near:ident, $far:ident) => {
        #[test]
        fn $name() {
            const TEST: &str = concat!($module, "::", stringify!($name));
            fn near_role() {
                crate::between_threads($near, $far);
                crate::between_processes(TEST, $near);
            }
            fn far_role() {
                let name = std::env::var(crate::NAME).expect("the parent gave a name");
                $far(&name, messageport::parent_port().expect("a port to the parent"));
            }
            crate::common::role::play(TEST, &[("near", near_role), ("far", far_role)]);
        }
    };
}
use between_two_members;

type Act = fn(&str, MessagePort);

fn between_threads(near: Act, far: Act) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let name = Name::new();
    let text = name.text.clone();
    let other = thread::spawn(move || far(&text, port2));
    near(&name.text, port1);
    other.join().expect("the other thread does not panic");
}

fn between_processes(test: &str, near: Act) {
    let name = Name::new();
    let mut far = command(test, "far");
    far.env(NAME, &name.text);
    let (port, mut child) = Worker::spawn(far).expect("a worker").into_parts();
    near(&name.text, port);
    assert!(child.wait().expect("a child").success());
}

/// Says a word to the other side.
fn say(port: &MessagePort, word: &str) {
    port.post_text(word).expect("the other side is there");
}

/// Waits for a word of the other side.
fn hear(port: &MessagePort, word: &str) {
    assert_eq!(receive_text(port), word);
}

const NAME: &str = "MESSAGEPORT_TEST_NAME";
