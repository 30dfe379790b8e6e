//! Small guards, each of which one line holds: what a packet says of itself, sockets that refuse
//! descriptors, and what a core dump leaves out.

use crate::common::census::REGION;
use crate::common::parts::{ATTACHMENTS, DOORBELL, Parts, send};
use crate::common::role::{play, skip};
use crate::common::{DEADLINE, proc};
use crate::{Entry, Pair, assert_broken, null};
use messageport::{AttachError, Connect, Listener, MessageChannel};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, socket,
};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread;

/// `SO_PASSRIGHTS` of Linux 6.16. Says whether the kernel has it.
pub fn pass_rights(socket: BorrowedFd<'_>, yes: bool) -> bool {
    const SO_PASSRIGHTS: libc::c_int = 83;
    let value = libc::c_int::from(yes);
    let len = size_of_val(&value) as libc::socklen_t;
    let (raw, place) = (socket.as_raw_fd(), (&raw const value).cast());
    // SAFETY: the value outlives the call, and is as long as it says.
    unsafe { libc::setsockopt(raw, libc::SOL_SOCKET, SO_PASSRIGHTS, place, len) == 0 }
}

#[test]
fn f1_a_packet_with_more_descriptors_than_its_entries_have_ends_the_carrier() {
    let mut pair = Pair::new();
    let (one, other) = (null(), null());
    pair.packet(0, &[Entry::Descriptor], &[one.as_fd(), other.as_fd()]);
    // The record and the packet agree; the list in the packet does not.
    pair.record(2, 0);
    assert_broken(&pair.victim, "one entry, two descriptors");
}

#[test]
fn a_port_whose_socket_refuses_descriptors_is_refused() {
    fn victim() {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let parts = Parts::of(port2);
        if !pass_rights(parts.descriptors[ATTACHMENTS].as_fd(), false) {
            return skip("the kernel has no SO_PASSRIGHTS");
        }
        let error = parts.into_port().map(drop).expect_err("it could get no attachment");
        let AttachError::NotAPort { what } = error else { panic!("{error}") };
        assert!(what.contains("refuses descriptors"), "{what}");
        drop(port1);
    }
    play("guards::a_port_whose_socket_refuses_descriptors_is_refused", &[("victim", victim)]);
}

#[test]
fn the_doorbells_of_a_channel_refuse_descriptors() {
    fn victim() {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let ends = [port1, port2].map(Parts::of);
        if !pass_rights(ends[0].descriptors[ATTACHMENTS].as_fd(), true) {
            return skip("the kernel has no SO_PASSRIGHTS");
        }
        for end in &ends {
            let doorbell = &end.descriptors[DOORBELL];
            assert_eq!(send(doorbell, &[1], &[null().as_fd()]), Err(Errno::EPERM));
            assert_eq!(send(doorbell, &[1], &[]), Ok(()), "it rings");
        }
    }
    play("guards::the_doorbells_of_a_channel_refuse_descriptors", &[("victim", victim)]);
}

/// Messages may be secrets: `dd` stands for "do not dump".
#[test]
fn a_core_dump_leaves_regions_out() {
    fn victim() {
        let _channel = MessageChannel::new().expect("a channel");
        let maps = fs::read_to_string(proc("self/smaps")).expect("a process has mappings");
        let mut lines = maps.lines();
        lines.by_ref().find(|line| line.contains(REGION)).expect("the region is mapped");
        let flags = lines.find(|line| line.starts_with("VmFlags:")).expect("it has flags");
        assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
    }
    play("guards::a_core_dump_leaves_regions_out", &[("victim", victim)]);
}

/// Before and after it is accepted. So no process that may connect delays a close of the listener's.
#[test]
fn a_listener_takes_no_descriptors() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("door");
    let listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a name");
    let client = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .expect("a socket");
    if !pass_rights(client.as_fd(), true) {
        return skip("the kernel has no SO_PASSRIGHTS");
    }
    connect(client.as_raw_fd(), &UnixAddr::new(&path).expect("a short path")).expect("it listens");
    for _ in 0..2 {
        let sent = send(&client, b"no hello", &[null().as_fd()]);
        assert_eq!(sent, Err(Errno::EPERM));
        assert!(listener.try_accept().expect("a listener").is_none());
    }
    let honest = thread::spawn(move || Connect::new().timeout(DEADLINE).at(&path).is_ok());
    let _port = listener.accept().expect("the honest client");
    assert!(honest.join().expect("no panic"));
}

/// The kernel sends such a client no port. Nothing is amiss with the listener.
#[test]
fn a_client_that_refuses_descriptors_is_no_error_of_the_listener() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("door");
    let listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a name");
    let client = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None);
    let client = client.expect("a socket");
    if !pass_rights(client.as_fd(), false) {
        return skip("the kernel has no SO_PASSRIGHTS");
    }
    let address = UnixAddr::new(&path).expect("a short path");
    connect(client.as_raw_fd(), &address).expect("it listens");
    let format: u64 = 8 << 32 | 1 << 16 | 4 << 8 | 8;
    let words = [u64::from_le_bytes(*b"MPHELLO1"), 12, format, 0];
    let hello: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    send(&client, &hello, &[]).expect("room");
    assert!(listener.try_accept().expect("all is well here").is_none());
    let mut answer = [0; 64];
    let mut next = || recv(client.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT);
    assert_eq!((next(), next()), (Ok(32), Ok(0)), "a refusal, and the end");
}
