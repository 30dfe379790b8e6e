//! The slots of a pool between ends that do not trust each other: only their maker can write them.
//!
//! They are in a file of their own. The maker maps it, and then seals it so that no process can map
//! it for writing again, write to it, or free its pages. So the maker has its slots for itself. The
//! other end reads what the maker may still change, so it gets copies only.
//!
//! The counts are in another file, which both ends write. The maker believes them only about slots
//! that it has handed over.

use crate::error::{BufferError, Corruption, SystemError};
use crate::os::mapping::{self, Mapping};
use crate::os::memfd::{self, MemfdInfo};
use crate::ring::handover;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;

/// The mapped slots, at one of the two ends.
pub(crate) struct Frames {
    mapping: Mapping,
    /// At the maker's end: whether a slot is not in the maker's hands. The peer cannot write this.
    handed: Vec<AtomicBool>,
}

impl Frames {
    /// Makes the slots, `total` bytes together, and the descriptor by which the peer reads them.
    pub(crate) fn create(slots: u32, total: u64) -> Result<(Frames, OwnedFd), BufferError> {
        let descriptor = memfd::create(total)?;
        let mapping = Mapping::new(&descriptor, total)?;
        mapping.advise_huge_pages();
        mapping.populate(0..total)?;
        memfd::seal_for_others(&descriptor)?;
        let handed = (0..slots).map(|_| AtomicBool::new(true)).collect();
        Ok((Frames { mapping, handed }, descriptor))
    }

    /// Checks and maps the slots of a peer, which need not be trusted.
    pub(crate) fn open(descriptor: impl AsFd, total: u64) -> Result<Frames, FramesError> {
        let descriptor = descriptor.as_fd();
        // It fails only for a file that is not ours.
        let found = match memfd::examine(descriptor) {
            Ok(MemfdInfo { keeps_pages: true, plain_memory: true, len, allocated, .. })
                if allocated >= len =>
            {
                len
            }
            _ => 0,
        };
        if found != total {
            let what = "bytes of a pool's frames, sealed and without holes";
            return Err(FramesError::Corrupt(Corruption::unequal(what, found, total)));
        }
        // The file's own count includes pages beyond its end.
        let there = mapping::bytes_with_memory(descriptor, total)?.unwrap_or(total);
        if there < total {
            let what = "bytes of a pool's frames that have memory";
            return Err(FramesError::Corrupt(Corruption::unequal(what, there, total)));
        }
        let mapping = Mapping::read_only(descriptor, total)?;
        mapping.advise_huge_pages();
        Ok(Frames { mapping, handed: Vec::new() })
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Takes a slot for the maker, unless the maker has it, whatever the peer says.
    pub(crate) fn take(&self, slot: u32) -> bool {
        handover::take_request(&self.handed[slot as usize])
    }

    /// Whether the maker has the slot.
    pub(crate) fn is_held(&self, slot: u32) -> bool {
        !handover::has_request(&self.handed[slot as usize])
    }

    /// The slot is no longer in the maker's hands.
    pub(crate) fn hand_over(&self, slot: u32) {
        if let Some(handed) = self.handed.get(slot as usize) {
            handover::request(handed);
        }
    }
}

/// Why the slots of a peer were not mapped.
#[derive(Debug)]
pub(crate) enum FramesError {
    /// No end of this version sends such a file.
    Corrupt(Corruption),
    /// The kernel refused.
    System,
}

impl From<SystemError> for FramesError {
    fn from(_: SystemError) -> FramesError {
        FramesError::System
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: u64 = 3 * 4096;

    #[test]
    fn only_the_maker_can_write_the_slots_and_they_keep_their_pages() {
        let (_frames, descriptor) = Frames::create(3, TOTAL).expect("small frames");
        let read_write = Mapping::new(&descriptor, TOTAL);
        assert!(read_write.is_err(), "mapped for writing a second time");
        assert!(nix::sys::uio::pwrite(&descriptor, b"x", 0).is_err());
        let flags = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
            | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        assert!(nix::fcntl::fallocate(&descriptor, flags, 0, 4096).is_err(), "a hole");
        assert!(nix::unistd::ftruncate(&descriptor, 0).is_err());
        Frames::open(&descriptor, TOTAL).expect("what this crate makes is accepted");
    }

    #[test]
    fn f31_other_files_are_no_frames() {
        let is_refused = |descriptor: &OwnedFd| {
            matches!(Frames::open(descriptor, TOTAL), Err(FramesError::Corrupt(_)))
        };
        let (_frames, other_length) = Frames::create(3, 2 * TOTAL).expect("small frames");
        assert!(is_refused(&other_length));
        let unsealed = memfd::create(TOTAL).expect("a memfd");
        nix::sys::uio::pwrite(&unsealed, &[1; TOTAL as usize], 0).expect("pages");
        assert!(is_refused(&unsealed));
        let fixed = memfd::create_sealed(TOTAL).expect("a memfd");
        Mapping::new(&fixed, TOTAL).expect("a mapping").populate(0..TOTAL).expect("pages");
        assert!(is_refused(&fixed), "its pages could be freed under the reader");
        let holes = memfd::create(TOTAL).expect("a memfd");
        nix::sys::uio::pwrite(&holes, &[1; 4096], 0).expect("a page");
        memfd::seal_for_others(&holes).expect("seals");
        // Reading it would cost memory. Each kernel tells how much all of a file has.
        match Frames::open(&holes, TOTAL) {
            Err(FramesError::Corrupt(why)) => assert!(why.to_string().contains("without holes")),
            _ => panic!("a file with holes was accepted"),
        }
        let elsewhere = memfd::create(TOTAL).expect("a memfd");
        nix::sys::uio::pwrite(&elsewhere, &[1; 4096], 0).expect("a page");
        let beyond = nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        nix::fcntl::fallocate(&elsewhere, beyond, TOTAL as i64, TOTAL as i64).expect("pages");
        let told = mapping::bytes_with_memory(&elsewhere, TOTAL).expect("it may be written");
        memfd::seal_for_others(&elsewhere).expect("seals");
        // Before Linux 6.5 the kernel does not tell where a file's pages are.
        assert_eq!(is_refused(&elsewhere), told.is_some(), "it has as many pages, beyond its end");
    }
}
