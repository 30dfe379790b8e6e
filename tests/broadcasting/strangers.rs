//! What a process of the same user can do at a member's socket without being a member.

use crate::common::census::Census;
use crate::common::limits::{allow_all_descriptors, allow_more_descriptors};
use crate::common::members::{
    FORMAT, HELLO, VERSION, channel_behind, connect_to, member_hello, numbers, port_behind, post,
    words,
};
use crate::common::role::play;
use crate::common::{proc, wait_until};
use crate::{Name, nothing, text, wait_for_others};
use messageport::{BroadcastChannel, BroadcastError, MessageChannel, MessagePort};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt, socket,
    sockopt,
};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::iter;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// Connects to the only member.
fn stranger(name: &Name) -> OwnedFd {
    connect_to(&name.directory().join(name.files().pop().expect("a member")))
}

/// A message as a member posts it: with its time behind it, here the beginning of all times.
fn stamped(text: &str) -> String {
    format!("{text}{}", "\0".repeat(8))
}

#[test]
fn strangers_are_sent_away_and_cost_nothing() {
    const TEST: &str = "strangers::strangers_are_sent_away_and_cost_nothing";
    fn come() {
        let name = Name::new();
        let member = name.open();
        let before = Census::take();
        let (all, ports, null) = {
            let null = fs::File::open("/dev/null").expect("there");
            // Their other ends live on, so that none of them is gone by itself.
            let (packet, descriptors, old_port) = port_behind(member_hello(1, 0));
            let old = stranger(&name);
            post(&old, &packet, &numbers(&descriptors));
            let (packet, descriptors, schema_port) = port_behind(member_hello(VERSION, 9));
            let other_schema = stranger(&name);
            post(&other_schema, &packet, &numbers(&descriptors));
            let (mut packet, descriptors, port) = port_behind(member_hello(VERSION, 0));
            let too_long = stranger(&name);
            packet.push(0);
            post(&too_long, &packet, &numbers(&descriptors));
            packet.pop();
            let too_few = stranger(&name);
            post(&too_few, &packet, &numbers(&descriptors)[..2]);
            let too_many = stranger(&name);
            post(&too_many, &packet, &[numbers(&descriptors), vec![null.as_raw_fd()]].concat());
            let none = stranger(&name);
            post(&none, &packet, &[]);
            let no_port = stranger(&name);
            post(&no_port, &packet, &[null.as_raw_fd(); 3]);
            let hello_alone = stranger(&name);
            post(&hello_alone, &member_hello(VERSION, 0)[..32], &[]);
            let member_hello_alone = stranger(&name);
            post(&member_hello_alone, &member_hello(VERSION, 0), &[]);
            let rude = stranger(&name);
            post(&rude, b"GET / HTTP/1.1", &[]);
            let laden = stranger(&name);
            post(&laden, b"x", &vec![null.as_raw_fd(); 200]);
            let empty = stranger(&name);
            post(&empty, b"", &[]);
            drop(stranger(&name));
            let sockets = [
                old,
                other_schema,
                too_long,
                too_few,
                too_many,
                none,
                no_port,
                hello_alone,
                member_hello_alone,
                rude,
                laden,
                empty,
            ];
            (sockets, [old_port, schema_port, port], null)
        };
        nothing(&member);
        assert_eq!(member.others().expect("an open member"), 0);
        for (index, socket) in all.iter().enumerate() {
            // It was closed by the member.
            let answer = recv(socket.as_raw_fd(), &mut [0; 8], MsgFlags::MSG_DONTWAIT);
            let is_gone = matches!(answer, Ok(0) | Err(nix::errno::Errno::ECONNRESET));
            assert!(is_gone, "{index}: {answer:?}");
        }
        drop((all, ports, null));
        before.wait_for("at the end");
        let other = name.open();
        other.post_text("a member").expect("room");
        assert_eq!(text(&member), "a member");
        drop((member, other));
    }
    play(TEST, &[("come", come)]);
}

/// A descriptor that the kernel refuses to look at is the client's doing, and no lack of ours: the
/// member behind it is taken in by the same post.
#[test]
fn a_client_with_a_useless_descriptor_delays_no_other() {
    let name = Name::new();
    let member = name.open();
    let (packet, mut descriptors, _port) = port_behind(member_hello(VERSION, 0));
    let open = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/dev/null");
    descriptors[0] = open.expect("it is there").into();
    let client = stranger(&name);
    post(&client, &packet, &numbers(&descriptors));
    let other = name.open();
    member.post_text("to all").expect("no member misses it");
    assert_eq!(text(&other), "to all");
    assert_eq!(member.others().expect("an open member"), 1);
}

/// What a client's channel may hold is held here, if the client does not receive.
#[test]
fn a_client_whose_channel_would_hold_too_much_is_refused() {
    let name = Name::new();
    let member = name.open();
    let large = MessageChannel::builder().limit(128 << 20).build().expect("a channel");
    let (packet, descriptors, _port) = channel_behind(member_hello(VERSION, 0), large);
    post(&stranger(&name), &packet, &numbers(&descriptors));
    assert_eq!(member.others().expect("an open member"), 0);
}

/// The first member has the limit that it asked for, and has not made a channel yet.
#[test]
fn members_that_ask_for_a_higher_limit_meet() {
    let name = Name::new();
    let open = || {
        let builder = BroadcastChannel::builder().limit(128 << 20);
        BroadcastChannel::open_with(&name.text, builder).expect("a membership")
    };
    let (first, second) = (open(), open());
    assert_eq!(first.others().expect("an open member"), 1);
    second.post_text("well met").expect("room");
    assert_eq!(text(&first), "well met");
    let excessive = BroadcastChannel::builder().limit(usize::MAX);
    let refused = BroadcastChannel::open_with("test-excessive", excessive).map(drop);
    assert!(matches!(refused, Err(BroadcastError::Channel(_))), "{refused:?}");
}

/// A member has two channels to another one at the most.
#[test]
fn no_number_has_a_third_port() {
    let name = Name::new();
    let member = name.open();
    let mut ports = Vec::new();
    for _ in 0..3 {
        let (packet, descriptors, port) = port_behind(member_hello(VERSION, 0));
        post(&stranger(&name), &packet, &numbers(&descriptors));
        drop(descriptors);
        ports.push(port);
        nothing(&member);
    }
    let is_closed: Vec<_> = ports.iter().map(MessagePort::is_closed).collect();
    assert_eq!(is_closed, [false, false, true]);
}

/// A client that connects and says nothing is kept aside for a while, and delays no other client.
#[test]
fn silent_clients_delay_no_other_and_make_room() {
    let name = Name::new();
    let member = name.open();
    let first = stranger(&name);
    nothing(&member);
    let silent: Vec<_> = (0..300).map(|_| stranger(&name)).collect();
    nothing(&member);
    assert!(format!("{member:?}").contains("pending: 128"), "{member:?}");
    // The oldest one had to go, and is told when it speaks.
    let sent = send(first.as_raw_fd(), b"late", MsgFlags::MSG_NOSIGNAL);
    assert_eq!(sent, Err(nix::errno::Errno::EPIPE));
    let other = name.open();
    other.post_text("past the silent clients").expect("room");
    assert_eq!(text(&member), "past the silent clients");
    // A client may take its time.
    let (packet, descriptors, port) = port_behind(member_hello(VERSION, 0));
    let last = silent.last().expect("one of them");
    post(last, &packet, &numbers(&descriptors));
    port.post_text(&stamped("after a while")).expect("room");
    assert_eq!(text(&member), "after a while");
    wait_for_others(&member, 2);
    drop(silent);
    wait_until("the clients have gone", || {
        nothing(&member);
        format!("{member:?}").contains("pending: 0")
    });
}

/// While a close of what one has left takes long, a member receives little more of others.
#[test]
fn what_clients_leave_at_a_member_is_bounded() {
    const TEST: &str = "strangers::what_clients_leave_at_a_member_is_bounded";
    fn victim() {
        let name = Name::new();
        let member = name.open();
        let (near, far) = lingering();
        post(&stranger(&name), b"no hello", &[near.as_raw_fd()]);
        drop(near);
        nothing(&member);
        let null = File::open("/dev/null").expect("it is there");
        let before = descriptors();
        for _ in 0..20 {
            post(&stranger(&name), b"no hello", &[null.as_raw_fd(); 100]);
            nothing(&member);
        }
        assert!(descriptors() <= before + 400, "{} more", descriptors() - before);
        drop(far);
        let other = name.open();
        wait_for_others(&member, 1);
        other.post_text("a member").expect("room");
        assert_eq!(text(&member), "a member");
    }
    play(TEST, &[("victim", victim)]);
}

/// A client that can be neither heard nor sent away, as the member is out of descriptors, stays;
/// the next ones make room again.
#[test]
fn silent_clients_are_as_few_after_a_lack_of_descriptors() {
    const TEST: &str = "strangers::silent_clients_are_as_few_after_a_lack_of_descriptors";
    fn victim() {
        let name = Name::new();
        let member = name.open();
        let silent: Vec<_> = (0..130).map(|_| stranger(&name)).collect();
        nothing(&member);
        let more = [stranger(&name), stranger(&name)];
        // For the sockets of these, and too few for a port that a client may have brought.
        allow_more_descriptors(2);
        let error = member.recv_timeout(Duration::from_millis(1)).map(drop);
        allow_all_descriptors();
        assert!(matches!(error, Err(BroadcastError::Io(_))), "{error:?}");
        let last: Vec<_> = (0..20).map(|_| stranger(&name)).collect();
        let other = name.open();
        other.post_text("behind them").expect("room");
        assert_eq!(text(&member), "behind them");
        assert!(format!("{member:?}").contains("pending: 128"), "{member:?}");
        drop((silent, more, last, other));
    }
    play(TEST, &[("victim", victim)]);
}

/// While the close of what clients have left takes long, they do not wake the member any more: a
/// thread that waits for messages would be woken again at once.
#[test]
fn clients_that_were_sent_away_do_not_wake_a_member() {
    const TEST: &str = "strangers::clients_that_were_sent_away_do_not_wake_a_member";
    fn victim() {
        let name = Name::new();
        let member = name.open();
        let mut fars = Vec::new();
        let mut leave = |client: &OwnedFd, text: &[u8]| {
            let (near, far) = lingering();
            post(client, text, &[]);
            post(client, b"and more", &[near.as_raw_fd()]);
            fars.push(far);
        };
        leave(&stranger(&name), b"no hello");
        nothing(&member);
        let is_ready = || {
            let mut asked = [PollFd::new(member.as_fd(), PollFlags::POLLIN)];
            poll(&mut asked, PollTimeout::ZERO).expect("a poll") > 0
        };
        assert!(!is_ready());
        // One that makes room for others.
        let silent = stranger(&name);
        nothing(&member);
        let others: Vec<_> = (0..127).map(|_| stranger(&name)).collect();
        nothing(&member);
        leave(&silent, b"no hello");
        let last = stranger(&name);
        nothing(&member);
        assert!(!is_ready());
        drop((silent, others, last));
    }
    play(TEST, &[("victim", victim)]);
}

fn descriptors() -> usize {
    fs::read_dir(proc("self/fd")).expect("a process has descriptors").count()
}

/// A socket whose close takes 40 s, or until the other one is closed.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of this machine");
    let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("a listener");
    let (far, _) = listener.accept().expect("a connection");
    let linger = libc::linger { l_onoff: 1, l_linger: 40 };
    setsockopt(&near, sockopt::Linger, &linger).expect("an option");
    near.set_nonblocking(true).expect("a flag");
    while near.write(&[0; 4096]).is_ok() {}
    (near, far)
}

/// A client with the number of a member that is there is posted to in that one's place, and no
/// further: nothing comes twice, and its end leaves the member to be posted to.
#[test]
fn one_that_breaks_its_channel_loses_that_one_alone() {
    let name = Name::new();
    let member = name.open();
    let (packet, descriptors, port) = port_behind(member_hello(VERSION, 0));
    post(&stranger(&name), &packet, &numbers(&descriptors));
    let other = name.open();
    port.post_text(&stamped("well")).expect("room");
    assert_eq!(text(&member), "well");
    assert_eq!(member.others().expect("an open member"), 2);
    // A length that no record can have, as if it were committed.
    let region = crate::common::region::Region::of(&port);
    let tail = region.word(crate::common::region::tail(0));
    tail.store(
        tail.load(std::sync::atomic::Ordering::SeqCst) + 24,
        std::sync::atomic::Ordering::SeqCst,
    );
    other.post_text("good").expect("room");
    assert_eq!(text(&member), "good");
    nothing(&member);
    drop(port);
    drop(descriptors);
    wait_for_others(&member, 1);
    member.post_text("back").expect("room");
    assert_eq!(text(&other), "back");
}

/// Other files in the directory stay, and disturb no member; but a socket with a member's name
/// counts as a member's.
#[test]
fn other_files_in_the_directory_are_left_alone() {
    let name = Name::new();
    let member = name.open();
    let place = |file: &str| name.directory().join(file);
    fs::write(place("notes"), "precious").expect("a file");
    fs::create_dir(place("more")).expect("a directory");
    let stream = UnixListener::bind(place(&format!("{:032x}-2-1-0", 7))).expect("a socket");
    fs::write(place(&format!("{:032x}-2-1-0", 8)), "").expect("a file");
    let other = name.open();
    other.post_text("a member").expect("room");
    assert_eq!(text(&member), "a member");
    assert_eq!(other.others().expect("an open member"), 1);
    assert_eq!(fs::read(place("notes")).expect("it is there"), b"precious");
    assert!(place("more").exists() && place(&format!("{:032x}-2-1-0", 7)).exists());
    assert!(!place(&format!("{:032x}-2-1-0", 8)).exists(), "no listener is there");
    drop((member, other, stream));
    fs::remove_dir_all(name.directory()).expect("ours");
}

/// A file on the way to its name is removed by a joiner once its owner has died and some seconds
/// have gone by, and not before.
#[test]
fn a_name_on_its_way_is_swept_when_it_is_old_and_dead() {
    let name = Name::new();
    let member = name.open();
    let place = |number: u32| name.directory().join(format!("{number:032x}-2-1-0.new"));
    let alive = UnixListener::bind(place(1)).expect("a socket");
    let bound = |number| {
        let kind = SockType::SeqPacket;
        let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).expect("one");
        let address = UnixAddr::new(&place(number)).expect("a short path");
        nix::sys::socket::bind(socket.as_raw_fd(), &address).expect("it is free");
    };
    bound(2);
    name.age();
    bound(3);
    drop(name.open());
    assert!(place(1).exists(), "a listener is there");
    assert!(!place(2).exists(), "it is old, and its owner has died");
    assert!(place(3).exists(), "its owner may be about to listen");
    name.age();
    drop(name.open());
    assert!(!place(3).exists(), "it is old now");
    drop((member, alive));
    fs::remove_dir_all(name.directory()).expect("ours");
}

/// No member sends ports, buffers or descriptors; who does is no member, and none of them enters.
#[test]
fn what_comes_with_a_message_is_refused_and_ends_its_channel() {
    let name = Name::new();
    let member = name.open();
    let client = stranger(&name);
    let (packet, descriptors, port) = port_behind(member_hello(VERSION, 0));
    post(&client, &packet, &numbers(&descriptors));
    drop(descriptors);
    let (sent, mut kept) = UnixStream::pair().expect("a pair");
    kept.set_nonblocking(true).expect("a flag");
    port.post_text_with(&stamped("take this"), [sent.into()]).expect("room");
    nothing(&member);
    wait_until("the channel has ended", || port.is_closed());
    wait_until("what came is closed", || matches!(kept.read(&mut [0]), Ok(0)));
    let other = name.open();
    other.post_text("a member").expect("room");
    assert_eq!(text(&member), "a member");
}

/// Each message ends with its stamp. What has none is of no member, whose channel ends; a stamp
/// that is a lie loses and delays nothing of others.
#[test]
fn a_message_without_a_stamp_ends_its_channel_and_a_false_stamp_delays_no_other() {
    let name = Name::new();
    let member = name.open();
    let other = name.open();
    let join = |number: u64| {
        let path = name.directory().join(name.files().iter().min().expect("a member"));
        let kind = SockType::SeqPacket;
        let client = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None);
        let client = client.expect("a socket");
        connect(client.as_raw_fd(), &UnixAddr::new(&path).expect("a path")).expect("a member");
        let words = words(&[HELLO, VERSION, FORMAT, 0, number, 2]);
        let (packet, descriptors, port) = port_behind(words);
        post(&client, &packet, &numbers(&descriptors));
        port
    };
    let posted_at = |text: &str, stamp: u64| [text.as_bytes(), &stamp.to_le_bytes()].concat();
    for (number, bytes) in [(1, &b""[..]), (2, b"1234567")] {
        let port = join(number);
        port.post_bytes(bytes).expect("room");
        nothing(&member);
        assert!(port.is_closed(), "after {} bytes", bytes.len());
    }
    let (late, early) = (join(3), join(4));
    for number in 0..300u64 {
        late.post_bytes(&posted_at("late", u64::MAX - number)).expect("room");
        early.post_bytes(&posted_at("early", number)).expect("room");
    }
    other.post_text("honest").expect("room");
    let mut seen = Vec::new();
    while let Some(message) = member.try_recv().expect("an open member") {
        seen.push(String::from_utf8(message.bytes().to_vec()).expect("a text"));
    }
    let count = |text: &str| seen.iter().filter(|seen| *seen == text).count();
    assert_eq!((count("late"), count("early"), count("honest")), (300, 300, 1));
    let place = seen.iter().position(|seen| seen == "honest").expect("it came");
    assert!(place <= 64 + 3, "a share and no more comes before it: {place}");
    // What lies about the time goes on.
    late.post_bytes(&posted_at("late", 0)).expect("room");
    assert_eq!(member.recv().expect("a message").bytes(), b"late");
    // Two that take turns with their lies.
    let liars = [join(5), join(6)];
    for number in 0..1000u64 {
        let port = &liars[number as usize % 2];
        port.post_bytes(&posted_at("lie", number)).expect("room");
    }
    // Those of this process keep their order, also where they are served before their time.
    let newcomer = name.open();
    newcomer.post_text("honest").expect("room");
    other.post_text("more of that").expect("room");
    let messages = iter::from_fn(|| member.try_recv().expect("an open member"));
    let seen: Vec<_> = messages.map(|message| message.bytes().to_vec()).collect();
    let place = |text: &str| seen.iter().position(|seen| seen == text.as_bytes());
    let [first, second] = ["honest", "more of that"].map(|text| place(text).expect("it came"));
    assert!(first <= 64 + 6, "a share and no more comes before it: {first}");
    assert!(first < second, "{first}, {second}");
    // Long messages make up a share sooner: each 4 KiB counts as one more.
    let long = "long".repeat(64 << 10);
    for number in 0..8u64 {
        late.post_bytes(&posted_at(&long, number)).expect("room");
    }
    early.post_bytes(&posted_at("short", u64::MAX)).expect("room");
    let messages = iter::from_fn(|| member.try_recv().expect("an open member"));
    let seen: Vec<_> = messages.map(|message| message.bytes().len()).collect();
    let place = seen.iter().position(|len| *len == 5).expect("it came");
    assert!(seen.len() == 9 && place <= 2, "a share of long messages is one: {seen:?}");
}
