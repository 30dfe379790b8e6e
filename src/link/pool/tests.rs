//! Pools without a port.

use super::*;
use crate::link::frames::FramesError;
use crate::os::futex::sleeping;
use crate::os::reaper::Foreign;
use std::thread;
use std::time::Instant;

#[test]
fn a_count_that_wraps_around_tells_free_from_taken() {
    let memory = PoolMemory::create(1, 1).expect("a pool of one byte");
    let maker = PoolMaker::new(memory.clone());
    // As if it had been taken and freed all those times.
    memory.freed(0).store(u32::MAX - 1, Ordering::Relaxed);
    for _ in 0..4 {
        let buffer = maker.take().expect("a free slot");
        assert!(maker.take().is_none());
        assert_eq!(maker.in_use(), 1);
        drop(buffer);
        assert_eq!(maker.in_use(), 0);
    }
    assert_eq!(memory.freed(0).load(Ordering::Relaxed), 2);
}

#[test]
fn a_frame_that_its_maker_has_is_not_taken_again_whatever_the_peer_writes() {
    let (memory, [counts, frames]) = PoolMemory::create_frames(2, 1).expect("two frames");
    let maker = PoolMaker::new(memory.clone());
    let foreign = [counts, frames].map(|descriptor| Foreign::new(descriptor, None));
    let peer = PeerPool::of_frames(foreign, 2, 1).expect("it is one");
    let peer = peer.memory().expect("mapped").clone();
    let mut held = maker.take().expect("a free frame");
    held[0] = 7;
    for _ in 0..4 {
        // As a hostile peer may: it frees what it does not have, and claims users.
        peer.free(0);
        peer.user(0).store(9, Ordering::Relaxed);
        let other = maker.take().expect("the other frame");
        assert_eq!((other.slot, held[0]), (1, 7));
        assert!(maker.take().is_none() && !maker.reclaim());
        assert_eq!(maker.in_use(), 2, "else a wait for a frame would be a loop");
        drop(other);
        assert_eq!(maker.in_use(), 1, "the other one is free");
    }
    held.mark_moved();
    // The peer has said that it is back, and is believed, as nothing but its own reads suffers.
    let back = maker.take().expect("it came back");
    assert_eq!(back.slot, 0);
    back.mark_moved();
    assert!(maker.take().is_some_and(|other| other.slot == 1), "it is under way");
}

#[test]
fn a_slot_that_comes_back_ends_the_wait_for_one() {
    let memory = PoolMemory::create(1, 1).expect("a pool of one byte");
    let maker = PoolMaker::new(memory.clone());
    let buffer = maker.take().expect("a free slot");
    let is_flag_up = || memory.waiting().load(Ordering::Relaxed) == Sleep::Futex.code();
    let waiter = memory.clone();
    let ended = sleeping::start(is_flag_up, move || waiter.wait(sleeping::FOR_EVER, || false));
    drop(buffer);
    ended.recv_timeout(sleeping::DEADLINE).expect("the slot's return wakes who waits for it");
    assert!(!is_flag_up());
}

/// The places of every word and slot, as the picture above has them.
#[test]
fn words_and_slots_are_where_the_picture_has_them() {
    let page = page_size();
    // Counts and numbers that just fit their lines, that just do not, and that fill pages.
    for (slots, users, start) in
        [(1u32, 0x100, page), (32, 0x100, page), (33, 0x180, page), (4096, 0x4080, 0x8080)]
    {
        let (start, len) = (start.next_multiple_of(page), page + 1);
        let memory = PoolMemory::create(slots, len).expect("a small pool");
        let at = |offset: u64| memory.mapping.start().addr().get() as u64 + offset;
        assert_eq!(memory.mapping.len(), start + u64::from(slots) * 2 * page);
        assert_eq!((memory.slots(), memory.len()), (slots, len));
        assert_eq!(memory.waiting().as_ptr().addr() as u64, at(0));
        assert_eq!(memory.word(USERS).as_ptr().addr() as u64, at(4));
        for slot in 0..slots {
            let place = u64::from(slot);
            assert_eq!(memory.freed(slot).as_ptr().addr() as u64, at(0x80 + 4 * place));
            assert_eq!(memory.user(slot).as_ptr().addr() as u64, at(users + 4 * place));
            assert_eq!(memory.bytes(slot).addr().get() as u64, at(start + 2 * page * place));
        }
    }
}

#[test]
fn a_pool_of_frames_has_its_counts_and_its_slots_apart() {
    let page = page_size();
    let (memory, _) = PoolMemory::create_frames(3, page + 1).expect("three frames");
    let frames = memory.frames.as_ref().expect("it is of frames").mapping();
    assert_eq!((memory.mapping.len(), frames.len()), (page, 6 * page));
    for slot in 0..3 {
        let place = frames.start().addr().get() as u64 + u64::from(slot) * 2 * page;
        assert_eq!(memory.bytes(slot).addr().get() as u64, place);
    }
    assert!(memory.descriptor().is_none());
}

#[test]
fn sizes_beyond_all_files_are_refused_as_such() {
    for (slots, len) in [(1, u64::MAX), (u32::MAX, u64::MAX / 2), (2, i64::MAX as u64)] {
        let refused = PoolMemory::create(slots, len);
        assert!(matches!(refused, Err(BufferError::TooLarge { .. })), "{slots} × {len}");
        let refused = PoolMemory::create_frames(slots, len);
        assert!(matches!(refused, Err(BufferError::TooLarge { .. })), "{slots} × {len}");
    }
}

#[test]
fn the_first_slots_are_taken_first_and_the_others_in_turn() {
    let maker = PoolMaker::new(PoolMemory::create(35, 1).expect("a small pool"));
    let mut held: Vec<Option<PooledBuffer>> = (0..35).map(|_| maker.take()).collect();
    let slots: Vec<u32> = held.iter().flatten().map(PooledBuffer::slot).collect();
    assert_eq!(slots, (0..35).collect::<Vec<u32>>());
    assert!(maker.take().is_none());
    assert_eq!(maker.in_use(), 35);
    held[33] = None;
    assert_eq!(maker.take().map(|buffer| buffer.slot), Some(33), "the only free one");
    held.truncate(32);
    // None of these is held on, and the turn goes on from the last one taken.
    for expected in [34, 32, 33, 34, 32] {
        assert_eq!(maker.take().map(|buffer| buffer.slot), Some(expected));
    }
    // It goes forward from there, past those that are in use.
    held.extend((0..3).map(|_| maker.take()));
    let last: Vec<u32> = held[32..].iter().flatten().map(PooledBuffer::slot).collect();
    assert_eq!(last, [33, 34, 32]);
    held[33] = None;
    assert_eq!(maker.take().map(|buffer| buffer.slot), Some(34));
    held[5] = None;
    held[2] = None;
    for expected in [2, 2] {
        assert_eq!(maker.take().map(|buffer| buffer.slot), Some(expected), "it is warm");
    }
}

#[test]
fn a_buffer_knows_its_pool_its_slot_and_its_user() {
    let [memory, other] = [(); 2].map(|()| PoolMemory::create(2, 100).expect("a small pool"));
    let maker = PoolMaker::new(memory.clone());
    let mut buffers = [(); 2].map(|()| maker.take().expect("a free slot"));
    assert!(buffers[1].is_of(&memory) && !buffers[1].is_of(&other));
    assert_eq!([buffers[0].slot(), buffers[1].slot()], [0, 1]);
    buffers[0].fill(7);
    buffers[1].fill(8);
    assert_eq!((&*buffers[0], &*buffers[1]), (&[7; 100][..], &[8; 100][..]));
    buffers[1].hand_to(9);
    assert_eq!([0, 1].map(|slot| memory.user(slot).load(Ordering::Relaxed)), [MAKER, 9]);
    let [first, second] = buffers;
    second.mark_moved();
    assert_eq!(maker.in_use(), 2, "it is the receiver's now");
    drop(first);
    assert_eq!(maker.in_use(), 1);
    memory.free(1);
    let again = maker.take().expect("a free slot");
    assert_eq!((again.slot(), memory.user(0).load(Ordering::Relaxed)), (0, MAKER));
}

/// Waits, as a process that another test has just forked may have the descriptor until it runs.
fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + sleeping::DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not come");
        thread::yield_now();
    }
}

#[test]
fn what_dead_users_held_comes_back_and_nothing_else_does() {
    let memory = PoolMemory::create(4, 1).expect("a small pool");
    let maker = PoolMaker::new(memory.clone());
    let file = memory.descriptor().expect("it has one");
    let [(first, alive), (second, also_alive)] =
        [(); 2].map(|()| memory.add_user(file).expect("a user"));
    assert_eq!([first, second], [2, 3]);
    for user in [first, second, FIRST_RECEIVER] {
        let buffer = maker.take().expect("a free slot");
        buffer.hand_to(user);
        buffer.mark_moved();
    }
    let own = maker.take().expect("the last slot");
    assert!(!maker.reclaim(), "all are alive");
    assert_eq!(maker.in_use(), 4);
    drop(alive);
    wait_until(|| maker.reclaim());
    assert_eq!(maker.in_use(), 3);
    assert!(!maker.reclaim(), "it has come back");
    let again = maker.take().expect("a free slot");
    assert_eq!([again.slot(), own.slot()], [0, 3]);
    // This one dies after it has given back what it had.
    memory.free(1);
    drop(also_alive);
    wait_until(|| !lock::is_locked(file, second));
    assert!(!maker.reclaim(), "it held nothing");
    assert_eq!(maker.in_use(), 3);
}

#[test]
fn any_part_of_a_frame_is_copied() {
    let maker = PoolMaker::new(PoolMemory::create(1, 100).expect("a small pool"));
    let mut buffer = maker.take().expect("a free slot");
    buffer.iter_mut().zip(1..).for_each(|(byte, value)| *byte = value);
    let frame = Frame::of(buffer);
    assert_eq!(frame.len(), 100);
    assert_eq!(frame.to_vec(), (1..=100).collect::<Vec<u8>>());
    let mut part = [0; 3];
    frame.copy_to(97, &mut part);
    assert_eq!(part, [98, 99, 100]);
}

/// What an announcement of frames is refused for, with the lengths of its two files.
fn refusal(slots: u64, len: u64, counts: u64, frames: (u32, u64)) -> Option<String> {
    let counts = memfd::create_sealed(counts).expect("a memfd");
    let (_maker, frames) = Frames::create(frames.0, frames.1).expect("small frames");
    refusal_of([counts, frames], slots, len)
}

fn refusal_of(files: [OwnedFd; 2], slots: u64, len: u64) -> Option<String> {
    let foreign = files.map(|descriptor| Foreign::new(descriptor, None));
    match PeerPool::of_frames(foreign, slots, len) {
        Ok(pool) => {
            assert!(pool.has_frames());
            None
        }
        Err(FramesError::Corrupt(corruption)) => Some(corruption.to_string()),
        Err(FramesError::System) => panic!("the kernel refuses small frames"),
    }
}

#[test]
fn f31_an_announcement_of_frames_that_no_maker_makes_is_refused() {
    let page = page_size();
    assert_eq!(refusal(2, 1, page, (2, 2 * page)), None);
    let most = u64::from(MOST_FRAMES);
    assert_eq!(refusal(most, 1, 3 * page, (MOST_FRAMES, most * page)), None);
    let refused =
        |slots, len, counts| refusal(slots, len, counts, (1, page)).expect("no maker makes it");
    let text = refused(most + 1, 1, 3 * page);
    assert!(text.contains("frames of a pool of an untrusted peer"), "{text}");
    for (slots, len, counts) in [(0, 1, page), (1, 0, page), (2, u64::MAX, page), (1, 1, 2 * page)]
    {
        let text = refused(slots, len, counts);
        assert!(text.contains("sealed counts"), "{slots} × {len}: {text}");
    }
    let text = refused(2, 1, page);
    assert!(text.contains("bytes of a pool's frames"), "{text}");
    // The counts could become shorter under the reader.
    let counts = memfd::create(page).expect("a memfd");
    let (_maker, frames) = Frames::create(1, page).expect("small frames");
    let text = refusal_of([counts, frames], 1, 1).expect("it is not sealed");
    assert!(text.contains("sealed counts"), "{text}");
}

#[test]
fn a_peer_s_pool_has_the_slots_that_it_announced() {
    let memory = PoolMemory::create(2, 1).expect("a small pool");
    let descriptor = memory.descriptor().expect("it has one").try_clone_to_owned();
    let foreign = Foreign::new(descriptor.expect("a descriptor"), None);
    let pool = Arc::new(PeerPool::new(foreign, 2, 1).expect("it is one"));
    assert!(!pool.has_frames() && !pool.is_mapped());
    match pool.received(1).expect("the last slot") {
        Pooled::Buffer(buffer) => assert_eq!(buffer.slot(), 1),
        other => panic!("no buffer: {other:?}"),
    }
    assert!(pool.is_mapped() && !pool.has_frames());
    assert!(pool.received(2).is_err() && pool.received(u32::MAX).is_err());
}
