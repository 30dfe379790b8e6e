//! Buffers without a port: what of a peer's memory is refused, and where the pages are.

use super::*;
use crate::os::mapping::tests::asks_for_huge_pages;
use crate::os::mapping::{HUGE_PAGE, bytes_with_memory, page_size};
use nix::fcntl::{FallocateFlags, fallocate};
use std::ptr::NonNull;

/// Bytes of a buffer that is not small: three pages.
fn len() -> u64 {
    3 * page_size()
}

/// What an honest peer sends, unless the test changes it.
fn filled(pages: u64) -> OwnedFd {
    let file = memfd::create(len()).expect("a memfd");
    memfd::write_all(&file, &vec![7; (pages * page_size()) as usize], 0).expect("pages");
    file
}

fn frozen(file: OwnedFd) -> OwnedFd {
    memfd::freeze(&file).expect("the kernel seals it");
    file
}

fn import(file: &OwnedFd, len: u64, is_trusted: bool) -> Result<Buffer, String> {
    let file = Foreign::new(file.try_clone().expect("a descriptor"), None);
    Buffer::import(file, len, is_trusted).map_err(|(error, _)| error.to_string())
}

#[test]
fn f31_only_memory_that_is_sealed_and_whole_is_a_buffer() {
    let honest = frozen(filled(3));
    let fixed = memfd::create_sealed(len()).expect("a memfd");
    memfd::write_all(&fixed, &vec![7; len() as usize], 0).expect("pages");
    let holes = frozen(filled(2));
    for is_trusted in [false, true] {
        let buffer = import(&honest, len(), is_trusted).expect("an honest buffer");
        assert!(buffer.len() as u64 == len() && buffer.iter().all(|byte| *byte == 7));
        for (file, len, why) in [
            (&filled(3), len(), "seals"),
            (&fixed, len(), "seals"),
            (&honest, len() - 1, "another length"),
            (&holes, len(), "holes"),
        ] {
            let text = import(file, len, is_trusted).expect_err(why);
            assert!(text.contains(why), "{why}: {text}");
        }
    }
}

/// The peer is trusted to send none.
#[test]
fn f31_pages_behind_the_end_do_not_stand_for_those_that_lack() {
    let file = filled(2);
    let (from, flags) = (len() as i64, FallocateFlags::FALLOC_FL_KEEP_SIZE);
    fallocate(&file, flags, from, from).expect("pages");
    let told = bytes_with_memory(&file, len()).expect("it may be written");
    let file = frozen(file);
    assert!(import(&file, len(), true).is_ok());
    // Before Linux 6.5 the kernel does not tell where a file's pages are.
    assert_eq!(import(&file, len(), false).is_err(), told.is_some());
}

#[test]
fn a_fresh_buffer_has_all_of_its_pages() {
    for pages in [2, 3] {
        let buffer = Buffer::new((pages * page_size()) as usize - 1).expect("memory");
        let file = buffer.file.file();
        assert_eq!(memfd::allocated(file).expect("a file"), pages * page_size());
    }
}

#[test]
fn huge_pages_are_asked_for_where_one_fits() {
    for (len, fits) in [(HUGE_PAGE as usize, true), (len() as usize, false)] {
        let mut buffer = Buffer::new(len).expect("memory");
        let start = |buffer: &Buffer| NonNull::from(&**buffer).cast();
        asks_for_huge_pages(start(&buffer), fits);
        buffer.seal().expect("the kernel seals it");
        let file = buffer.file.file();
        asks_for_huge_pages(start(&import(file, len as u64, true).expect("a buffer")), fits);
    }
}
