//! Values that serde writes into the place of their record.

use super::{PayloadWriter, planned};
use crate::error::ValueError;
use crate::link::value;
use crate::ring::producer::Producer;
use crate::ring::route::Plan;
use minicbor::encode::Write;
use rkyv::rancor::BoxedError;
use rkyv::ser::{Positional, Writer};
use serde::Serialize;

/// Writes `value` where `plan` says; without a plan, only counts. Returns how many bytes it took or
/// would have taken; what exceeds the plan's room is not written.
pub(crate) fn encode(
    value: &(impl Serialize + ?Sized),
    producer: &Producer,
    plan: Option<&Plan>,
) -> Result<u64, ValueError> {
    let mut to = To(match plan {
        None => PayloadWriter::counting(),
        Some(plan) => {
            let start = planned(producer, plan, plan.payload_room());
            PayloadWriter::new(start, plan.payload_room() as usize)
        }
    });
    value::write(value, &mut to)?;
    Ok(to.0.pos() as u64)
}

/// The bytes of `value`, to be posted several times.
pub(crate) fn encode_once(value: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, ValueError> {
    let mut bytes = Vec::new();
    value::write(value, To(PayloadWriter::appending(&mut bytes)))?;
    Ok(bytes)
}

struct To<'a>(PayloadWriter<'a>);

impl Write for To<'_> {
    type Error = BoxedError;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), BoxedError> {
        self.0.write(bytes)
    }
}
