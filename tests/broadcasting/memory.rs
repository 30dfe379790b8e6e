//! Members where there is no memory for a message: an error says so, and nothing else is lost.

use crate::common::DEADLINE;
use crate::common::limits::{allow_all_address_space, allow_more_address_space};
use crate::common::role::play;
use crate::common::watchdog::progress;
use crate::{Name, nothing, text};
use messageport::{BroadcastChannel, BroadcastError, Message, MessageError};
use std::io::ErrorKind;

/// More than glibc has reserved for a thread, whatever it was given back before.
const LEN: usize = 66 << 20;

fn open(name: &Name) -> BroadcastChannel {
    let builder = BroadcastChannel::builder().limit(256 << 20);
    BroadcastChannel::open_with(&name.text, builder).expect("a membership")
}

/// Makes a call that may not allocate as much as a long message.
fn without_memory<T>(call: impl FnOnce() -> T) -> T {
    allow_more_address_space(LEN as u64 / 4);
    let answer = call();
    allow_all_address_space();
    progress();
    answer
}

fn receive(member: &BroadcastChannel) -> Result<Message, BroadcastError> {
    member.recv_timeout(DEADLINE)
}

#[test]
fn a_member_is_told_which_message_it_has_no_memory_for_and_the_others_have_it() {
    const TEST: &str =
        "memory::a_member_is_told_which_message_it_has_no_memory_for_and_the_others_have_it";
    fn receives() {
        let name = Name::new();
        let (sender, poor, rich) = (open(&name), open(&name), open(&name));
        for _ in 0..2 {
            sender.post_text("before").expect("room");
            sender.post_bytes(&vec![7; LEN]).expect("room");
            sender.post_text("behind").expect("room");
            assert_eq!(text(&poor), "before");
            let refused = without_memory(|| receive(&poor)).expect_err("no memory");
            let BroadcastError::Message(MessageError::OutOfMemory { len }) = refused else {
                panic!("{refused}")
            };
            assert_eq!(len, LEN as u64);
            assert_eq!(text(&poor), "behind");
            nothing(&poor);
            assert_eq!(text(&rich), "before");
            assert!(receive(&rich).expect("there is memory").bytes() == vec![7; LEN]);
            assert_eq!(text(&rich), "behind");
            nothing(&rich);
        }
        // Both are still members.
        poor.post_text("on").expect("room");
        assert_eq!((text(&sender), text(&rich)), ("on".to_owned(), "on".to_owned()));
    }
    play(TEST, &[("receives", receives)]);
}

#[test]
fn a_post_without_memory_for_its_copy_reaches_no_member() {
    const TEST: &str = "memory::a_post_without_memory_for_its_copy_reaches_no_member";
    fn posts() {
        let name = Name::new();
        let (sender, receiver) = (open(&name), open(&name));
        let long = "l".repeat(LEN);
        for post in [
            |sender: &BroadcastChannel, long: &String| sender.post_bytes(long.as_bytes()),
            |sender: &BroadcastChannel, long: &String| sender.post_text(long),
        ] {
            let error = without_memory(|| post(&sender, &long)).expect_err("no memory");
            let BroadcastError::Io(error) = error else { panic!("{error}") };
            assert_eq!(error.source.kind(), ErrorKind::OutOfMemory);
        }
        let error = without_memory(|| sender.post_message(&long)).expect_err("no memory");
        assert!(matches!(error, BroadcastError::Serialize(_)), "{error}");
        nothing(&receiver);
        sender.post_message(&long).expect("there is memory now");
        assert!(receive(&receiver).expect("a message").deserialize::<String>().is_ok());
        sender.post_text("on").expect("room");
        assert_eq!(text(&receiver), "on");
    }
    play(TEST, &[("posts", posts)]);
}
