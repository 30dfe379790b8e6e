//! Values that serde writes, straight into the ring.

use super::Sending;
use crate::error::{PostError, ValueError};
use crate::link::attachment::Outgoing;
use crate::link::payload::LengthChanged;
use crate::link::payload::encoded::encode;
use crate::ring::route::Plan;
use crate::wire::record::{Attached, Format};
use rkyv::rancor::{BoxedError, Source};
use serde::Serialize;

impl Sending {
    /// Writes `value` into the ring and stages it; `commit` publishes.
    pub(crate) fn stage_encoded(
        &mut self,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), PostError> {
        self.check_open()?;
        let (plan, len) = self.write_encoded(value)?;
        self.stage_slow(plan, len as u32, Format::Value, Attached::Nothing);
        Ok(())
    }

    /// Posts a value with transferables, in the order of `post_value_with`.
    pub(crate) fn post_encoded_with(
        &mut self,
        value: &(impl Serialize + ?Sized),
        items: &mut [Outgoing<'_>],
    ) -> Result<(), PostError> {
        let checked = self.begin_with(items)?;
        let (plan, len) = self.write_encoded(value)?;
        let plan = self.make_room_behind(plan, len, items, |sending, plan| {
            sending.encode(value, Some(plan))
        })?;
        self.move_with(plan, len as u32, Format::Value, checked, items)
    }

    /// Writes `value` into the place of its record. Its length is known only afterwards: a value
    /// that does not fit the room that is tried first is written twice.
    fn write_encoded(
        &mut self,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(Plan, u64), PostError> {
        let wish = self.wish();
        let open = self.producer.plan_open(wish);
        let open = open.map_err(|refusal| self.refused(refusal, wish))?;
        if let Some(plan) = &open {
            self.prefault.ensure(plan, self.producer.cursor())?;
        }
        let len = self.encode(value, open.as_ref())?;
        self.last_len = len;
        match open {
            Some(plan) if len <= plan.payload_room() => Ok((plan, len)),
            begun => {
                let again = self.write_encoded_again(value, len, begun.as_ref());
                again.inspect_err(|_| self.wipe(begun.as_ref()))
            }
        }
    }

    /// Writes a value of `len` bytes, of which a part was written where `begun` says, into the
    /// place of its record.
    fn write_encoded_again(
        &mut self,
        value: &(impl Serialize + ?Sized),
        len: u64,
        begun: Option<&Plan>,
    ) -> Result<(Plan, u64), PostError> {
        let plan = self.plan_elsewhere(len, begun)?;
        let again = self.encode(value, Some(&plan))?;
        if again == len {
            return Ok((plan, len));
        }
        self.wipe(Some(&plan));
        Err(PostError::Serialize(BoxedError::new(LengthChanged { len, again })))
    }

    /// The value's bytes: written where `plan` says, or only counted. Of one that fails half-way
    /// nothing stays in the ring that the peer could read.
    fn encode(
        &self,
        value: &(impl Serialize + ?Sized),
        plan: Option<&Plan>,
    ) -> Result<u64, PostError> {
        encode(value, &self.producer, plan).map_err(|error: ValueError| {
            self.wipe(plan);
            PostError::Serialize(BoxedError::new(error))
        })
    }
}
