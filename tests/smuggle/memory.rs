//! Memory that is no buffer.

use crate::common::census::Census;
use crate::common::parts::Parts;
use crate::common::role::{play, skip};
use crate::common::{proc, receive, wait_until};
use crate::{Entry, Pair, assert_alive, null};
use messageport::{Buffer, BufferError, MessageChannel, MessageError};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

const LEN: u64 = 64 << 10;

/// All that a buffer must have.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL)
    .union(SealFlag::F_SEAL_WRITE);

/// Memory of `LEN` bytes with these seals, all of it there.
fn sealed(seals: SealFlag) -> OwnedFd {
    let memory = unsealed(MFdFlags::empty());
    memory.write_all_at(&[7; LEN as usize], 0).expect("memory");
    seal(&memory, seals);
    memory.into()
}

/// Adds seals, again while the kernel itself uses a page, to move it, say.
fn seal(memory: impl AsFd, seals: SealFlag) {
    wait_until("it is sealed", || match fcntl(memory.as_fd(), FcntlArg::F_ADD_SEALS(seals)) {
        Err(Errno::EBUSY) => false,
        answer => answer.expect("seals") == 0,
    });
}

fn unsealed(flags: MFdFlags) -> File {
    let flags = flags | MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let memory = File::from(memfd_create(c"made by hand", flags).expect("a memfd"));
    memory.set_len(LEN).expect("a length");
    memory
}

/// What the victim says of a buffer of `len` bytes that comes as this.
fn offer(
    pair: &mut Pair,
    sequence: u64,
    memory: OwnedFd,
    len: u64,
) -> Result<Buffer, MessageError> {
    pair.packet(sequence, &[Entry::Buffer(len)], &[memory.as_fd()]);
    drop(memory);
    pair.record(1, sequence);
    receive(&pair.victim).take_buffer()
}

#[track_caller]
fn assert_refused(what: &str, answer: Result<Buffer, MessageError>) {
    match answer {
        Err(MessageError::Buffer(BufferError::Refused { .. })) => {}
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn f31_f32_memory_that_can_change_is_refused_and_the_carrier_lives() {
    fn victim() {
        let before = Census::take();
        let mut pair = Pair::new();
        let held = Census::take();
        let path = |name: &str| tempfile::Builder::new().tempfile_in(name);
        let file = tempfile::tempfile().expect("a temporary file");
        file.write_all_at(&[7; LEN as usize], 0).expect("room on the disk");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let region = Parts::of(MessageChannel::new().expect("a channel").port1);
        let mut cases: Vec<(&str, OwnedFd)> = vec![
            ("a regular file", file.into()),
            ("a device", null()),
            ("a device of zeros", File::open("/dev/zero").expect("a device").into()),
            ("a directory", File::open("/").expect("a directory").into()),
            ("a pipe to read", reader.into()),
            ("a pipe to write", writer.into()),
            ("a socket", UnixStream::pair().expect("a pair").0.into()),
            ("a port's memory", region.duplicate(0)),
            ("no seals", sealed(SealFlag::empty())),
        ];
        drop(region);
        for (what, missing) in [
            ("no seal against shrinking", SealFlag::F_SEAL_SHRINK),
            ("no seal against growing", SealFlag::F_SEAL_GROW),
            ("no seal against sealing", SealFlag::F_SEAL_SEAL),
            ("no seal against writing", SealFlag::F_SEAL_WRITE),
        ] {
            cases.push((what, sealed(SEALS.difference(missing))));
        }
        let future = SealFlag::F_SEAL_FUTURE_WRITE | SEALS.difference(SealFlag::F_SEAL_WRITE);
        cases.push(("sealed against new writers only", sealed(future)));
        if let Ok(shared) = path("/dev/shm") {
            shared.as_file().write_all_at(&[7; LEN as usize], 0).expect("memory");
            let file = OpenOptions::new().read(true).write(true).open(shared.path());
            cases.push(("a file on tmpfs", file.expect("a file").into()));
        }
        let mut sequence = 0;
        for (what, memory) in cases {
            assert_refused(what, offer(&mut pair, sequence, memory, LEN));
            sequence += 1;
        }
        held.wait_for("all that was refused is closed");
        let buffer = offer(&mut pair, sequence, sealed(SEALS), LEN).expect("a buffer");
        assert_eq!(buffer[..], [7; LEN as usize]);
        drop(buffer);
        assert_alive(&mut pair, sequence + 1);
        drop(pair);
        before.wait_for("at the end");
    }
    let name = "memory::f31_f32_memory_that_can_change_is_refused_and_the_carrier_lives";
    play(name, &[("victim", victim)]);
}

#[test]
fn f32_memory_of_another_length_than_was_said_is_refused() {
    let mut pair = Pair::new();
    let lengths =
        [0, 1, LEN - 1, LEN + 1, LEN - 4096, LEN + 4096, 2 * LEN, 1 << 40, 1 << 63, u64::MAX];
    for (len, sequence) in lengths.into_iter().zip(0..) {
        let answer = offer(&mut pair, sequence, sealed(SEALS), len);
        assert_refused(&format!("{len} bytes"), answer);
    }
    assert_alive(&mut pair, lengths.len() as u64);
}

#[test]
fn f33_memory_with_holes_is_refused_before_it_costs_any() {
    fn victim() {
        const LARGE: u64 = 64 << 30;
        let mut pair = Pair::new();
        let bomb = unsealed(MFdFlags::empty());
        bomb.set_len(LARGE).expect("a length");
        seal(&bomb, SEALS);
        let kept = bomb.try_clone().expect("a descriptor");
        assert_refused("64 GiB of nothing", offer(&mut pair, 0, bomb.into(), LARGE));
        use std::os::unix::fs::MetadataExt;
        assert_eq!(kept.metadata().expect("a memfd").blocks(), 0, "it is still nothing");
        // One page that is missing.
        let holed = unsealed(MFdFlags::empty());
        holed.write_all_at(&[7; LEN as usize], 0).expect("memory");
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&holed, punch, 4096, 4096).expect("a hole");
        seal(&holed, SEALS);
        assert_refused("one hole", offer(&mut pair, 1, holed.into(), LEN));
        // All of the file's memory behind its end, where it can be given back later.
        let behind = unsealed(MFdFlags::empty());
        behind.set_len(LEN).expect("a length");
        let (beyond, size) = (FallocateFlags::FALLOC_FL_KEEP_SIZE, LEN as i64);
        fallocate(&behind, beyond, size, size).expect("memory");
        seal(&behind, SEALS);
        assert!(behind.metadata().expect("a memfd").blocks() * 512 >= LEN);
        if has_cachestat() {
            assert_refused("memory behind its end", offer(&mut pair, 2, behind.into(), LEN));
        } else {
            skip("cachestat is of Linux 6.5");
            offer(&mut pair, 2, behind.into(), LEN).expect("it looks whole");
        }
        // Memory that was made and never written is no hole.
        let made = unsealed(MFdFlags::empty());
        made.set_len(LEN).expect("a length");
        fallocate(&made, FallocateFlags::empty(), 0, size).expect("memory");
        seal(&made, SEALS);
        let zeros = offer(&mut pair, 3, made.into(), LEN).expect("a buffer");
        assert!(zeros.iter().all(|byte| *byte == 0));
        assert_alive(&mut pair, 4);
    }
    play("memory::f33_memory_with_holes_is_refused_before_it_costs_any", &[("victim", victim)]);
}

#[test]
fn f33_huge_pages_are_refused() {
    fn victim() {
        const HUGE: u64 = 2 << 20;
        let flags = MFdFlags::MFD_HUGETLB | MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let Ok(memory) = memfd_create(c"made by hand", flags) else {
            return skip("no huge pages here");
        };
        let memory = File::from(memory);
        if memory.set_len(HUGE).is_err() {
            return skip("no huge pages here");
        }
        seal(&memory, SEALS);
        let mut pair = Pair::new();
        let answer = offer(&mut pair, 0, memory.into(), HUGE);
        let text = format!("{answer:?}");
        assert_refused("huge pages", answer);
        assert!(text.contains("tmpfs"), "{text}");
        assert_alive(&mut pair, 1);
    }
    play("memory::f33_huge_pages_are_refused", &[("victim", victim)]);
}

#[test]
fn f31_memory_that_was_opened_to_be_read_is_a_buffer_as_well() {
    let mut pair = Pair::new();
    let memory = sealed(SEALS);
    let path = proc(format_args!("self/fd/{}", memory.as_raw_fd()));
    let to_read = File::open(path).expect("the same memory");
    let buffer = offer(&mut pair, 0, to_read.into(), LEN).expect("a buffer");
    assert_eq!(buffer[..], [7; LEN as usize]);
    let mut private = buffer.into_mut().expect("a copy");
    private.fill(1);
    drop(private);
    let empty = File::from(
        memfd_create(c"empty", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("one"),
    );
    seal(&empty, SEALS);
    let buffer = offer(&mut pair, 1, empty.into(), 0).expect("an empty buffer");
    assert!(buffer.is_empty() && buffer.into_mut().expect("nothing").is_empty());
}

#[test]
fn f31_a_buffer_that_a_peer_made_is_checked_before_it_is_read_as_a_type() {
    let mut pair = Pair::new();
    let buffer = offer(&mut pair, 0, sealed(SEALS), LEN).expect("a buffer");
    for _ in 0..2 {
        let refused = buffer.access::<Vec<String>>().map(drop).expect_err("no strings");
        assert!(matches!(refused, BufferError::Invalid { .. }), "{refused}");
    }
}

/// Whether the kernel tells how much of a file has memory.
fn has_cachestat() -> bool {
    let number = libc::c_long::from(451);
    // SAFETY: without a descriptor, the call looks at nothing else.
    let answer = unsafe { libc::syscall(number, -1, 0, 0, 0) };
    answer == -1 && nix::errno::Errno::last() == nix::errno::Errno::EBADF
}
