//! Deserialising what shares values: nothing is taken for another type than it was made as.
//!
//! rkyv's pool knows a shared value by its place in the archive alone. If two pointers of different
//! types, which have the same archived type, lead to one place (`Rc<u32>` and `Rc<usize>`, say), it
//! hands out the first one's memory as the second one's. No program posts that, but a hostile peer
//! can.
//!
//! So an archive in which two pointers lead to one place is deserialised twice. The first time each
//! pointer makes a value of its own, and tells how that would be dropped, which is another function
//! for each type. If all pointers to one place tell the same, the second time shares. What the
//! first time costs is known before, from a check that counts, and bounded.
//!
//! Nothing here ends a deserialisation half-way: rkyv leaks what was made until then.
#![allow(unsafe_code)]

use super::{MAX_DEPTH, Receive, walk};
use rkyv::Deserialize;
use rkyv::de::{ErasedPtr, Metadata, Pool, Pooling, PoolingState};
use rkyv::rancor::{BoxedError, Source, Strategy};
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::{SharedValidator, ValidationState};
use rkyv::validation::{ArchiveContext, SharedContext};
use std::alloc::Layout;
use std::any::TypeId;
use std::collections::HashMap;
use std::mem;
use std::num::NonZeroUsize;
use std::ops::Range;

/// The deserializer that a received archive is given.
pub type ReceiveDeserializer = Strategy<SharedValues, BoxedError>;

/// Values that are shared in an archive which is being deserialised.
#[derive(Debug)]
pub struct SharedValues {
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Each pointer makes a value of its own.
    Apart(Apart),
    /// Each place has one type, and one value.
    Together(Pool),
}

/// INVARIANT (own): each value in `made` was finished with its drop function, and is dropped once.
#[derive(Debug, Default)]
struct Apart {
    made: Vec<Made>,
    /// How a value at each place is dropped.
    types: HashMap<usize, unsafe fn(ErasedPtr)>,
    /// Values of two types were made at one place.
    has_two_types: bool,
}

#[derive(Debug)]
struct Made {
    pointer: ErasedPtr,
    drop: unsafe fn(ErasedPtr),
}

impl Drop for Made {
    fn drop(&mut self) {
        // SAFETY: (own).
        unsafe { (self.drop)(self.pointer) }
    }
}

/// Bytes of an archive that its values may take when each pointer has a value of its own, beside
/// `APART_FACTOR` times its length.
const APART_BYTES: usize = 64 << 20;
const APART_FACTOR: usize = 16;

/// What a shared value costs at least, however small it is in the archive.
const LEAST_COST: usize = 64;

#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Refusal {
    #[error(
        "two pointers of different types lead to one shared value: the sender did not serialise it \
         with rkyv"
    )]
    TwoTypes,
    #[error(
        "the values would take {cost} bytes of archive if none was shared, too many to deserialise \
         (at most {most}): read them in place by `data`"
    )]
    TooMuch { cost: usize, most: usize },
}

impl Pooling<BoxedError> for SharedValues {
    fn start_pooling(&mut self, address: usize) -> PoolingState {
        match &mut self.stage {
            // The check has refused cycles, so this ends.
            Stage::Apart(_) => PoolingState::Started,
            Stage::Together(pool) => Pooling::<BoxedError>::start_pooling(pool, address),
        }
    }

    unsafe fn finish_pooling(
        &mut self,
        address: usize,
        pointer: ErasedPtr,
        drop: unsafe fn(ErasedPtr),
    ) -> Result<(), BoxedError> {
        match &mut self.stage {
            Stage::Apart(apart) => {
                apart.made.push(Made { pointer, drop });
                let known = *apart.types.entry(address).or_insert(drop);
                apart.has_two_types |= !std::ptr::fn_addr_eq(known, drop);
                Ok(())
            }
            // SAFETY: the caller's word.
            Stage::Together(pool) => unsafe { pool.finish_pooling(address, pointer, drop) },
        }
    }
}

/// An owned value of an archive, checked.
pub(super) fn deserialize<T>(bytes: &[u8]) -> Result<T, BoxedError>
where
    T: Receive<Archived: Deserialize<T, ReceiveDeserializer>>,
{
    let mut counting = Counting::new(bytes);
    let archived =
        rkyv::api::access_with_context::<T::Archived, _, BoxedError>(bytes, &mut counting)?;
    walk::<T>(archived, bytes)?;
    if counting.is_shared {
        counting.check_cost(bytes.len())?;
        check_types::<T>(archived)?;
    }
    let mut values = SharedValues { stage: Stage::Together(Pool::new()) };
    archived.deserialize(Strategy::wrap(&mut values))
}

/// Refuses shared values that are pointed to as different types.
#[cold]
fn check_types<T>(archived: &T::Archived) -> Result<(), BoxedError>
where
    T: Receive<Archived: Deserialize<T, ReceiveDeserializer>>,
{
    let mut values = SharedValues { stage: Stage::Apart(Apart::default()) };
    drop(archived.deserialize(Strategy::wrap(&mut values))?);
    match values.stage {
        Stage::Apart(Apart { has_two_types: true, .. }) => Err(BoxedError::new(Refusal::TwoTypes)),
        _ => Ok(()),
    }
}

/// rkyv's check, counting what the values cost when each shared pointer has one of its own.
#[derive(Debug)]
pub struct Counting<'a> {
    archive: ArchiveValidator<'a>,
    shared: SharedValidator,
    /// Bytes of the value that is being checked, with all that it points to.
    cost: usize,
    /// What was counted for the values around this one.
    outer: Vec<usize>,
    /// What the value at each place costs.
    costs: HashMap<usize, usize>,
    /// Two pointers lead to one place.
    is_shared: bool,
}

impl<'a> Counting<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Counting<'a> {
        Counting {
            archive: ArchiveValidator::with_max_depth(bytes, NonZeroUsize::new(MAX_DEPTH)),
            shared: SharedValidator::new(),
            cost: 0,
            outer: Vec::new(),
            costs: HashMap::new(),
            is_shared: false,
        }
    }

    fn check_cost(&self, len: usize) -> Result<(), BoxedError> {
        let (cost, most) = (self.cost, APART_BYTES + APART_FACTOR * len);
        if cost > most {
            return Err(BoxedError::new(Refusal::TooMuch { cost, most }));
        }
        Ok(())
    }
}

// SAFETY: rkyv's own answers.
unsafe impl<E: Source> ArchiveContext<E> for Counting<'_> {
    fn check_subtree_ptr(&mut self, pointer: *const u8, layout: &Layout) -> Result<(), E> {
        self.archive.check_subtree_ptr(pointer, layout)
    }

    unsafe fn push_subtree_range(
        &mut self,
        root: *const u8,
        end: *const u8,
    ) -> Result<Range<usize>, E> {
        self.cost = self.cost.saturating_add(end.addr().saturating_sub(root.addr()));
        // SAFETY: the caller's word.
        unsafe { self.archive.push_subtree_range(root, end) }
    }

    unsafe fn pop_subtree_range(&mut self, range: Range<usize>) -> Result<(), E> {
        // SAFETY: the caller's word.
        unsafe { self.archive.pop_subtree_range(range) }
    }
}

impl<E: Source> SharedContext<E> for Counting<'_> {
    fn start_shared(
        &mut self,
        shared_type_id: TypeId,
        pointer: ErasedPtr,
        metadata_is_eq: unsafe fn(Metadata, Metadata) -> bool,
    ) -> Result<ValidationState, E> {
        let state = self.shared.start_shared(shared_type_id, pointer, metadata_is_eq)?;
        match state {
            ValidationState::Started => self.outer.push(mem::take(&mut self.cost)),
            ValidationState::Finished => {
                self.is_shared = true;
                let cost = self.costs.get(&pointer.data_address().addr()).copied();
                self.cost = self.cost.saturating_add(cost.unwrap_or(LEAST_COST));
            }
            ValidationState::Pending => {}
        }
        Ok(state)
    }

    fn finish_shared(&mut self, shared_type_id: TypeId, pointer: ErasedPtr) -> Result<(), E> {
        self.shared.finish_shared(shared_type_id, pointer)?;
        let cost = self.cost.saturating_add(LEAST_COST);
        self.costs.insert(pointer.data_address().addr(), cost);
        self.cost = self.outer.pop().unwrap_or(0).saturating_add(cost);
        Ok(())
    }
}
