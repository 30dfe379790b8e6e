//! What memory costs: fresh pages, pages that exist, and the pages of a channel.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapRaw};
use messageport::MessageChannel;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::local::Timed;
use super::shared::{PAGE, fresh_memfd};
use super::workload::Subject;

/// How pages come into being before they are zeroed.
#[derive(Clone, Copy)]
pub enum Pages {
    /// One fault for each page, as the first write touches it.
    Touched,
    /// Made by `MADV_POPULATE_WRITE` in steps of 64 KiB, each zeroed right after.
    Populated,
    /// There already.
    Existing,
}

/// Zeroes `len` bytes of a memfd; `bytes` is only the label that the table compares by.
pub fn zeroing(variant: &str, bytes: usize, len: usize, count: u64, pages: Pages) -> Subject {
    Subject::new(variant, bytes, count, move || Timed(move || zero(len, pages)))
}

fn zero(len: usize, pages: Pages) -> Duration {
    let map = MmapRaw::map_raw(&fresh_memfd(len)).expect("mapping a memfd");
    if matches!(pages, Pages::Existing) {
        write(&map, 0, len, 0xff);
    }
    let start = Instant::now();
    for offset in (0..len).step_by(STEP) {
        let step = STEP.min(len - offset);
        if matches!(pages, Pages::Populated) {
            populate(&map, offset, step);
        }
        write(&map, offset, step, 0);
    }
    let elapsed = start.elapsed();
    assert_eq!([first(&map, 0), first(&map, len - PAGE)], [0, 0]);
    elapsed
}

fn write(map: &MmapRaw, offset: usize, len: usize, byte: u8) {
    assert!(offset + len <= map.len());
    // SAFETY: the offset is inside the mapping, as asserted.
    let at = unsafe { map.as_mut_ptr().add(offset) };
    // SAFETY: so are `len` bytes from there, and no other code has this memory.
    unsafe { at.write_bytes(byte, len) };
}

fn first(map: &MmapRaw, offset: usize) -> u8 {
    assert!(offset < map.len());
    // SAFETY: the offset is inside the mapping, as asserted.
    let at = unsafe { map.as_ptr().add(offset) };
    // SAFETY: so is the byte there.
    unsafe { at.read_volatile() }
}

fn populate(map: &MmapRaw, offset: usize, len: usize) {
    map.advise_range(Advice::PopulateWrite, offset, len).expect("MADV_POPULATE_WRITE");
}

/// Bytes of memory that all channels of this process occupy now.
pub fn channel_memory() -> u64 {
    let mut seen = HashSet::new();
    descriptors()
        .filter(|path| {
            let target = fs::read_link(path).unwrap_or_default();
            target.to_string_lossy().contains("memfd:messageport")
        })
        .filter_map(|path| fs::metadata(path).ok())
        .filter(|metadata| seen.insert(metadata.ino()))
        .map(|metadata| metadata.blocks() * BLOCK)
        .sum()
}

/// What idle pairs take in all, each: bytes of the heap, of shared memory, of page tables, and of
/// the kernel's objects.
///
/// Differences before and after making many, from `mallinfo2`, the blocks of the memfds, `VmPTE` of
/// `/proc/self/status`, and `Slab` of `/proc/meminfo`, which other processes change as well.
pub fn idle_pairs(count: u64, make: impl Fn() -> MessageChannel) -> [u64; 4] {
    let now = || {
        // SAFETY: it takes nothing, and returns a struct of numbers.
        let heap = unsafe { libc::mallinfo2() };
        let in_use = (heap.uordblks + heap.hblkhd) as u64;
        let tables = kibibytes("/proc/self/status", "VmPTE:");
        [in_use, channel_memory(), tables, kibibytes("/proc/meminfo", "Slab:")]
    };
    // What a process does once for all of its channels is not a channel's.
    drop(make());
    let before = now();
    let pairs: Vec<_> = (0..count).map(|_| make()).collect();
    let after = now();
    drop(pairs);
    [0, 1, 2, 3].map(|index| after[index].saturating_sub(before[index]) / count)
}

/// How many pairs this process may have, once its soft limit of descriptors is its hard one.
pub fn room_for_pairs() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits can be read");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a soft limit can be raised");
    // Five descriptors a pair, and some for everything else.
    hard.saturating_sub(100) / 5
}

/// Bytes that a line of a file of the kernel says in KiB.
fn kibibytes(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).expect("a file of the kernel");
    let line = text.lines().find(|line| line.starts_with(name)).expect("a line of that name");
    let number = line.split_ascii_whitespace().nth(1).expect("a number");
    number.parse::<u64>().expect("a number") << 10
}

/// Makes the kernel objects of a pair: a sealed, sparse memfd with its mapping, two
/// socket pairs, and a second descriptor of the memory. Returns how long that took, and them.
pub fn bare_pair() -> (Duration, impl Sized) {
    let start = Instant::now();
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"bare", flags).expect("memfd_create"));
    file.set_len(REGION).expect("length of a memfd");
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("sealing");
    let second = file.try_clone().expect("a second descriptor");
    let map = MmapRaw::map_raw(&file).expect("mapping a memfd");
    write(&map, 0, PAGE, 0);
    let bell = UnixStream::pair().expect("a stream socket pair");
    let packets =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .expect("a packet socket pair");
    (start.elapsed(), (file, second, map, bell, packets))
}

/// Number of open descriptors of this process, the one that reads the list included.
pub fn descriptor_count() -> usize {
    descriptors().count()
}

fn descriptors() -> impl Iterator<Item = std::path::PathBuf> {
    let list = fs::read_dir("/proc/self/fd").expect("/proc/self/fd");
    list.filter_map(|entry| Some(entry.ok()?.path()))
}

/// Two lanes of the default limit and a header.
const REGION: u64 = (128 << 20) + PAGE as u64;
const STEP: usize = 64 << 10;
/// Unit of `st_blocks`, whatever the file system's own is.
const BLOCK: u64 = 512;
