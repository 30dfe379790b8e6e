//! What a child is offered as its port by a parent that does not keep the rules: it takes what is a
//! port, and refuses everything else by a clear error. It never crashes, and leaks nothing.

mod common;
#[path = "attach/offer.rs"]
mod offer;

use common::census::Census;
use common::messages::chain;
use common::role::play;
use common::watchdog::{progress, watch};
use common::{proc, region};
use messageport::{MessagePort, PortSet, RecvError, parent_port};
use nix::fcntl::SealFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use offer::{
    CAPACITY, CAPACITY_WORD, INCOMING, LIMIT, LIMIT_WORD, OUTGOING, Offer, SCHEMA_WORD, SEALS,
    VARIABLE, VERSION, VERSION_AND_SIDE, made, memfd, sockets, verdict, verdict_on,
};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// The child's side: says what it makes of what it inherits, and what is open afterwards.
fn victim() {
    let before = Census::take();
    let answer = parent_port();
    let text = match &answer {
        Ok(port) => {
            assert!(port.try_recv().expect("an open port").is_none());
            port.post_text("a first post").expect("room");
            format!("accepted, schema {}", port.schema())
        }
        Err(error) => chain(error),
    };
    drop(answer);
    // What was inherited is closed as well, once it was known to be for this process. What came on
    // it is closed by a thread of its own, a moment later.
    let closed = usize::from(!text.contains("not started as a worker"));
    Census { descriptors: before.descriptors - closed, ..before }.wait_for(&text);
    println!("\nverdict: {text}, {closed} closed");
}

/// Makes an offer, and expects these words in the verdict.
#[track_caller]
fn expect(test: &str, what: &str, offer: &Offer, words: &str) {
    let (_ours, childs) = offer.sent();
    let verdict = verdict(test, &childs);
    assert!(verdict.contains(words), "{what}: expected {words:?} in {verdict:?}");
    assert!(verdict.ends_with("1 closed"), "{what}: {verdict}");
    progress();
}

#[test]
fn f38_an_honest_offer_is_a_port() {
    const TEST: &str = "f38_an_honest_offer_is_a_port";
    fn parent() {
        expect(TEST, "honest", &Offer::honest(), "accepted, schema 7");
        // Where an end stands in the stream may be anything, and so may its side.
        let far = u64::MAX - 15;
        let mut moved = Offer::honest().with(2, u64::MAX);
        let memory = File::from(moved.descriptors[0].try_clone().expect("a descriptor"));
        for lane in 0..2 {
            for place in [region::tail(lane), region::head(lane)] {
                memory.write_all_at(&far.to_le_bytes(), place as u64).expect("room");
            }
        }
        for word in [OUTGOING, OUTGOING + 1, INCOMING, INCOMING + 1] {
            moved.words[word] = far;
        }
        expect(TEST, "moved", &moved, "accepted");
        expect(TEST, "other side", &Offer::honest().with(VERSION_AND_SIDE, VERSION), "accepted");
    }
    play(TEST, &[("parent", parent), ("victim", victim)]);
}

#[test]
fn f38_a_capsule_that_is_none_is_refused() {
    const TEST: &str = "f38_a_capsule_that_is_none_is_refused";
    fn parent() {
        let cut = |len| Offer { len, ..Offer::honest() };
        let honest = Offer::honest;
        let cases = [
            ("nothing", cut(0), "no capsule"),
            ("a byte", cut(1), "no capsule"),
            ("a byte less", cut(279), "no capsule"),
            ("a byte more", cut(281), "no capsule"),
            ("much more", cut(60_000), "cut off"),
            ("another magic", honest().with(0, 1), "no capsule"),
            ("zeros", Offer { words: vec![0; 35], ..honest() }, "no capsule"),
            ("ones", Offer { words: vec![u64::MAX; 35], ..honest() }, "no capsule"),
            ("another version", honest().with(VERSION_AND_SIDE, VERSION + 1), "layout version"),
            ("version 0", honest().with(VERSION_AND_SIDE, 0), "layout version"),
            ("a third side", honest().with(VERSION_AND_SIDE, VERSION | 2 << 32), "no capsule"),
        ];
        for (what, offer, words) in &cases {
            expect(TEST, what, offer, words);
        }
    }
    play(TEST, &[("parent", parent), ("victim", victim)]);
}

#[test]
fn f38_sizes_and_schemas_that_differ_are_refused_by_name() {
    const TEST: &str = "f38_sizes_and_schemas_that_differ_are_refused_by_name";
    fn parent() {
        let honest = Offer::honest;
        let cases = [
            ("no capacity", honest().with(CAPACITY_WORD, 0), "capacity"),
            ("an odd capacity", honest().with(CAPACITY_WORD, 5000), "capacity"),
            ("a small capacity", honest().with(CAPACITY_WORD, 2048), "capacity"),
            ("another capacity", honest().with(CAPACITY_WORD, 8192), "capacity"),
            ("capacity over limit", honest().with(CAPACITY_WORD, 2 * LIMIT), "limit"),
            ("a huge capacity", honest().with(CAPACITY_WORD, 1 << 63), "limit"),
            ("no limit", honest().with(LIMIT_WORD, 0), "limit"),
            ("an odd limit", honest().with(LIMIT_WORD, LIMIT + 16), "limit"),
            ("another limit", honest().with(LIMIT_WORD, 2 * LIMIT), "region length"),
            ("a huge limit", honest().with(LIMIT_WORD, 1 << 63), "limit"),
            ("another schema", honest().with(SCHEMA_WORD, 8), "schema"),
        ];
        for (what, offer, words) in &cases {
            expect(TEST, what, offer, words);
        }
    }
    play(TEST, &[("parent", parent), ("victim", victim)]);
}

#[test]
fn f28_cursors_that_cannot_be_are_refused() {
    const TEST: &str = "f28_cursors_that_cannot_be_are_refused";
    fn parent() {
        let honest = Offer::honest;
        let cases = [
            ("a crooked position", honest().with(OUTGOING, 8), "a multiple of"),
            ("a crooked entry", honest().with(OUTGOING + 1, 1), "a multiple of"),
            ("a segment too many", honest().with(OUTGOING + 2, 5), "segment"),
            ("a segment far away", honest().with(INCOMING + 2, u64::MAX), "segment"),
            ("a crooked reader", honest().with(INCOMING, 4), "a multiple of"),
            ("a tail far ahead of the head", honest().with(OUTGOING, LIMIT + 16), "head"),
            ("a tail behind the head", honest().with(OUTGOING, 16u64.wrapping_neg()), "head"),
        ];
        for (what, offer, words) in &cases {
            expect(TEST, what, offer, words);
        }
    }
    play(TEST, &[("parent", parent), ("victim", victim)]);
}

#[test]
fn f38_a_region_of_another_kind_is_refused_by_name() {
    const TEST: &str = "f38_a_region_of_another_kind_is_refused_by_name";
    fn parent() {
        let made = |change: fn(&mut [u8])| {
            Offer::honest().holding(0, made(change, CAPACITY, LIMIT, SEALS))
        };
        let cases = [
            ("no header", made(|header| header.fill(0)), "magic"),
            ("noise", made(|header| header.fill(0x5a)), "magic"),
            ("another magic", made(|header| header[0] ^= 1), "magic"),
            ("another version", made(|header| header[8] += 1), "layout version"),
            ("a feature", made(|header| header[0xc] = 1), "features"),
            ("another format", made(|header| header[0x20] ^= 4), "payload format"),
            ("another schema", made(|header| header[0x28] ^= 1), "schema"),
            ("another capacity", made(|header| header[0x31] ^= 0x30), "capacity"),
            ("another limit", made(|header| header[0x3a] ^= 3), "limit"),
        ];
        for (what, offer, words) in &cases {
            expect(TEST, what, offer, words);
        }
    }
    play(TEST, &[("parent", parent), ("victim", victim)]);
}

#[test]
fn f30_memory_that_is_not_sealed_plain_and_of_the_right_length_is_refused() {
    const TEST: &str = "f30_memory_that_is_not_sealed_plain_and_of_the_right_length_is_refused";
    fn parent() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.as_file().set_len(0x10000 + 2 * LIMIT).expect("a length");
        let read_only = made(|_| {}, CAPACITY, LIMIT, SEALS);
        let path = proc(format_args!("self/fd/{}", read_only.as_raw_fd()));
        let read_only = File::open(path).expect("the same memory, to read");
        let sealed = |seals| made(|_| {}, CAPACITY, LIMIT, seals);
        let (shrink, grow) = (SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW);
        let open = |path: &str| OpenOptions::new().read(true).write(true).open(path).expect(path);
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let cases: Vec<(&str, OwnedFd, &str)> = vec![
            ("a file", open(file.path().to_str().expect("a path")).into(), "seals"),
            ("a device", open("/dev/zero").into(), "seals"),
            ("a pipe", reader.into(), "seals"),
            ("a socket", sockets(SockType::Stream).0, "seals"),
            ("an empty memfd", memfd(), "seals"),
            ("no seals", sealed(SealFlag::empty()), "seals"),
            ("one seal", sealed(shrink), "seals"),
            ("two seals", sealed(shrink | grow), "seals"),
            ("memory that cannot be written", sealed(SEALS | SealFlag::F_SEAL_WRITE), "mmap"),
            ("memory to read", read_only.into(), "mmap"),
            ("a page less", made(|_| {}, CAPACITY, LIMIT - 2048, SEALS), "region length"),
            ("a page more", made(|_| {}, CAPACITY, LIMIT + 2048, SEALS), "region length"),
        ];
        for (what, descriptor, words) in cases {
            expect(TEST, what, &Offer::honest().holding(0, descriptor), words);
        }
    }
    play(TEST, &[("parent", parent), ("victim", victim)]);
}

#[test]
fn f38_descriptors_of_another_kind_or_number_are_refused() {
    const TEST: &str = "f38_descriptors_of_another_kind_or_number_are_refused";
    fn parent() {
        let with_count = |count: usize| {
            let mut offer = Offer::honest();
            while offer.descriptors.len() < count {
                offer.descriptors.push(offer.kept[0].try_clone().expect("a descriptor"));
            }
            offer.descriptors.truncate(count);
            offer
        };
        for count in [0, 1, 2, 4, 100, 253] {
            expect(TEST, &format!("{count} descriptors"), &with_count(count), "another count");
        }
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a port of another kind");
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let cases: Vec<(&str, usize, OwnedFd)> = vec![
            ("a pipe for a doorbell", 1, reader.into()),
            ("a TCP socket for a doorbell", 1, tcp.into()),
            ("packets for a doorbell", 1, sockets(SockType::SeqPacket).0),
            ("datagrams for a doorbell", 1, sockets(SockType::Datagram).0),
            ("a stream for attachments", 2, sockets(SockType::Stream).0),
            ("memory for attachments", 2, memfd()),
        ];
        for (what, index, descriptor) in cases {
            expect(TEST, what, &Offer::honest().holding(index, descriptor), "another type");
        }
        let mut turned = Offer::honest();
        turned.descriptors.reverse();
        expect(TEST, "the other way round", &turned, "no port");
    }
    play(TEST, &[("parent", parent), ("victim", victim)]);
}

#[test]
fn what_is_inherited_is_a_packet_socket_with_a_packet_or_refused() {
    const TEST: &str = "what_is_inherited_is_a_packet_socket_with_a_packet_or_refused";
    fn parent() {
        let file: OwnedFd = tempfile::tempfile().expect("a temporary file").into();
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let (stream, _kept) = sockets(SockType::Stream);
        for (what, descriptor) in [("file", file), ("pipe", reader.into()), ("stream", stream)] {
            let verdict = verdict(TEST, &descriptor);
            assert!(verdict.contains("no packet socket"), "{what}: {verdict}");
            assert!(verdict.ends_with("1 closed"), "{what}: {verdict}");
        }
        let (_ours, childs) = sockets(SockType::SeqPacket);
        let verdict_on_nothing = verdict(TEST, &childs);
        assert!(verdict_on_nothing.contains("recvmsg"), "{verdict_on_nothing}");
        let (ours, childs) = sockets(SockType::SeqPacket);
        drop(ours);
        let verdict_on_the_end = verdict(TEST, &childs);
        assert!(verdict_on_the_end.contains("no capsule"), "{verdict_on_the_end}");
    }
    play(TEST, &[("parent", parent), ("victim", victim)]);
}

#[test]
fn f54_what_the_kernel_adds_to_a_packet_does_no_harm() {
    const TEST: &str = "f54_what_the_kernel_adds_to_a_packet_does_no_harm";
    fn parent() {
        let (ours, childs) = sockets(SockType::SeqPacket);
        let offer = Offer::honest();
        for socket in [&childs, &offer.descriptors[1], &offer.descriptors[2]] {
            setsockopt(socket, sockopt::PassCred, &true).expect("an option");
            pass_pidfd(socket);
        }
        offer.send(&ours);
        let verdict = verdict(TEST, &childs);
        assert!(verdict.contains("accepted") && verdict.ends_with("1 closed"), "{verdict}");
    }
    play(TEST, &[("parent", parent), ("victim", victim)]);
}

/// Has the kernel add a descriptor of the sender's process to each packet, where it knows how.
#[allow(unsafe_code)]
fn pass_pidfd(socket: &OwnedFd) {
    const SO_PASSPIDFD: libc::c_int = 76;
    let on: libc::c_int = 1;
    let (level, len) = (libc::SOL_SOCKET, size_of_val(&on) as libc::socklen_t);
    let value = (&raw const on).cast();
    // SAFETY: the value is valid for the call, with its length.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, SO_PASSPIDFD, value, len) };
}

#[test]
fn a_doorbell_without_a_peer_is_the_end_of_the_port() {
    let _watch = watch("a_doorbell_without_a_peer_is_the_end_of_the_port");
    let alone = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    let offer = Offer::honest().holding(1, alone.expect("a socket"));
    let (_ours, theirs) = offer.sent();
    let port = MessagePort::from_fd(theirs).expect("what can be told without a call to it");
    let mut set = PortSet::new().expect("a set");
    set.add(port).expect("a descriptor");
    let said = set.try_recv().expect("a set that works").expect("the kernel says that it hung up");
    assert!(matches!(said.1, Err(RecvError::Closed { .. })), "{:?}", said.1);
    assert!(set.try_recv().expect("a set that works").is_none(), "it says so once");
}

#[test]
fn a_variable_that_names_nothing_means_no_worker() {
    const TEST: &str = "a_variable_that_names_nothing_means_no_worker";
    fn parent() {
        let (_ours, childs) = Offer::honest().sent();
        let number = childs.as_raw_fd();
        let values = [
            String::new(),
            "x".into(),
            number.to_string(),
            format!("{number}:"),
            format!("{number}:1"),
            format!("{number}:x"),
            format!(":{number}"),
            "-1:1".into(),
            "0:1".into(),
            "2:1".into(),
            "19999:1".into(),
            "99999999999999999999:1".into(),
        ];
        for value in values {
            let verdict = verdict_on(TEST, Some(&childs), &value);
            assert!(verdict.contains("not started as a worker"), "{value:?}: {verdict}");
            assert!(verdict.contains(VARIABLE), "{verdict}");
            assert!(verdict.ends_with("0 closed"), "{value:?}: {verdict}");
        }
    }
    play(TEST, &[("parent", parent), ("victim", victim)]);
}
