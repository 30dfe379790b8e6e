//! Writing a message into the ring and staging it: values, whose length is known only afterwards,
//! and bytes.

use super::Sending;
use crate::error::PostError;
use crate::link::payload::{self, Post};
use crate::link::trace;
use crate::ring::route::Plan;
use crate::wire::record::{Attached, Format, Header, MOST_IN_HEADER, is_short_len};
use rkyv::rancor;
use std::num::NonZeroU64;
use std::time::Instant;

impl Sending {
    /// Serialises `value` into the ring and stages it; `commit` publishes.
    #[inline(always)]
    pub(crate) fn stage_value<T: Post>(&mut self, value: &T) -> Result<(), PostError> {
        // Fast path: there is contiguous room, and all of the value fits.
        self.look_after_peer_if_due();
        let mut len = None;
        if const { payload::may_be_short::<T>() }
            && self.last_len <= MOST_IN_HEADER
            && self.stage_short_value(value)
        {
            return Ok(());
        }
        if !self.posts_may_fail()
            && let Some(grant) = self.producer.open_grant(self.wish())
        {
            match payload::serialize_in(value, &grant, &mut self.arena) {
                Ok(written) if written <= grant.payload_len() => {
                    let record = grant.seal(written, Format::Archive);
                    self.last_len = written;
                    self.producer.stage_fast(record, written as u32);
                    return Ok(());
                }
                Ok(written) => len = NonZeroU64::new(written),
                Err(error) => {
                    let plan = self.producer.plan_open_fast(self.wish());
                    return Err(self.not_serialized(plan.as_ref(), error));
                }
            }
        }
        self.write_value(value, len, |sending, plan, len| {
            sending.producer.stage(plan, len, Format::Archive);
        })
    }

    /// Fast path: stages the value if it fits the header of its record. Returns whether it did.
    #[inline(always)]
    fn stage_short_value<T: Post>(&mut self, value: &T) -> bool {
        if self.posts_may_fail() {
            return false;
        }
        let Some(grant) = self.producer.grant(0) else { return false };
        match payload::serialize_short(value, &grant, &mut self.arena) {
            Ok(written) if is_short_len(written) => {
                let record = grant.seal_written_short(written as u32, Format::Archive);
                self.last_len = written;
                self.producer.stage_fast(record, written as u32);
                true
            }
            // Once more, with room behind the header: that may fail, and wipes only what is there.
            _ => {
                grant.wipe_short();
                false
            }
        }
    }

    /// Serialises `value` into the place of its record, and calls `then` with its plan and length.
    /// `len`: what the value needs, if the fast path had too little room. It is not zero then, and
    /// so takes one register.
    #[cold]
    #[inline(never)]
    pub(super) fn write_value<T: Post, R>(
        &mut self,
        value: &T,
        len: Option<NonZeroU64>,
        then: impl FnOnce(&mut Sending, Plan, u32) -> R,
    ) -> Result<R, PostError> {
        let (plan, len) = match len {
            // The same place as in the fast path.
            Some(len) => (self.producer.plan_open_fast(self.wish()), len.get()),
            None => {
                let wish = self.wish();
                self.check_open()?;
                let open = self.producer.plan_open(wish);
                let open = open.map_err(|refusal| self.refused(refusal, wish))?;
                if let Some(plan) = &open {
                    self.prefault.ensure(plan, self.producer.cursor())?;
                }
                (open, self.serialize(value, open.as_ref())?)
            }
        };
        let plan = match plan {
            Some(plan) if len <= plan.payload_room() => plan,
            // Once more, as the length is known now.
            begun => {
                let again = self.write_value_of(value, len, begun.as_ref());
                again.inspect_err(|_| self.wipe(begun.as_ref()))?
            }
        };
        self.last_len = len;
        let from = self.producer.cursor().segment;
        let result = then(self, plan, len as u32);
        self.renew_contiguous(from);
        Ok(result)
    }

    /// Serialises a value of `len` bytes, of which a part was written where `begun` says, into the
    /// place of its record.
    fn write_value_of<T: Post>(
        &mut self,
        value: &T,
        len: u64,
        begun: Option<&Plan>,
    ) -> Result<Plan, PostError> {
        let plan = self.plan_elsewhere(len, begun)?;
        let again = self.serialize(value, Some(&plan))?;
        if again == len {
            return Ok(plan);
        }
        self.wipe(Some(&plan));
        let changed = payload::LengthChanged { len, again };
        Err(PostError::Serialize(rancor::Source::new(changed)))
    }

    /// Finds the place of a record of `len` bytes. If it is not where a part was written, that is
    /// wiped: if the post fails later, only the place of the record is.
    pub(super) fn plan_elsewhere(
        &mut self,
        len: u64,
        begun: Option<&Plan>,
    ) -> Result<Plan, PostError> {
        let plan = self.plan(len)?;
        self.wipe(begun.filter(|begun| begun.offset != plan.offset));
        Ok(plan)
    }

    /// How much room to try first for a value: a little more than the last one took, but not so
    /// much that it needs another segment.
    #[inline(always)]
    pub(super) fn wish(&self) -> u64 {
        (self.last_len + self.last_len / 8).clamp(LEAST_WISH, MOST_WISH)
    }

    /// Copies `bytes` into the ring and stages them; `commit` publishes.
    #[cold]
    pub(crate) fn stage_bytes(&mut self, bytes: &[u8], format: Format) -> Result<(), PostError> {
        self.check_open()?;
        if is_short_len(bytes.len() as u64) {
            // Room as for the long form, so that what is refused, waited for and reported is of one
            // length. The fast path takes the last room for a header alone.
            let plan = self.plan(bytes.len() as u64)?;
            let bytes_and_zeros = payload::word_of(bytes).to_ne_bytes();
            let len = bytes.len() as u32;
            self.stage_header(plan, Header::Short { len, format, bytes: bytes_and_zeros });
            return Ok(());
        }
        let plan = self.write_bytes(bytes)?;
        self.stage_slow(plan, bytes.len() as u32, format, Attached::Nothing);
        Ok(())
    }

    /// Fast path: stages the bytes if they fit contiguously. Returns whether they did: a result
    /// that may be an error would go through memory.
    #[inline(always)]
    pub(crate) fn stage_bytes_fast(&mut self, bytes: &[u8], format: Format) -> bool {
        self.look_after_peer_if_due();
        if self.posts_may_fail() {
            return false;
        }
        if is_short_len(bytes.len() as u64) {
            return self.stage_short(bytes, format);
        }
        let Some(grant) = self.producer.grant(bytes.len() as u64) else { return false };
        payload::fill_grant(&grant, bytes);
        let len = bytes.len() as u64;
        let record = grant.seal(len, format);
        self.producer.stage_fast(record, len as u32);
        true
    }

    /// The same, of bytes that fit the header of their record.
    #[inline(always)]
    fn stage_short(&mut self, bytes: &[u8], format: Format) -> bool {
        self.producer.stage_short(bytes.len() as u32, format, payload::word_of(bytes))
    }

    /// Copies bytes into the place of their record; returns its plan.
    #[inline(always)]
    pub(super) fn write_bytes(&mut self, bytes: &[u8]) -> Result<Plan, PostError> {
        let plan = self.plan(bytes.len() as u64)?;
        payload::fill(&self.producer, &plan, bytes);
        Ok(plan)
    }

    /// A place for exactly `len` bytes, with its pages allocated.
    pub(super) fn plan(&mut self, len: u64) -> Result<Plan, PostError> {
        let plan = self.producer.plan(len).map_err(|refusal| self.refused(refusal, len))?;
        self.prefault.ensure(&plan, self.producer.cursor())?;
        Ok(plan)
    }

    /// Slow path of [`Producer::stage`](crate::ring::producer::Producer::stage): stages what was
    /// written where `plan` says, and computes the contiguous room for the next fast path.
    #[inline(always)]
    pub(super) fn stage_slow(&mut self, plan: Plan, len: u32, format: Format, attached: Attached) {
        self.stage_header(plan, Header::Message { len, format, attached });
    }

    #[inline(always)]
    fn stage_header(&mut self, plan: Plan, header: Header) {
        let from = self.producer.cursor().segment;
        self.producer.stage_header(plan, header);
        self.renew_contiguous(from);
    }

    /// Computes the contiguous room if it is used up, after a record that began in segment `from`.
    #[inline(always)]
    fn renew_contiguous(&mut self, from: u32) {
        if !self.producer.has_contiguous() {
            self.renew_contiguous_slow(from);
        }
    }

    #[cold]
    fn renew_contiguous_slow(&mut self, from: u32) {
        let cursor = self.producer.cursor();
        if cursor.segment != from {
            let len = |segment| self.producer.geometry().segment_len(segment);
            trace::changed_segment(&self.end, len(from), len(cursor.segment));
        }
        let mut made = self.prefault.made(cursor.segment);
        if self.end.is_trusted() && self.prefault.is_spread(cursor.segment) {
            self.give_back(from);
            // The next check comes soon, even if messages are few.
            made = made.min(cursor.index(self.producer.geometry()) + LOOK_EVERY);
        }
        self.producer.renew_contiguous(made);
    }

    /// Frees the pages of segments that have been idle.
    ///
    /// Only between trusted ends: the call waits for a lock that a hostile peer could hold. If it
    /// fails the pages stay, which does no harm.
    fn give_back(&mut self, from: u32) {
        // Loads the receiver's position, which decides what is free. A lane with few messages needs
        // no room, so nothing else loads it for long. A wrong one is found again.
        let _ = self.producer.unreleased();
        let in_use = (from, self.producer.cursor().segment);
        let _ = self.prefault.reclaim_idle(&self.producer, in_use, Instant::now());
    }

    /// The value's bytes: written where `plan` says, or only counted.
    #[inline(always)]
    pub(super) fn serialize<T: Post>(
        &mut self,
        value: &T,
        plan: Option<&Plan>,
    ) -> Result<u64, PostError> {
        match payload::serialize(value, &self.producer, plan, &mut self.arena) {
            Ok(len) => Ok(len),
            Err(error) => Err(self.not_serialized(plan, error)),
        }
    }

    /// A value that failed half-way leaves nothing in the ring that the peer could read.
    #[cold]
    fn not_serialized(&self, plan: Option<&Plan>, error: rancor::BoxedError) -> PostError {
        self.wipe(plan);
        PostError::Serialize(error)
    }

    #[cold]
    pub(super) fn wipe(&self, plan: Option<&Plan>) {
        if let Some(plan) = plan {
            payload::wipe(&self.producer, plan);
        }
    }
}

/// Bytes after which a trusted lane checks again for idle pages, while it may have some.
const LOOK_EVERY: u64 = 64 << 10;
/// The least room that is tried first for a value whose length is not known, in bytes.
const LEAST_WISH: u64 = 256;
pub(super) const MOST_WISH: u64 = 64 << 10;
