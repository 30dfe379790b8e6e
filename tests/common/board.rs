//! Words that a test shares with its children apart from any port: what a child wrote there before
//! it was killed is the measure of what must have arrived.
#![allow(unsafe_code)]

use super::proc;
use memmap2::{MmapOptions, MmapRaw};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::AtomicU64;

pub struct Board {
    words: MmapRaw,
    file: File,
}

impl Board {
    /// A board of zeros.
    pub fn new() -> Board {
        let file = tempfile::tempfile().expect("a temporary file");
        file.set_len((WORDS * size_of::<u64>()) as u64).expect("room for some words");
        Board::map(file)
    }

    /// Tells a child where the board is.
    pub fn give(&self, command: &mut Command) {
        let path = proc(format_args!("{}/fd/{}", std::process::id(), self.file.as_raw_fd()));
        command.env(BOARD, path);
    }

    /// The board of the parent.
    pub fn given() -> Board {
        let path = std::env::var(BOARD).expect("the parent gave a board");
        let file = OpenOptions::new().read(true).write(true).open(path).expect("the board");
        Board::map(file)
    }

    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < WORDS);
        // SAFETY: the mapping is longer than that, as was just checked.
        let place = unsafe { self.words.as_mut_ptr().cast::<u64>().add(index) };
        // SAFETY: aligned, as mappings start at a page; it lives as long as `self`, and every
        // process uses these words as atomics only.
        unsafe { AtomicU64::from_ptr(place) }
    }

    fn map(file: File) -> Board {
        let words = MmapOptions::new().map_raw(&file).expect("a mapping of some words");
        assert!(words.len() >= WORDS * size_of::<u64>());
        Board { words, file }
    }
}

const BOARD: &str = "MESSAGEPORT_TEST_BOARD";
const WORDS: usize = 8;
