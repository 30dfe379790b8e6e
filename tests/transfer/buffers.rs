//! Memory that moves: filled, sealed, read where it is, and never changed again.

use crate::channel;
use crate::common::census::Census;
use crate::common::role::{command, play, skip};
use crate::common::{proc, receive};
use messageport::{Buffer, BufferError, CloseReason, Worker, parent_port, rkyv};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, pause};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

const LENGTHS: [usize; 9] = [0, 1, 15, 4095, 4096, 4097, 65_536, 100_001, 3 << 20];

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 256) as u8).collect()
}

#[derive(
    Debug, PartialEq, rkyv::Archive, messageport::SafeArchive, rkyv::Serialize, rkyv::Deserialize,
)]
struct Frame {
    number: u64,
    name: String,
    pixels: Vec<u32>,
}

fn frame() -> Frame {
    Frame { number: 7, name: "lamp".into(), pixels: (0..10_000).collect() }
}

#[test]
fn buffers_of_every_length_arrive_as_they_were() {
    let carrier = channel();
    for len in LENGTHS {
        let bytes = pattern(len);
        let buffer = Buffer::from_slice(&bytes).expect("a buffer");
        assert_eq!((&*buffer, buffer.is_sealed()), (&*bytes, false));
        assert!(buffer.as_fd().is_none(), "a holder of it could write");
        carrier.port1.post_message_with(&(len as u64), [buffer.into()]).expect("room");
        let event = receive(&carrier.port2);
        let mut buffer = event.take_buffer().expect("a buffer");
        assert!(*buffer == *bytes, "{len} bytes");
        assert_eq!(buffer.len(), len);
        assert!(buffer.is_sealed());
        assert!(matches!(buffer.bytes_mut(), Err(BufferError::Sealed)));
        buffer.seal().expect("it is");
        // On to the next one, without a copy of anything.
        carrier.port2.post_text_with("back", [buffer.into()]).expect("room");
        assert!(*receive(&carrier.port1).take_buffer().expect("a buffer") == *bytes);
    }
}

#[test]
fn a_fresh_buffer_is_zero_and_keeps_what_is_written() {
    for len in LENGTHS {
        let mut buffer = Buffer::new(len).expect("a buffer");
        assert!(buffer.iter().all(|byte| *byte == 0));
        let bytes = pattern(len);
        buffer.bytes_mut().expect("a fresh buffer").copy_from_slice(&bytes);
        assert!(*buffer == *bytes);
        buffer.seal().expect("the kernel seals it");
        assert!(*buffer == *bytes);
        assert!(matches!(buffer.bytes_mut(), Err(BufferError::Sealed)));
        let mut private = buffer.into_mut().expect("a copy");
        assert!(*private == *bytes);
        private.fill(9);
        assert!(private.iter().all(|byte| *byte == 9));
    }
}

#[test]
fn f31_what_is_sealed_cannot_be_changed_by_any_process() {
    let mut buffer = Buffer::from_slice(&pattern(10_000)).expect("a buffer");
    buffer.seal().expect("the kernel seals it");
    let descriptor = buffer.as_fd().expect("a sealed buffer");
    let seals = SealFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GET_SEALS).expect("some"));
    assert!(seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK));
    assert!(seals.contains(SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL));
    let own = File::from(descriptor.try_clone_to_owned().expect("a descriptor"));
    let path = proc(format_args!("self/fd/{}", descriptor.as_raw_fd()));
    let mut files = vec![own];
    // Opened once more it may have a descriptor to write, which still cannot.
    files.extend(OpenOptions::new().read(true).write(true).open(path));
    for file in &files {
        assert!(file.write_at(b"changed", 0).is_err());
        assert!(file.set_len(0).is_err() && file.set_len(1 << 20).is_err());
        assert!(memmap2::MmapOptions::new().map_raw(file).is_err(), "no mapping to write");
    }
    assert!(*buffer == *pattern(10_000));
}

#[test]
fn f31_a_private_copy_changes_no_other_bytes() {
    let carrier = channel();
    let mut buffer = Buffer::from_slice(&pattern(100_000)).expect("a buffer");
    buffer.seal().expect("the kernel seals it");
    let kept = buffer.as_fd().expect("a sealed buffer").try_clone_to_owned().expect("one");
    carrier.port1.post_text_with("mine", [buffer.into()]).expect("room");
    let received = receive(&carrier.port2).take_buffer().expect("a buffer");
    let mut private = received.into_mut().expect("a copy");
    assert!(*private == *pattern(100_000));
    private.fill(0xee);
    let mut seen = vec![0; 100_000];
    File::from(kept).read_exact_at(&mut seen, 0).expect("the same memory");
    assert!(seen == pattern(100_000), "the sealed bytes are as they were");
    assert!(private.iter().all(|byte| *byte == 0xee));
}

#[test]
fn a_fresh_buffer_becomes_private_without_a_copy() {
    for len in [0, 1, 5000] {
        let mut private =
            Buffer::from_slice(&pattern(len)).expect("a buffer").into_mut().expect("memory");
        assert!(*private == *pattern(len));
        private.fill(3);
        assert_eq!(private.len(), len);
        assert!(private.iter().all(|byte| *byte == 3));
    }
}

#[test]
fn an_archive_in_a_buffer_is_checked_before_it_is_read() {
    let carrier = channel();
    let buffer = Buffer::archive(&frame()).expect("a buffer");
    assert_eq!(buffer.access::<Frame>().expect("a frame").name, "lamp");
    carrier.port1.post_text_with("a frame", [buffer.into()]).expect("room");
    let buffer = receive(&carrier.port2).take_buffer().expect("a buffer");
    // The wrong type is refused, before and after the right one was found.
    for _ in 0..2 {
        let wrong = buffer.access::<Vec<String>>().expect_err("no strings");
        assert!(matches!(wrong, BufferError::Invalid { .. }), "{wrong}");
        let frame = buffer.access::<Frame>().expect("a frame");
        assert_eq!((frame.number.to_native(), frame.pixels.len()), (7, 10_000));
        assert_eq!(frame.pixels[9_999].to_native(), 9_999);
    }
    // What is not sealed yet is checked each time.
    let mut buffer = Buffer::archive(&frame()).expect("a buffer");
    assert!(buffer.access::<Frame>().is_ok());
    buffer.bytes_mut().expect("a fresh buffer").fill(0xff);
    assert!(matches!(buffer.access::<Frame>(), Err(BufferError::Invalid { .. })));
    let nothing = Buffer::new(0).expect("a buffer");
    assert!(nothing.access::<Frame>().is_err());
    assert!(Buffer::archive(&()).expect("a buffer").access::<()>().is_ok());
}

#[test]
fn a_type_of_the_same_shape_is_no_licence_for_another() {
    let buffer = Buffer::archive(&2u8).expect("a buffer");
    let carrier = channel();
    carrier.port1.post_text_with("a byte", [buffer.into()]).expect("room");
    let buffer = receive(&carrier.port2).take_buffer().expect("a buffer");
    assert_eq!(*buffer.access::<u8>().expect("a byte"), 2);
    assert!(buffer.access::<bool>().is_err(), "2 is no bool, whatever was checked before");
}

#[test]
fn a_buffer_outlives_its_event_its_ports_and_its_maker() {
    const TEST: &str = "buffers::a_buffer_outlives_its_event_its_ports_and_its_maker";
    fn maker() {
        let port = parent_port().expect("a port to the parent");
        let buffer = Buffer::archive(&frame()).expect("a buffer");
        port.post_text_with("a frame", [buffer.into()]).expect("room");
    }
    fn taker() {
        let before = Census::take();
        let mut worker = Worker::spawn(command(TEST, "maker")).expect("a worker");
        assert!(worker.wait().expect("a child").success());
        let buffer = receive(worker.port()).take_buffer().expect("a buffer");
        let end = crate::common::receive_end(worker.port());
        assert_eq!(end, CloseReason::PeerDropped);
        drop(worker);
        let found = buffer.access::<Frame>().expect("a frame");
        let found = rkyv::deserialize::<Frame, rkyv::rancor::Error>(found).expect("a frame");
        assert_eq!(found, frame());
        drop(buffer);
        before.wait_for("at the end");
    }
    play(TEST, &[("taker", taker), ("maker", maker)]);
}

#[test]
fn a_buffer_of_256_mebibytes_moves() {
    fn mover() {
        const LEN: usize = 256 << 20;
        let available = std::fs::read_to_string(proc("meminfo")).expect("memory");
        let line = available.lines().find(|line| line.starts_with("MemAvailable:"));
        let kib: u64 =
            line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0);
        if kib < 1 << 20 {
            return skip("less than a gibibyte of memory");
        }
        let before = Census::take();
        let carrier = channel();
        let mut buffer = Buffer::new(LEN).expect("a buffer");
        let bytes = buffer.bytes_mut().expect("a fresh buffer");
        (bytes[0], bytes[LEN / 2], bytes[LEN - 1]) = (1, 2, 3);
        carrier.port1.post_text_with("large", [buffer.into()]).expect("room");
        let buffer = receive(&carrier.port2).take_buffer().expect("a buffer");
        assert_eq!((buffer.len(), buffer[0], buffer[LEN / 2], buffer[LEN - 1]), (LEN, 1, 2, 3));
        drop((buffer, carrier));
        before.wait_for("at the end");
    }
    play("buffers::a_buffer_of_256_mebibytes_moves", &[("mover", mover)]);
}

#[test]
fn a_buffer_that_cannot_be_made_is_an_error() {
    fn maker() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let before = Census::take();
        // More than any address space.
        assert!(Buffer::new(1 << 60).is_err());
        assert!(Buffer::new(i64::MAX as usize).is_err());
        // More than any file.
        for len in [i64::MAX as usize + 1, usize::MAX - 1, usize::MAX] {
            let errors = [Buffer::new(len).map(drop), Buffer::writer(len).map(drop)];
            for error in errors.map(|answer| answer.expect_err("no file is as long")) {
                let is_told = matches!(&error, BufferError::TooLarge { len: told, allowed }
                    if *told == len as u64 && *allowed < len as u64);
                assert!(is_told && error.to_string().contains("make a smaller one"), "{error}");
            }
        }
        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("a limit");
        setrlimit(Resource::RLIMIT_FSIZE, 10_000, hard).expect("a lower limit");
        assert!(Buffer::new(10_000).is_ok());
        let error = Buffer::from_slice(&[1; 10_001]).expect_err("it would raise SIGXFSZ");
        let BufferError::TooLarge { len: 10_001, allowed: 10_000 } = error else {
            panic!("{error}");
        };
        assert!(Buffer::archive(&frame()).is_err());
        before.wait_for("at the end");
    }
    play("buffers::a_buffer_that_cannot_be_made_is_an_error", &[("maker", maker)]);
}

#[test]
fn a_sealed_buffer_moves_twice_by_two_descriptors() {
    let carrier = channel();
    let mut buffer = Buffer::from_slice(b"shared").expect("a buffer");
    buffer.seal().expect("the kernel seals it");
    let second = buffer.as_fd().expect("sealed").try_clone_to_owned().expect("a descriptor");
    carrier.port1.post_text_with("as a descriptor", [second.into()]).expect("room");
    carrier.port1.post_text_with("as a buffer", [buffer.into()]).expect("room");
    let descriptor = receive(&carrier.port2).take_descriptor().expect("a descriptor");
    let buffer = receive(&carrier.port2).take_buffer().expect("a buffer");
    let mut seen = [0; 6];
    File::from(descriptor).read_exact_at(&mut seen, 0).expect("bytes");
    assert_eq!((&seen, &*buffer), (b"shared", &b"shared"[..]));
}

#[test]
fn a_child_that_never_execs_keeps_no_buffer_from_being_sealed() {
    // In a process of its own, whose other descriptors the child does not get.
    fn forks() {
        let mut buffer = Buffer::from_slice(b"ours").expect("a buffer");
        // SAFETY: the child makes no call but this one, and ends by a signal.
        let child = match unsafe { fork() }.expect("a child") {
            ForkResult::Child => loop {
                pause();
            },
            ForkResult::Parent { child } => child,
        };
        let sealed = buffer.seal();
        kill(child, Signal::SIGKILL).expect("it is there");
        waitpid(child, None).expect("it ends");
        sealed.expect("no other code has it");
        assert_eq!(&*buffer, b"ours");
    }
    play(
        "buffers::a_child_that_never_execs_keeps_no_buffer_from_being_sealed",
        &[("forks", forks)],
    );
}
