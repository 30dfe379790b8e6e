//! Room that is reserved for one message, filled by the program, and then posted.
//!
//! The fast path finds its place again when it posts, in registers; a plan that is kept meanwhile
//! goes through memory. So it has a separate slow path, for reserving and for staging.

use super::Sending;
use crate::error::{PostError, SystemError};
use crate::link::payload::{self, Block, Room};
use crate::ring::route::Plan;
use crate::wire::record::{Attached, Format};

/// Room for one message: posting it cannot fail.
#[derive(Debug)]
pub(super) struct Reserved {
    pub place: Place,
    /// Whether the bytes are written in the ring itself.
    pub in_place: bool,
}

/// Where room is reserved. While it is, nothing else is posted, so the contiguous place need not be
/// kept: it is at the producer's cursor.
#[derive(Debug)]
pub(super) enum Place {
    /// Nowhere: it was posted.
    Nowhere,
    /// The contiguous place at the cursor.
    Contiguous,
    Planned(Plan),
}

impl Sending {
    /// Reserves room for a message of `len` bytes.
    #[inline(always)]
    pub(crate) fn reserve(&mut self, len: usize) -> Result<Room, Box<PostError>> {
        // A burst cannot be committed while the loan is open, so it is committed now.
        self.commit();
        let in_place = self.end.is_trusted();
        self.look_after_peer_if_due();
        if !self.posts_may_fail()
            && let Some(plan) = self.producer.plan_fast(len as u64)
            && (in_place || len <= size_of_val(self.scratch.as_slice()))
        {
            (self.reserved.place, self.reserved.in_place) = (Place::Contiguous, in_place);
            return Ok(self.room(&plan, len));
        }
        self.reserve_slow(len, in_place)
    }

    #[cold]
    #[inline(never)]
    fn reserve_slow(&mut self, len: usize, in_place: bool) -> Result<Room, Box<PostError>> {
        self.check_open()?;
        let plan = self.plan(len as u64)?;
        if !in_place && len > size_of_val(self.scratch.as_slice()) {
            self.grow_scratch(len)?;
        }
        self.reserved = Reserved { place: Place::Planned(plan), in_place };
        Ok(self.room(&plan, len))
    }

    #[inline(always)]
    fn room(&mut self, plan: &Plan, len: usize) -> Room {
        match self.reserved.in_place {
            true => Room::in_place(&self.producer, plan, len),
            false => Room::private(&mut self.scratch, len),
        }
    }

    fn grow_scratch(&mut self, len: usize) -> Result<(), PostError> {
        let more = len.div_ceil(size_of::<Block>()) - self.scratch.len();
        self.scratch.try_reserve_exact(more).map_err(|_| SystemError {
            call: "alloc",
            source: std::io::ErrorKind::OutOfMemory.into(),
        })?;
        self.scratch.resize(self.scratch.len() + more, Block::default());
        Ok(())
    }

    /// Posts the first `len` bytes of the reserved room.
    #[inline(always)]
    pub(crate) fn post_reserved(&mut self, len: usize) {
        if let Place::Contiguous = self.reserved.place {
            let plan = self.producer.plan_found_before(len as u64);
            self.copy_reserved(&plan, len);
            self.producer.stage(plan, len as u32, Format::Bytes);
        } else {
            self.stage_reserved_slow(len);
        }
        self.reserved.place = Place::Nowhere;
        self.commit();
    }

    /// Frees the scratch of a long loan, which has ended.
    pub(crate) fn trim_scratch(&mut self) {
        if self.scratch.capacity() * size_of::<Block>() > MOST_SCRATCH {
            self.scratch = Vec::new();
        }
    }

    #[cold]
    #[inline(never)]
    fn stage_reserved_slow(&mut self, len: usize) {
        let Place::Planned(plan) = self.reserved.place else {
            unreachable!("a loan is posted once");
        };
        self.copy_reserved(&plan, len);
        self.stage_slow(plan, len as u32, Format::Bytes, Attached::Nothing);
    }

    #[inline(always)]
    fn copy_reserved(&mut self, plan: &Plan, len: usize) {
        if !self.reserved.in_place {
            let bytes = &payload::blocks_as_bytes(&self.scratch)[..len];
            payload::fill(&self.producer, plan, bytes);
        }
    }
}

/// Bytes of private scratch that are kept from one loan to the next.
pub(crate) const MOST_SCRATCH: usize = 1 << 20;
