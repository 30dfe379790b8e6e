//! Buffers that are filled in order, by a `BufferWriter`.

use crate::channel;
use crate::common::census::Census;
use crate::common::receive;
use crate::common::role::{play, skip};
use crate::filter::{When, answer};
use messageport::{Buffer, BufferError, BufferWriter};
use std::io::{ErrorKind, Write};

/// Around pages, around what one call of the kernel writes, and around huge pages.
const LENGTHS: [usize; 10] =
    [0, 1, 4095, 4096, 4097, (256 << 10) - 1, (256 << 10) + 1, 2 << 20, (2 << 20) + 1, 5_000_001];

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 256) as u8).collect()
}

/// What arrives at the other end of a channel is `bytes`, sealed.
#[track_caller]
fn assert_arrives(buffer: Buffer, bytes: &[u8]) {
    assert!(!buffer.is_sealed());
    assert!(*buffer == *bytes, "{} of {} bytes", buffer.len(), bytes.len());
    let carrier = channel();
    carrier.port1.post_text_with("a buffer", [buffer.into()]).expect("room");
    let received = receive(&carrier.port2).take_buffer().expect("a buffer");
    assert!(*received == *bytes && received.is_sealed());
}

#[test]
fn buffers_of_every_length_hold_what_was_written() {
    for len in LENGTHS {
        let bytes = pattern(len);
        for step in [1 << 30, 1000, 300_000, (256 << 10) + 7] {
            let mut writer = Buffer::writer(len).expect("memory");
            for part in bytes.chunks(step) {
                writer.write_all(part).expect("room for all of it");
            }
            assert_eq!((writer.written(), writer.capacity()), (len, len));
            assert_arrives(writer.finish().expect("memory"), &bytes);
        }
    }
}

#[test]
fn chunks_are_filled_in_place_whole_or_in_part() {
    for len in LENGTHS {
        let bytes = pattern(len);
        for most in [usize::MAX, 70_000, 4096 + 1] {
            let mut writer = Buffer::writer(len).expect("memory");
            while writer.written() < len {
                let at = writer.written();
                let chunk = writer.chunk_mut().expect("memory");
                let filled = chunk.len().min(most);
                assert!(filled > 0);
                chunk[..filled].copy_from_slice(&bytes[at..at + filled]);
                writer.advance(filled);
            }
            assert!(writer.chunk_mut().expect("nothing to allocate").is_empty());
            assert_arrives(writer.finish().expect("memory"), &bytes);
        }
    }
}

#[test]
fn both_ways_to_fill_it_go_on_where_the_other_has_stopped() {
    let bytes = pattern(3 << 20);
    let mut writer = Buffer::writer(bytes.len()).expect("memory");
    for (number, part) in bytes.chunks(100_003).enumerate() {
        if number % 2 == 0 {
            writer.write_all(part).expect("room");
            continue;
        }
        let mut rest = part;
        while !rest.is_empty() {
            let chunk = writer.chunk_mut().expect("memory");
            let len = chunk.len().min(rest.len());
            chunk[..len].copy_from_slice(&rest[..len]);
            writer.advance(len);
            rest = &rest[len..];
        }
    }
    assert_arrives(writer.finish().expect("memory"), &bytes);
}

#[test]
fn a_buffer_has_the_bytes_that_were_written_and_no_others() {
    for len in LENGTHS {
        for written in [0, 1, len / 2, len.saturating_sub(1)] {
            let bytes = pattern(written.min(len));
            let mut writer = Buffer::writer(len).expect("memory");
            writer.write_all(&bytes).expect("room");
            // What was lent and not counted is no part of it.
            if let Some(byte) = writer.chunk_mut().expect("memory").first_mut() {
                *byte = 0xee;
            }
            let mut buffer = writer.finish().expect("memory");
            assert_eq!(buffer.len(), bytes.len(), "of at most {len}");
            buffer.bytes_mut().expect("not sealed").copy_from_slice(&bytes);
            assert_arrives(buffer, &bytes);
        }
    }
}

#[test]
fn more_than_its_length_is_refused() {
    for len in [0, 10, 300_000, 3 << 20] {
        let bytes = pattern(len + 1);
        let mut writer = Buffer::writer(len).expect("memory");
        if len > 0 {
            assert_eq!(writer.write(&bytes).expect("what fits"), len);
        }
        assert_eq!(writer.write(&[]).expect("nothing"), 0);
        let error = writer.write(b"x").expect_err("it is full");
        assert_eq!(error.kind(), ErrorKind::WriteZero);
        let inner = error.get_ref().expect("an error of the crate").downcast_ref();
        assert!(matches!(inner, Some(BufferError::Full { capacity }) if *capacity == len));
        assert_arrives(writer.finish().expect("memory"), &bytes[..len]);
    }
    assert!(matches!(Buffer::writer(usize::MAX), Err(BufferError::TooLarge { .. })));
}

#[test]
#[should_panic(expected = "but only 0 were lent")]
fn bytes_that_were_not_lent_cannot_be_counted() {
    Buffer::writer(10).expect("memory").advance(1);
}

#[test]
#[should_panic(expected = "11 bytes were filled, but only 10 were lent")]
fn more_bytes_than_were_lent_cannot_be_counted() {
    let mut writer = Buffer::writer(10).expect("memory");
    writer.chunk_mut().expect("memory");
    writer.advance(11);
}

#[test]
fn memory_that_the_kernel_refuses_is_an_error_and_loses_nothing() {
    fn refused() {
        let before = Census::take();
        let bytes = pattern(600_000);
        let mut gathered = Buffer::writer(bytes.len()).expect("memory");
        gathered.write_all(&bytes[..1000]).expect("nothing is written yet");
        let mut direct = Buffer::writer(bytes.len()).expect("memory");
        if let Err(error) = answer(libc::SYS_pwrite64, When::Always, libc::ENOSPC) {
            return skip(&format!("no seccomp filter here: {error}"));
        }
        #[track_caller]
        fn assert_names_the_call(error: &BufferError) {
            let BufferError::Io(refused) = error else { panic!("{error}") };
            assert_eq!((refused.call, refused.source.kind()), ("pwrite", ErrorKind::StorageFull));
        }
        assert_names_the_call(&Buffer::from_slice(&bytes).expect_err("no memory"));
        let error = direct.write(&bytes).expect_err("no memory");
        assert_names_the_call(error.get_ref().expect("one").downcast_ref().expect("ours"));
        assert_eq!(direct.written(), 0);
        // It gathers what it can, and then fails without having counted more.
        let error = gathered.write_all(&bytes[1000..]).expect_err("no memory");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(gathered.written(), 256 << 10);
        assert_names_the_call(&gathered.chunk_mut().expect_err("still no memory"));
        assert_names_the_call(&gathered.finish().expect_err("still no memory"));
        drop(direct);
        before.wait_for("at the end");
    }
    play(
        "writer::memory_that_the_kernel_refuses_is_an_error_and_loses_nothing",
        &[("refused", refused)],
    );
}

#[test]
fn a_file_size_limit_that_falls_meanwhile_is_an_error_and_no_signal() {
    fn limited() {
        use crate::common::limits::limit_to;
        use nix::sys::resource::Resource;
        let before = Census::take();
        let bytes = pattern(600_000);
        let mut direct = Buffer::writer(bytes.len()).expect("memory");
        let mut gathered = Buffer::writer(bytes.len()).expect("memory");
        gathered.write_all(&bytes[..5_000]).expect("nothing is written yet");
        limit_to(Resource::RLIMIT_FSIZE, 300_000);
        #[track_caller]
        fn assert_too_large(error: &BufferError) {
            let BufferError::TooLarge { allowed: 300_000, .. } = error else { panic!("{error}") };
        }
        let error = direct.write(&bytes).expect_err("it would raise SIGXFSZ");
        assert_too_large(error.get_ref().expect("one").downcast_ref().expect("ours"));
        assert_eq!(direct.written(), 0);
        direct.write_all(&bytes[..300_000]).expect("as much as is allowed");
        limit_to(Resource::RLIMIT_FSIZE, 100_000);
        assert!(*direct.finish().expect("nothing is left to write") == bytes[..300_000]);
        limit_to(Resource::RLIMIT_FSIZE, 300_000);
        // It gathers what it can; what it has gathered is not lost.
        gathered.write_all(&bytes[5_000..500_000]).expect("the second chunk has room");
        gathered.write_all(&bytes[500_000..]).expect_err("it would raise SIGXFSZ");
        let written = gathered.written();
        assert_too_large(&gathered.chunk_mut().expect_err("still"));
        limit_to(Resource::RLIMIT_FSIZE, u64::MAX);
        gathered.write_all(&bytes[written..]).expect("it is allowed again");
        assert!(*gathered.finish().expect("memory") == *bytes);
        before.wait_for("at the end");
    }
    play(
        "writer::a_file_size_limit_that_falls_meanwhile_is_an_error_and_no_signal",
        &[("limited", limited)],
    );
}

#[test]
fn a_writer_goes_to_another_thread() {
    fn is_send<T: Send + Sync>() {}
    is_send::<BufferWriter>();
}
