//! The shared region from outside, by the picture in `docs/layout.md`: for tests that look at it,
//! and for those that break it as a hostile peer would.
#![allow(unsafe_code)]

use super::census::REGION;
use super::messages::Rng;
use super::proc;
use memmap2::{MmapOptions, MmapRaw};
use messageport::MessagePort;
use std::fmt::Write;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Where the areas start.
pub const AREA: usize = 0x10000;
pub const PAIR_ID: usize = 0x10;
/// Bytes up to the first area that mean something.
pub const HEADER: usize = 0x580;

/// Where the words of a lane are; lane 0 is written by side 0.
pub const fn tail(lane: usize) -> usize {
    LANES[lane]
}

pub const fn head(lane: usize) -> usize {
    LANES[lane] + 0x80
}

pub const fn message_sleeper(lane: usize) -> usize {
    LANES[lane] + 0x100
}

pub const fn room_sleeper(lane: usize) -> usize {
    LANES[lane] + 0x104
}

pub const fn reader_gone(lane: usize) -> usize {
    LANES[lane] + 0x108
}

/// A mapping of a region, beside the port's own.
pub struct Region {
    bytes: MmapRaw,
    pub file: File,
}

impl Region {
    /// The region of a port.
    pub fn of(port: &MessagePort) -> Region {
        let pair = format!("pair: {}", pair_name(port));
        let found = all().into_iter().find(|file| format!("pair: {:032x}", pair_id(file)) == pair);
        Region::map(found.expect("a port holds its region"))
    }

    pub fn map(file: File) -> Region {
        let bytes = MmapOptions::new().map_raw(&file).expect("a region can be mapped");
        Region { bytes, file }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of one lane's area.
    pub fn limit(&self) -> usize {
        (self.len() - AREA) / 2
    }

    /// Offset of a byte of a lane's area.
    pub fn area(&self, lane: usize, offset: usize) -> usize {
        AREA + lane * self.limit() + offset
    }

    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len());
        // SAFETY: inside the mapping, as was just checked.
        let place = unsafe { self.bytes.as_mut_ptr().add(offset) };
        // SAFETY: aligned, as was just checked, and valid as long as `self`. A test that
        // writes there at the same time does so on purpose.
        unsafe { AtomicU64::from_ptr(place.cast()) }
    }

    pub fn half_word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len());
        // SAFETY: inside the mapping, as was just checked.
        let place = unsafe { self.bytes.as_mut_ptr().add(offset) };
        // SAFETY: aligned, as was just checked, and valid as long as `self`.
        unsafe { AtomicU32::from_ptr(place.cast()) }
    }

    /// Writes a record's header as a producer would.
    pub fn write_record(&self, offset: usize, header: u64, detail: u64) {
        self.word(offset).store(header, Relaxed);
        self.word(offset + 8).store(detail, Relaxed);
    }

    /// Bytes of memory that the region takes.
    pub fn memory(&self) -> u64 {
        self.file.metadata().expect("a memfd has a size").blocks() * 512
    }
}

/// First word of a record's header.
pub const fn record(len: u64, kind: u64, format: u64) -> u64 {
    len | kind << 32 | format << 40
}

pub const MESSAGE: u64 = 1;
pub const PADDING: u64 = 2;
pub const JUMP: u64 = 3;
/// A message with small buffers in its record.
pub const SMALL: u64 = 7;

/// Second word of the header of a message with small buffers, in a payload of `len` bytes: mostly
/// of one that looks right.
pub fn small_detail(rng: &mut Rng, len: u64) -> u64 {
    let count = if rng.below(8) == 0 { rng.below(70) } else { 1 + rng.below(4) };
    let bytes = if rng.below(8) == 0 { rng.next() as u32 as u64 } else { rng.below(len + 1) };
    count << 32 | bytes
}

/// In the lowest bits of a tail: how the producer has ended the lane.
pub const CLOSED: u64 = 1;
pub const DROPPED: u64 = 2;
pub const END: u64 = 15;

/// The cursors and flags of every region that this process holds.
pub fn show_all() -> String {
    let mut out = String::new();
    for file in all() {
        let half = |offset: usize| {
            let mut bytes = [0; 4];
            let _ = file.read_exact_at(&mut bytes, offset as u64);
            u32::from_le_bytes(bytes)
        };
        writeln!(out, "region {:032x}", pair_id(&file)).expect("a string takes all");
        for lane in 0..2 {
            writeln!(
                out,
                "  lane {lane}: tail {:#x}, head {:#x}, sleepers: message {}, room {}, gone {}",
                read_word(&file, tail(lane)),
                read_word(&file, head(lane)),
                half(message_sleeper(lane)),
                half(room_sleeper(lane)),
                half(reader_gone(lane)),
            )
            .expect("a string takes all");
        }
    }
    out
}

/// Every region that this process holds, once.
pub fn all() -> Vec<File> {
    let mut seen = Vec::new();
    let mut files = Vec::new();
    for entry in fs::read_dir(proc("self/fd")).expect("a process has descriptors").flatten() {
        let path: PathBuf = entry.path();
        let is_region =
            fs::read_link(&path).is_ok_and(|link| link.to_string_lossy().contains(REGION));
        if !is_region {
            continue;
        }
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { continue };
        let metadata = file.metadata().expect("an open file has an inode");
        // What another test has just made has no bytes yet.
        let is_whole = metadata.len() >= HEADER_LEN;
        if is_whole && !seen.contains(&metadata.ino()) {
            seen.push(metadata.ino());
            files.push(file);
        }
    }
    files
}

fn pair_id(file: &File) -> u128 {
    u128::from(read_word(file, PAIR_ID)) | u128::from(read_word(file, PAIR_ID + 8)) << 64
}

/// The pair's id as the port prints it.
fn pair_name(port: &MessagePort) -> String {
    let text = format!("{port:?}");
    let (_, after) = text.split_once("pair: ").expect("a port prints its pair");
    after.chars().take_while(char::is_ascii_hexdigit).collect()
}

fn read_word(file: &File, offset: usize) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset as u64).expect("a region has a header");
    u64::from_le_bytes(bytes)
}

/// The page before the first area.
const HEADER_LEN: u64 = 4096;
const LANES: [usize; 2] = [0x80, 0x300];
