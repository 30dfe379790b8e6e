use super::*;
use crate::os::eventfd::Bell;
use crate::os::has_proc;
use crate::os::poll::is_hung_up;
use crate::os::process::confine::tests::refusing;
use nix::sys::socket::socket;

fn streams() -> (OwnedFd, OwnedFd) {
    stream_pair().expect("sockets")
}

fn packets() -> (OwnedFd, OwnedFd) {
    packet_pair().expect("sockets")
}

fn post(from: &OwnedFd, bytes: &[u8], descriptors: usize) {
    let bell = Bell::new().expect("an eventfd");
    send_packet(from.as_fd(), bytes, &vec![bell.as_fd(); descriptors]).expect("room");
}

/// What was received, in words.
fn told(received: Result<Received, SystemError>) -> String {
    match received {
        Ok(Received::Packet(len, descriptors)) => format!("{len}+{}", descriptors.len()),
        Ok(Received::CutOff) => "cut off".into(),
        Ok(Received::NoRoom) => "no room".into(),
        Ok(Received::Nothing) => "nothing".into(),
        Err(error) => format!("{} {}", error.call, error.source.raw_os_error().unwrap_or(0)),
    }
}

/// A next packet of at most eight bytes.
fn next(socket: &OwnedFd) -> String {
    told(receive(socket.as_fd(), &mut [0; 8], 2))
}

// Doorbells.

#[test]
fn a_ring_says_whether_the_other_end_is_told() {
    let refused = |errno| vec![Err(errno)];
    for (answers, expected) in [
        (vec![Ok(1)], Rung::Rings),
        (refused(Errno::EAGAIN), Rung::Rings),
        (vec![Err(Errno::EINTR), Err(Errno::EINTR), Ok(1)], Rung::Rings),
        (vec![Err(Errno::EINTR), Err(Errno::EPIPE)], Rung::HungUp),
        (refused(Errno::ECONNRESET), Rung::HungUp),
        (refused(Errno::ENOTCONN), Rung::HungUp),
        (refused(Errno::ENOBUFS), Rung::Failed),
        (refused(Errno::ENOMEM), Rung::Failed),
    ] {
        let mut left = answers.iter();
        let rung = ring_by(|| *left.next().expect("no call more"));
        assert_eq!((rung, left.len()), (expected, 0), "{answers:?}");
    }
}

#[test]
fn a_full_doorbell_rings_without_a_wait() {
    let (ours, theirs) = streams();
    assert_eq!(drain(theirs.as_fd(), DrainTo::Silence), Drained::Silent);
    while send(ours.as_raw_fd(), &[1; 4096], MsgFlags::MSG_DONTWAIT).is_ok() {}
    while send(ours.as_raw_fd(), &[1], MsgFlags::MSG_DONTWAIT).is_ok() {}
    assert_eq!(ring(ours.as_fd()), Rung::Rings);
    assert_eq!(drain(theirs.as_fd(), DrainTo::TheEnd), Drained::Rang);
    assert_eq!(drain(theirs.as_fd(), DrainTo::Silence), Drained::Silent);
    drop(theirs);
    assert_eq!(ring(ours.as_fd()), Rung::HungUp);
}

#[test]
fn a_drain_goes_on_as_far_as_it_has_to() {
    const FULL: nix::Result<usize> = Ok(512);
    use DrainTo::{Silence, TheEnd};
    use Drained::{HungUp, Rang, Silent};
    for (to, answers, expected) in [
        (Silence, vec![Ok(1)], Rang),
        (Silence, vec![Ok(511)], Rang),
        (Silence, vec![FULL, FULL, Ok(3)], Rang),
        (Silence, vec![FULL, Err(Errno::EAGAIN)], Rang),
        (Silence, vec![FULL, Ok(0)], HungUp),
        (Silence, vec![Err(Errno::EAGAIN)], Silent),
        (Silence, vec![Ok(0)], HungUp),
        (Silence, vec![Err(Errno::EINTR), Err(Errno::ENOMEM)], Silent),
        (Silence, vec![Err(Errno::ENOBUFS)], Silent),
        (Silence, vec![Err(Errno::ECONNRESET), Ok(0)], HungUp),
        (Silence, vec![Err(Errno::ENOTCONN)], HungUp),
        (TheEnd, vec![Ok(1), FULL, Ok(1), Err(Errno::EAGAIN)], Rang),
        (TheEnd, vec![Ok(1), Ok(0)], HungUp),
        (TheEnd, vec![Err(Errno::EAGAIN)], Silent),
    ] {
        let mut left = answers.iter();
        let drained = drain_by(to, |_| *left.next().expect("no call more"));
        assert_eq!((drained, left.len()), (expected, 0), "{to:?} {answers:?}");
    }
    // A peer that rings all the time is listened to for a while only.
    for (to, most) in [(Silence, MAX_DRAIN_CALLS), (TheEnd, MAX_DRAIN_CALLS_TO_THE_END)] {
        let mut count = 0;
        let drained = drain_by(to, |bytes| {
            count += 1;
            Ok(bytes.len())
        });
        assert_eq!((drained, count), (Rang, most));
    }
}

#[test]
fn a_doorbell_with_descriptors_in_it_counts_as_hung_up() {
    let account = Arc::new(Account::default());
    let drained = |socket: BorrowedFd<'_>| drain_all(socket, &account, DrainTo::Silence);
    let (ours, theirs) = streams();
    assert_eq!(drained(theirs.as_fd()), Drained::Silent);
    assert_eq!(ring(ours.as_fd()), Rung::Rings);
    let lacks = refusing(libc::SYS_recvmsg, Errno::ENOMEM, || drained(theirs.as_fd()));
    assert!(lacks.is_none_or(|drained| drained == Drained::Silent), "{lacks:?}");
    assert_eq!(drained(theirs.as_fd()), Drained::Rang);
    post(&ours, b"x", 1);
    assert_eq!(drained(theirs.as_fd()), Drained::HungUp);
    drop(ours);
    assert_eq!(drained(theirs.as_fd()), Drained::HungUp);
    assert_eq!(drained(Bell::new().expect("an eventfd").as_fd()), Drained::HungUp);
}

// Packets.

#[test]
fn packets_come_one_by_one_with_their_descriptors() {
    let (ours, theirs) = packets();
    assert_eq!(next(&theirs), "nothing");
    for (len, descriptors) in [(3, 0), (8, 2), (9, 0), (0, 1), (1, 0)] {
        post(&ours, &[7; 9][..len], descriptors);
    }
    let received = [(); 6].map(|()| next(&theirs));
    assert_eq!(received, ["3+0", "8+2", "cut off", "0+1", "1+0", "nothing"]);
    assert_eq!(next(&OwnedFd::from(std::fs::File::open("/").expect("a directory"))), "recvmsg 88");
}

#[test]
fn a_packet_is_received_whole_or_not_at_all() {
    let (ours, theirs) = packets();
    let whole = |socket: &OwnedFd| {
        receive_packet(socket.as_fd(), &mut [0; 8]).map(|(len, list)| (len, list.len()))
    };
    let nothing = whole(&theirs).expect_err("nothing").source;
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    post(&ours, b"three", 3);
    assert_eq!(whole(&theirs).expect("a packet"), (5, 3));
    post(&ours, b"more than eight", 0);
    let cut_off = whole(&theirs).expect_err("cut off").source;
    assert!(cut_off.to_string().contains("cut off"), "{cut_off}");
}

#[test]
fn a_packet_with_descriptors_stays_where_none_are_expected() {
    let (ours, theirs) = packets();
    let bytes = || told(receive_bytes(theirs.as_fd(), &mut [0; 8]));
    assert_eq!(bytes(), "nothing");
    post(&ours, b"one", 0);
    post(&ours, b"three", 0);
    post(&ours, b"more", 1);
    assert_eq!([bytes(), bytes()], ["3+0", "5+0"]);
    assert_eq!([bytes(), bytes()], ["cut off", "cut off"]);
    assert_eq!(next(&theirs), "4+1");
    post(&ours, b"more than eight", 0);
    assert_eq!(bytes(), "cut off");
}

#[test]
fn a_reset_is_not_the_end_of_what_has_come() {
    let takes: [fn(&OwnedFd) -> String; 3] = [
        next,
        |socket| told(receive_bytes(socket.as_fd(), &mut [0; 8])),
        |socket| match discard_packet(socket.as_fd()) {
            Discarded::Packet => "4+0".into(),
            Discarded::EmptyOrEnd => "0+0".into(),
            Discarded::Nothing => "nothing".into(),
        },
    ];
    for take in takes {
        let (ours, theirs) = packets();
        post(&ours, b"last", 0);
        // It closes with something unread, which the kernel tells us by an error.
        post(&theirs, b"unread", 0);
        drop(ours);
        assert_eq!([take(&theirs), take(&theirs)], ["4+0", "0+0"]);
        // A kernel that says nothing else is not asked for ever.
        for call in [libc::SYS_recvmsg, libc::SYS_recvfrom] {
            let endless = refusing(call, Errno::ECONNRESET, || take(&theirs));
            assert!(endless.is_none_or(|told| ["recvmsg 104", "nothing", "0+0"].contains(&&*told)));
        }
    }
}

#[test]
fn a_full_socket_refuses_a_packet_without_a_wait() {
    let (ours, _theirs) = packets();
    let error = loop {
        if let Err(error) = send_packet(ours.as_fd(), &[0; 4096], &[]) {
            break error;
        }
    };
    assert_eq!((error.call, error.source.kind()), ("sendmsg", io::ErrorKind::WouldBlock));
}

#[test]
fn an_enlarged_socket_takes_more() {
    let (ours, _theirs) = packets();
    let size = || number(ours.as_fd(), libc::SO_SNDBUF).expect("every socket has a size");
    let before = size();
    enlarge(ours.as_fd());
    // The system's bound is not below the usual size, and the kernel takes twice of what it says.
    assert!(size() > before, "{} and {before}", size());
}

#[test]
fn what_was_sent_before_a_socket_refuses_more_still_comes() {
    for refuse in [refuse_more, stop_receiving] {
        let (ours, theirs) = packets();
        post(&ours, b"one", 0);
        refuse(theirs.as_fd());
        let error = send_packet(ours.as_fd(), b"two", &[]).expect_err("it refuses more");
        assert_eq!(error.source.raw_os_error(), Some(libc::EPIPE));
        assert_eq!(next(&theirs), "3+0");
    }
}

#[test]
fn packets_are_discarded_until_too_many_are_empty() {
    let (ours, theirs) = packets();
    // Neither waits.
    discard_packets(theirs.as_fd());
    assert_eq!(discard_packet(theirs.as_fd()), Discarded::Nothing);
    (0..MAX_EMPTY).for_each(|_| post(&ours, b"", 0));
    post(&ours, b"x", 1);
    post(&ours, b"", 0);
    post(&ours, b"last", 0);
    discard_packets(theirs.as_fd());
    assert_eq!([next(&theirs), next(&theirs)], ["4+0", "nothing"]);
}

// Room for descriptors.

#[test]
fn there_is_room_if_the_last_numbers_are_free() {
    let (ours, _theirs) = packets();
    assert!(!is_free(ours.as_raw_fd()));
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    assert!(is_free(limit as RawFd - 1));
    assert!(has_room(0) && has_room(1));
    // Not all of them are: this test has some open.
    assert!(!has_room(limit as usize) && !has_room(limit as usize + 1) && !has_room(usize::MAX));
}

#[test]
fn without_room_a_packet_waits() {
    let (ours, theirs) = packets();
    post(&ours, b"one", 1);
    for (errno, expected) in [
        (Errno::EMFILE, "no room"),
        (Errno::ENFILE, "no room"),
        (Errno::EINVAL, "no room"),
        (Errno::EPERM, "fcntl(F_DUPFD_CLOEXEC) 1"),
    ] {
        let told = refusing(libc::SYS_fcntl, errno, || next(&theirs));
        assert!(told.is_none_or(|told| told == expected), "{errno}");
    }
    assert_eq!(next(&theirs), "3+1");
}

// Closing.

#[test]
fn bytes_and_descriptors_that_wait_at_a_socket_are_known() {
    let (ours, theirs) = packets();
    let waits = || (waiting_bytes(theirs.as_fd()), has_descriptors_waiting(theirs.as_fd()));
    let holds = || [true, false].map(|is_honest| holds_something(theirs.as_fd(), is_honest));
    if !has_proc() {
        return;
    }
    assert_eq!((waits(), holds()), ((Some(0), false), [false, false]));
    post(&ours, b"", 1);
    assert_eq!((waits(), holds()), ((Some(0), true), [false, true]));
    assert_eq!(next(&theirs), "0+1");
    post(&ours, b"two", 2);
    assert_eq!((waits(), holds()), ((Some(3), true), [true, true]));
    assert_eq!(waiting_bytes(Bell::new().expect("an eventfd").as_fd()), None);
}

#[test]
fn a_socket_knows_whether_its_packets_were_received() {
    let (ours, theirs) = packets();
    assert!(is_all_received(ours.as_fd()));
    post(&ours, b"one", 1);
    post(&ours, b"two", 0);
    for _ in 0..2 {
        assert!(!is_all_received(ours.as_fd()));
        assert!(is_all_received(theirs.as_fd()), "it has sent nothing");
        next(&theirs);
    }
    assert!(is_all_received(ours.as_fd()));
    post(&ours, b"never received", 0);
    drop(theirs);
    assert!(is_all_received(ours.as_fd()));
    assert!(!is_all_received(Bell::new().expect("an eventfd").as_fd()), "it is no socket");
}

#[test]
fn a_socket_that_is_dropped_is_shut_down_by_its_owner_only() {
    let hangs_up = |change: fn(&mut Socket)| {
        let (ours, theirs) = packets();
        let _copy = theirs.try_clone().expect("a descriptor");
        let mut socket = Socket::new(theirs);
        change(&mut socket);
        drop(socket);
        is_hung_up(ours.as_fd())
    };
    assert!(hangs_up(|_| {}));
    assert!(hangs_up(|socket| socket.is_honest = true));
    assert!(!hangs_up(|socket| socket.has_moved = true));
    assert!(!hangs_up(|socket| socket.owner += 1));
    assert!(!hangs_up(|socket| (socket.owner, socket.has_moved) = (0, true)));
    assert!(!hangs_up(|socket| socket.refuses_descriptors = true));
}

#[test]
fn a_thread_closes_a_socket_in_which_descriptors_wait() {
    let queued = |bytes: &[u8], descriptors: usize, change: fn(&mut Socket)| {
        let (ours, theirs) = packets();
        if !bytes.is_empty() || descriptors > 0 {
            post(&ours, bytes, descriptors);
        }
        let account = Arc::new(Account::default());
        let mut socket = Socket::new(theirs);
        socket.account = Some(account.clone());
        change(&mut socket);
        drop(socket);
        account.queued()
    };
    if !has_proc() {
        return;
    }
    assert_eq!(queued(b"", 0, |_| {}), 0);
    // Bytes take no time to close.
    assert_eq!(queued(b"x", 0, |_| {}), 0);
    assert_eq!(queued(b"", 1, |_| {}), 1);
    assert_eq!(queued(b"x", 1, |socket| socket.is_honest = true), 1);
    // The other end sends no packet without bytes.
    assert_eq!(queued(b"", 1, |socket| socket.is_honest = true), 0);
    assert_eq!(queued(b"", 1, |socket| socket.has_moved = true), 0);
    // Only the last close of a socket that has moved closes what waits.
    assert_eq!(queued(b"x", 1, |socket| socket.refuses_descriptors = true), 0);
}

#[test]
fn sockets_are_known_by_their_kind() {
    let ((stream, _other), (packet, _peer)) = (streams(), packets());
    let new = |family, kind| socket(family, kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let datagram = new(AddressFamily::Unix, SockType::Datagram);
    let internet = new(AddressFamily::Inet, SockType::Stream);
    let kinds = |fd: &dyn AsFd| [Kind::Stream, Kind::Packet].map(|kind| is_unix(fd.as_fd(), kind));
    assert_eq!(kinds(&stream), [true, false]);
    assert_eq!(kinds(&packet), [false, true]);
    assert_eq!(kinds(&datagram), [false, false]);
    assert_eq!(kinds(&internet), [false, false]);
    assert_eq!(kinds(&Bell::new().expect("an eventfd")), [false, false]);
}
