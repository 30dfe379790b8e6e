//! A sealed memfd, its checked header, and the only typed pointers into shared memory.
#![allow(unsafe_code)]

use crate::error::{AttachError, ChannelError, Corruption, SystemError};
use crate::os::mapping::Mapping;
use crate::os::reaper::Foreign;
use crate::os::{long_random_number, memfd};
use crate::ring::memory::Memory;
use crate::ring::segment::Geometry;
use crate::sync::Ordering::Relaxed;
use crate::wire::layout::{
    AREA_OFFSET, DeclaredType, FEATURES, Identity, MAGIC, MAX_LIMIT, MIN_CAPACITY, RegionHeader,
    SHAPE_ROOM, VERSION, payload_format, region_len,
};
use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

/// The memory of one pair.
///
/// INVARIANT (mapping): `mapping` has `region_len(geometry.limit())` bytes and lives as long as
/// `self`; its file is sealed, so its length cannot change.
pub(crate) struct Region {
    mapping: Mapping,
    memfd: OwnedFd,
    geometry: Geometry,
    schema: u64,
    pair_id: u128,
    object: OnceLock<(u64, u64)>,
    /// Another process may have an end.
    is_shared: AtomicBool,
}

impl Region {
    /// Creates a region: one page of memory until something is posted.
    pub(crate) fn create(
        capacity: u64,
        limit: u64,
        schema: u64,
    ) -> Result<Arc<Region>, ChannelError> {
        let needed = region_len(limit);
        let allowed = memfd::file_size_limit()?;
        if allowed < needed {
            return Err(ChannelError::ResourceLimit { resource: "RLIMIT_FSIZE", allowed, needed });
        }
        let memfd = memfd::create_sealed(needed)?;
        let mapping = match Mapping::new(&memfd, needed) {
            Ok(mapping) => mapping,
            Err(error) => {
                let allowed = memfd::address_space_limit()?;
                let too_low = allowed != libc::RLIM_INFINITY
                    && error.source.raw_os_error() == Some(libc::ENOMEM);
                let resource = "RLIMIT_AS";
                return Err(match too_low {
                    true => ChannelError::ResourceLimit { resource, allowed, needed },
                    false => error.into(),
                });
            }
        };
        mapping.populate(0..size_of::<RegionHeader>() as u64).map_err(|error| {
            match error.source.raw_os_error() {
                Some(libc::EINVAL) => ChannelError::KernelTooOld { missing: "MADV_POPULATE_WRITE" },
                _ => error.into(),
            }
        })?;
        let geometry = Geometry::new(capacity, limit);
        let pair_id = long_random_number();
        let object = OnceLock::new();
        let is_shared = AtomicBool::new(false);
        let region = Region { mapping, memfd, geometry, schema, pair_id, object, is_shared };
        region.write_identity();
        Ok(Arc::new(region))
    }

    /// Maps a region that another process made, once everything about it was checked.
    ///
    /// `capacity`, `limit` and `schema` are what the other side announced with the descriptor; the
    /// header must agree. Header words are loaded once, here, and never again. On failure the
    /// descriptor is returned: there may be address space or memory for it later.
    pub(crate) fn attach(
        memfd: Foreign,
        capacity: u64,
        limit: u64,
        schema: u64,
    ) -> Result<Arc<Region>, (AttachError, Foreign)> {
        match Region::map(&memfd, capacity, limit) {
            Ok((mapping, geometry, object)) => {
                // It was found to be plain memory.
                let memfd = memfd.into_owned();
                let (object, is_shared) = (object.into(), AtomicBool::new(true));
                let mut region =
                    Region { mapping, memfd, geometry, schema, pair_id: 0, object, is_shared };
                match region.check_identity() {
                    Ok(pair_id) => region.pair_id = pair_id,
                    Err(error) => return Err((error, Foreign::new(region.memfd, None))),
                }
                Ok(Arc::new(region))
            }
            Err(error) => Err((error, memfd)),
        }
    }

    /// Another process will have an end from now on.
    pub(crate) fn mark_shared(&self) {
        // Relaxed: what that process sends comes later, through the kernel.
        self.is_shared.store(true, Relaxed);
    }

    /// Whether another process may have an end.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared.load(Relaxed)
    }

    fn map(
        memfd: &Foreign,
        capacity: u64,
        limit: u64,
    ) -> Result<(Mapping, Geometry, (u64, u64)), AttachError> {
        let geometry = check_geometry(capacity, limit)?;
        let nature = memfd::examine(memfd)?;
        if !nature.sealed {
            let what = "the region lacks seals, or is no memfd";
            return Err(AttachError::NotAPort { what });
        }
        if !nature.plain_memory {
            return Err(AttachError::NotAPort { what: "the region is not on tmpfs" });
        }
        if nature.len != region_len(limit) {
            let corruption = Corruption::unequal("region length", nature.len, region_len(limit));
            return Err(AttachError::Corrupt(corruption));
        }
        let mapping = Mapping::new(memfd, nature.len)?;
        // A hole here would allocate one page; a header in a hole is zero and refused.
        mapping.populate(0..size_of::<RegionHeader>() as u64)?;
        Ok((mapping, geometry, nature.identity))
    }

    /// Takes back what a side has declared: its next owner has types of its own, or none.
    pub(crate) fn withdraw_types(&self, side: usize) {
        for posts in [true, false] {
            self.declared(Declared::new(side, posts)).withdraw();
        }
    }

    /// The shared memory of one direction: 0 from side 0 to side 1, 1 back.
    pub(crate) fn lane(self: &Arc<Self>, lane: usize) -> Memory {
        let header = offset_of!(RegionHeader, lanes) + lane * size_of_lane();
        let area = self.area(lane);
        // SAFETY: (mapping) both offsets lie in the mapping, whose start is page-aligned, and the
        // layout's assertions make the first one aligned for its type. The region, which is the
        // owner, keeps the mapping; only atomics refer to it.
        unsafe {
            Memory::new(
                self.at(header as u64).cast(),
                self.at(area.start),
                area.end - area.start,
                self.clone(),
            )
        }
    }

    /// Allocates the pages of some bytes of a lane's area.
    pub(crate) fn populate(&self, lane: usize, bytes: Range<u64>) -> Result<(), SystemError> {
        let start = self.area(lane).start;
        self.mapping.populate(start + bytes.start..start + bytes.end)
    }

    /// Frees the pages that lie wholly inside some bytes of a lane's area.
    ///
    /// # Safety
    /// The bytes must be this end's as the lane's producer: free, and not borrowed by a loan.
    pub(crate) unsafe fn remove(&self, lane: usize, bytes: Range<u64>) -> Result<u64, SystemError> {
        let start = self.area(lane).start;
        // SAFETY: free bytes of a ring are not needed, and only a loan borrows the producer's.
        unsafe { self.mapping.remove(start + bytes.start..start + bytes.end) }
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(crate) fn schema(&self) -> u64 {
        self.schema
    }

    pub(crate) fn pair_id(&self) -> u128 {
        self.pair_id
    }

    /// Identifies the pair reliably, unlike the number in the header, which the peer can write.
    /// Asks the kernel once.
    pub(crate) fn object(&self) -> Result<(u64, u64), SystemError> {
        if let Some(&known) = self.object.get() {
            return Ok(known);
        }
        let found = memfd::identity(&self.memfd)?;
        Ok(*self.object.get_or_init(|| found))
    }

    /// The descriptor of the memory.
    pub(crate) fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    fn area(&self, lane: usize) -> Range<u64> {
        let limit = self.geometry.limit();
        let start = AREA_OFFSET + lane as u64 * limit;
        start..start + limit
    }

    fn at(&self, offset: u64) -> NonNull<u8> {
        mapped(&self.mapping, offset, 1)
    }

    fn identity(&self) -> &Identity {
        // SAFETY: (mapping) the header lies at the start of the page-aligned mapping, and consists
        // of atomics, so a shared reference is right even if another process writes.
        unsafe { self.at(0).cast::<Identity>().as_ref() }
    }

    /// What a side has declared about the messages of a lane.
    #[inline(always)]
    pub(crate) fn declared(&self, of: Declared) -> &DeclaredType {
        // SAFETY: as for `identity`: a region is longer than its header, which consists of atomics.
        let header = unsafe { self.mapping.start().cast::<RegionHeader>().as_ref() };
        &header.types[usize::from(of.0 & 3)]
    }

    // Relaxed, all: no other process has the descriptor yet; handing it over orders what is here.
    fn write_identity(&self) {
        let identity = self.identity();
        identity.version.store(VERSION, Relaxed);
        identity.features.store(FEATURES, Relaxed);
        identity.pair_id[0].store(self.pair_id as u64, Relaxed);
        identity.pair_id[1].store((self.pair_id >> 64) as u64, Relaxed);
        identity.format.store(payload_format(), Relaxed);
        identity.schema.store(self.schema, Relaxed);
        identity.capacity.store(self.geometry.capacity(), Relaxed);
        identity.limit.store(self.geometry.limit(), Relaxed);
        identity.magic.store(MAGIC, Relaxed);
    }

    /// Compares the header with what this program supports and with what was agreed.
    ///
    /// Relaxed, all: each word is loaded once, and its value is checked, whenever it was written.
    fn check_identity(&self) -> Result<u128, AttachError> {
        let identity = self.identity();
        if identity.magic.load(Relaxed) != MAGIC {
            return Err(AttachError::NotAPort { what: "the region does not begin with the magic" });
        }
        let version = u64::from(identity.version.load(Relaxed));
        let features = u64::from(identity.features.load(Relaxed));
        let wanted = [
            ("layout version", version, u64::from(VERSION)),
            ("set of features", features, u64::from(FEATURES)),
            ("payload format", identity.format.load(Relaxed), payload_format()),
            ("schema", identity.schema.load(Relaxed), self.schema),
            ("capacity", identity.capacity.load(Relaxed), self.geometry.capacity()),
            ("limit", identity.limit.load(Relaxed), self.geometry.limit()),
        ];
        for (what, found, expected) in wanted {
            if found != expected {
                return Err(AttachError::Incompatible { what, found, expected });
            }
        }
        let [low, high] = [&identity.pair_id[0], &identity.pair_id[1]].map(|id| id.load(Relaxed));
        Ok(u128::from(low) | u128::from(high) << 64)
    }
}

/// Which of a region's four declared types is meant: its place in the header, at most 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Declared(u8);

impl Declared {
    /// What a side, 0 or 1, declares about the messages that it posts, or receives.
    ///
    /// A side produces the lane of its own number; the producer's declaration is the first one of
    /// its lane.
    pub(crate) const fn new(side: usize, posts: bool) -> Declared {
        let (lane, role) = if posts { (side & 1, 0) } else { (1 - (side & 1), 1) };
        Declared((2 * lane + role) as u8)
    }

    /// What the other end declares about the same lane.
    pub(crate) const fn other(self) -> Declared {
        Declared(self.0 ^ 1)
    }
}

impl DeclaredType {
    // Relaxed, all of these. A message is posted after its type was declared, and so is seen after
    // it. A text that is read while it is written does not have its fingerprint, which its reader
    // compares.

    /// The fingerprint, or 0.
    #[inline(always)]
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint.load(Relaxed)
    }

    /// Declares a type.
    pub(crate) fn declare(&self, fingerprint: u64, text: &str) {
        self.withdraw();
        self.shape_len.store(text.len() as u64, Relaxed);
        for (word, bytes) in self.shape.iter().zip(text.as_bytes().chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(padded), Relaxed);
        }
        self.fingerprint.store(fingerprint, Relaxed);
    }

    /// Takes the declaration back.
    pub(crate) fn withdraw(&self) {
        self.fingerprint.store(0, Relaxed);
    }

    /// A copy of the text, as far as there was room for it, and whether that is all of it.
    pub(crate) fn text(&self) -> (Vec<u8>, bool) {
        let len = self.shape_len.load(Relaxed);
        let room = SHAPE_ROOM as u64;
        let mut text: Vec<u8> =
            self.shape.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
        text.truncate(len.min(room) as usize);
        (text, len <= room)
    }
}

/// Where some bytes of a mapping are.
///
/// # Panics
/// If they lie outside.
pub(crate) fn mapped(mapping: &Mapping, offset: u64, len: u64) -> NonNull<u8> {
    assert!(offset <= mapping.len() && len <= mapping.len() - offset, "outside the mapping");
    // SAFETY: just checked.
    unsafe { mapping.start().add(offset as usize) }
}

/// Checks that received numbers are a geometry.
fn check_geometry(capacity: u64, limit: u64) -> Result<Geometry, AttachError> {
    let wrong = if capacity < MIN_CAPACITY {
        Corruption::too_small("capacity", capacity, MIN_CAPACITY)
    } else if !capacity.is_power_of_two() {
        Corruption::unknown("capacity", capacity)
    } else if limit > MAX_LIMIT {
        Corruption::new("limit", limit, MAX_LIMIT)
    } else if limit < capacity {
        Corruption::too_small("limit", limit, capacity)
    } else if !limit.is_power_of_two() {
        Corruption::unknown("limit", limit)
    } else {
        // It has few enough segments, by these bounds: see the assertions of the layout.
        return Ok(Geometry::new(capacity, limit));
    };
    Err(AttachError::Corrupt(wrong))
}

const fn size_of_lane() -> usize {
    size_of::<crate::wire::layout::LaneHeader>()
}

#[cfg(all(test, not(miri)))]
mod tests;
