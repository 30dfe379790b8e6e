//! Who joins, leaves and dies, in order with what each member posts.

use crate::common::members::{
    VERSION, connect_to, directory_of, member_hello, numbers, port_behind, post,
};
use crate::common::role::{command, play};
use crate::common::{DEADLINE, wait_until};
use crate::{NAME, Name, open, wait_for_others};
use messageport::{BroadcastChannel, BroadcastEvent, BroadcastPeer, CloseReason};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::os::fd::AsFd;
use std::process::{Child, Command};

fn next(member: &BroadcastChannel) -> BroadcastEvent {
    member.recv_event_timeout(DEADLINE).expect("an event")
}

fn joined(member: &BroadcastChannel) -> BroadcastPeer {
    match next(member) {
        BroadcastEvent::Joined(peer) => peer,
        other => panic!("{other:?}"),
    }
}

fn said(member: &BroadcastChannel) -> (BroadcastPeer, String) {
    match next(member) {
        BroadcastEvent::Message { sender, message } => {
            (sender, message.text().expect("a text").to_owned())
        }
        other => panic!("{other:?}"),
    }
}

fn left(member: &BroadcastChannel) -> (BroadcastPeer, CloseReason) {
    match next(member) {
        BroadcastEvent::Left { peer, reason } => (peer, reason),
        other => panic!("{other:?}"),
    }
}

fn is_readable(member: &BroadcastChannel) -> bool {
    let mut fds = [PollFd::new(member.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).expect("a poll") > 0
}

#[test]
fn those_who_are_there_come_first_oldest_first() {
    let name = Name::new();
    let (one, two, three) = (name.open(), name.open(), name.open());
    two.post_text("before anyone asked").expect("room");
    assert_eq!(joined(&one).id, two.id());
    assert_eq!(joined(&one).id, three.id());
    let (sender, text) = said(&one);
    assert_eq!((sender.id, &*text), (two.id(), "before anyone asked"));
    assert_eq!(sender.credentials.expect("the kernel's").pid, std::process::id());
    assert!(one.try_recv_event().expect("an open member").is_none());
    let peers = one.peers().expect("an open member");
    assert_eq!(peers.iter().map(|peer| peer.id).collect::<Vec<_>>(), [two.id(), three.id()]);
    // Others are not told who is there unless they ask.
    assert_eq!(three.recv().expect("a message").text().expect("a text"), "before anyone asked");
}

#[test]
fn a_member_is_announced_before_its_first_message_and_gone_after_its_last() {
    let name = Name::new();
    let room = name.open();
    assert!(room.try_recv_event().expect("an open member").is_none());
    for round in 0..20 {
        let guest = name.open();
        let messages = round % 4;
        for number in 0..messages {
            guest.post_text(&format!("{round} {number}")).expect("room");
        }
        // Posts and counts find out that it has gone, before anything was received of it.
        if round % 3 == 0 {
            drop(guest);
            room.post_text("to an empty room").expect("room");
            assert_eq!(room.others().expect("an open member"), 0);
        } else if round % 3 == 1 {
            drop(guest);
        } else {
            guest.close();
        }
        let peer = joined(&room);
        for number in 0..messages {
            assert_eq!(said(&room), (peer, format!("{round} {number}")));
        }
        let (gone, reason) = left(&room);
        assert_eq!((gone, reason), (peer, CloseReason::PeerDropped));
        assert!(room.try_recv_event().expect("an open member").is_none());
    }
}

/// The change is found by a call that receives nothing, so no descriptor of the guest reports it.
#[test]
fn a_change_that_a_post_finds_makes_the_channel_readable() {
    let name = Name::new();
    let (room, guest) = (name.open(), name.open());
    joined(&room);
    drop(guest);
    wait_until("a post finds out", || {
        room.post_text("is it there?").expect("room");
        room.peers().expect("an open member").is_empty()
    });
    wait_until("it is reported", || {
        assert!(is_readable(&room));
        matches!(
            room.try_recv_event().expect("an open member"),
            Some(BroadcastEvent::Left { reason: CloseReason::PeerDropped, .. })
        )
    });
    assert!(room.try_recv_event().expect("an open member").is_none());
}

#[test]
fn a_closed_member_has_no_events() {
    let name = Name::new();
    let room = name.open();
    room.close();
    assert!(room.recv_event().is_err() && room.try_recv_event().is_err() && room.peers().is_err());
    assert!(room.recv_event_timeout(DEADLINE).is_err());
    assert_ne!(room.id(), name.open().id());
}

#[test]
fn a_message_of_another_type_is_an_error_and_events_go_on() {
    let name = Name::new();
    let (room, guest) = (name.open(), name.open());
    room.require_type::<u32>();
    joined(&room);
    guest.post_text("no number").expect("room");
    guest.post_message(&7u32).expect("room");
    assert!(room.recv_event_timeout(DEADLINE).is_err());
    let BroadcastEvent::Message { message, .. } = next(&room) else { panic!("a number") };
    assert_eq!(*message.data::<u32>().expect("a number"), 7);
}

/// A program may have asked once, and only post since.
#[test]
fn changes_that_no_call_takes_are_bounded() {
    let name = Name::new();
    let (room, stays) = (name.open(), name.open());
    assert_eq!(joined(&room).id, stays.id());
    let late = name.open();
    for _ in 0..1000 {
        let guest = name.open();
        assert_eq!(room.others().expect("an open member"), 3);
        drop(guest);
        wait_for_others(&room, 2);
    }
    let last = name.open();
    drop(stays);
    let mut events = Vec::new();
    while let Some(event) = room.try_recv_event().expect("an open member") {
        events.push(event);
    }
    assert!(events.len() <= 1024 + 3, "{} changes", events.len());
    // Those that are there, and the end of one that was reported, are not forgotten.
    let mut here = BTreeSet::from([room.id()]);
    for event in &events {
        match event {
            BroadcastEvent::Joined(peer) => assert!(here.insert(peer.id)),
            BroadcastEvent::Left { peer, .. } => _ = here.remove(&peer.id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(here, BTreeSet::from([room.id(), late.id(), last.id()]));
}

/// Who calls itself as another member does is told from it by the kernel's word.
#[test]
fn a_forged_id_neither_hides_nor_doubles_the_end_of_its_member() {
    const TEST: &str = "presence::a_forged_id_neither_hides_nor_doubles_the_end_of_its_member";
    const ID: &str = "MESSAGEPORT_TEST_ID";
    const NOISE: u32 = 300;
    fn forger() {
        let id: u128 = env::var(ID).expect("a number").parse().expect("a number");
        let mut hello = member_hello(VERSION, 0);
        let at = hello.len() - 16;
        hello[at..].copy_from_slice(&id.to_le_bytes());
        let (packet, descriptors, port) = port_behind(hello);
        // The room is the older one.
        let mut files: Vec<_> = std::fs::read_dir(directory_of(&env::var(NAME).expect("a name")))
            .expect("a directory")
            .map(|file| file.expect("a name").path())
            .collect();
        files.sort();
        // With a stamp of the beginning of all times.
        for _ in 0..NOISE {
            port.post_text("noise\0\0\0\0\0\0\0\0").expect("room");
        }
        let socket = connect_to(&files[0]);
        post(&socket, &packet, &numbers(&descriptors));
        std::thread::sleep(2 * DEADLINE);
        drop((socket, port));
    }
    fn room() {
        let name = Name::new();
        let (room, guest) = (name.open(), name.open());
        let honest = joined(&room);
        let mut child = command(TEST, "forger");
        child.env(NAME, &name.text).env(ID, guest.id().to_string());
        let mut child = child.spawn().expect("a child");
        let forged = joined(&room);
        assert_eq!((forged.id, honest.id), (guest.id(), guest.id()));
        assert_eq!(forged.credentials.expect("the kernel's").pid, child.id());
        assert_eq!(honest.credentials.expect("the kernel's").pid, std::process::id());
        // What is posted goes to both, and what each says is its own.
        let peers = room.peers().expect("an open member");
        assert!(peers.len() == 2 && peers.contains(&honest) && peers.contains(&forged));
        room.post_text("to all").expect("room");
        assert_eq!(
            guest.recv_timeout(DEADLINE).expect("a message").text().expect("text"),
            "to all"
        );
        guest.post_text("mine").expect("room");
        let is_noise = |(sender, text): &(_, String)| (*sender, &**text) == (forged, "noise");
        let mut noise = 0;
        let message = loop {
            let message = said(&room);
            if !is_noise(&message) {
                break message;
            }
            noise += 1;
        };
        assert_eq!(message, (honest, "mine".to_owned()));
        // As for any other process's member: its false times delay no message for long.
        assert!(noise < NOISE / 2, "{noise}");
        drop(guest);
        let mut ends = Vec::new();
        while noise < NOISE || ends.is_empty() {
            match next(&room) {
                BroadcastEvent::Message { sender, .. } if sender == forged => noise += 1,
                BroadcastEvent::Left { peer, reason } => ends.push((peer, reason)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(ends, [(honest, CloseReason::PeerDropped)]);
        child.kill().expect("it is not reaped yet");
        child.wait().expect("it ends");
        assert_eq!(left(&room), (forged, CloseReason::PeerDied));
        assert!(room.try_recv_event().expect("an open member").is_none());
    }
    play(TEST, &[("room", room), ("forger", forger)]);
}

#[test]
fn members_that_are_killed_have_died() {
    const TEST: &str = "presence::members_that_are_killed_have_died";
    fn guest() {
        let guest = open(&env::var(NAME).expect("a name"));
        for number in 0.. {
            if guest.post_text(&number.to_string()).is_err() {
                std::thread::yield_now();
            }
        }
    }
    fn watcher() {
        let name = Name::new();
        let room = name.open();
        let start = || -> Command {
            let mut child = command(TEST, "guest");
            child.env(NAME, &name.text);
            child
        };
        for _ in 0..5 {
            let mut children: Vec<_> = (0..3).map(|_| start().spawn().expect("a child")).collect();
            // What each has said, and who has gone.
            let mut here: BTreeMap<u128, (u32, u32)> = BTreeMap::new();
            let mut messages = 0u32;
            let mut gone = 0;
            while gone < 3 {
                match next(&room) {
                    BroadcastEvent::Joined(peer) => {
                        let pid = peer.credentials.expect("the kernel's").pid;
                        assert!(here.insert(peer.id, (pid, 0)).is_none(), "it joins once");
                    }
                    BroadcastEvent::Message { sender, message } => {
                        let (_, next) = here.get_mut(&sender.id).expect("it has joined");
                        let number: u32 = message.text().expect("a text").parse().expect("ours");
                        assert!(number >= *next, "in order");
                        *next = number + 1;
                        messages += 1;
                        let is_here =
                            |child: &Child| here.values().any(|(pid, _)| *pid == child.id());
                        if messages > 300 && children.iter().all(is_here) {
                            for mut child in children.drain(..) {
                                child.kill().expect("it is not reaped yet");
                                child.wait().expect("it ends");
                            }
                        }
                    }
                    BroadcastEvent::Left { peer, reason } => {
                        assert_eq!(reason, CloseReason::PeerDied);
                        assert!(here.remove(&peer.id).is_some(), "it leaves once");
                        gone += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert!(here.is_empty());
            wait_for_others(&room, 0);
            // Who joins removes what the dead have left.
            drop(name.open());
            joined(&room);
            left(&room);
        }
    }
    play(TEST, &[("watcher", watcher), ("guest", guest)]);
}
