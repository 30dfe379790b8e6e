//! Deserialising what shares values: nothing is taken for another type than it was made as.
//!
//! rkyv's pool knows a shared value by its place in the archive alone. If two pointers of different
//! types, which have the same archived type, lead to one place (`Rc<u32>` and `Rc<usize>`, say), it
//! hands out the first one's memory as the second one's. No program posts that, but a hostile peer
//! can.
//!
//! So an archive in which two pointers lead to one place is deserialised twice more. The first time
//! each pointer makes a value of its own, and tells how that would be dropped, which is another
//! function for each type. If all pointers to one place tell the same, the second time shares. What
//! the first time costs is bounded: a check that counts says how many bytes of the archive belong
//! to each place.
#![allow(unsafe_code)]

use super::MAX_DEPTH;
use rkyv::bytecheck::CheckBytes;
use rkyv::de::{ErasedPtr, Metadata, Pool, Pooling, PoolingState};
use rkyv::rancor::{BoxedError, Source, Strategy};
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::{SharedValidator, ValidationState};
use rkyv::validation::{ArchiveContext, SharedContext};
use rkyv::{Archive, Deserialize, Portable};
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
    /// Two pointers lead to one place.
    is_shared: bool,
    /// Why it has failed, if rkyv says something else.
    refusal: Option<Refusal>,
}

#[derive(Debug)]
enum Stage {
    /// No place was met twice yet.
    Unshared(Pool),
    /// Each pointer makes a value of its own.
    Apart(Apart),
    /// Each place has one type, and one value.
    Together(Pool),
}

/// INVARIANT (own): each value in `made` was finished with its drop function, and is dropped once.
#[derive(Debug)]
struct Apart {
    made: Vec<Made>,
    /// How a value at each place is dropped.
    types: HashMap<usize, unsafe fn(ErasedPtr)>,
    /// Places whose values are being made.
    pending: Vec<usize>,
    /// Bytes of the archive that belong to each place.
    sizes: HashMap<usize, usize>,
    /// Bytes that may still be deserialised.
    budget: usize,
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

/// Bytes of an archive that it may take to deserialise its shared values apart from each other,
/// beside `APART_FACTOR` times its length.
const APART_BYTES: usize = 64 << 20;
const APART_FACTOR: usize = 16;

/// What a value costs at least, however small it is in the archive.
const LEAST_COST: usize = 64;

#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Refusal {
    #[error(
        "two pointers of different types lead to one shared value: the sender did not serialise it \
         with rkyv"
    )]
    TwoTypes,
    #[error(
        "the shared values would take more than {APART_BYTES} bytes and {APART_FACTOR} times the \
         message if they were not shared, too much to deserialise: read them in place by `data`"
    )]
    TooMuch,
    #[error("a shared value was finished that was not begun")]
    NotBegun,
}

impl Apart {
    fn start(&mut self, refusal: &mut Option<Refusal>, address: usize) -> PoolingState {
        if self.pending.contains(&address) {
            return PoolingState::Pending;
        }
        let cost = self.sizes.get(&address).copied().unwrap_or(0).max(LEAST_COST);
        let Some(budget) = self.budget.checked_sub(cost) else {
            // rkyv takes it for a cycle.
            *refusal = Some(Refusal::TooMuch);
            return PoolingState::Pending;
        };
        self.budget = budget;
        self.pending.push(address);
        PoolingState::Started
    }

    fn finish(&mut self, address: usize, made: Made) -> Result<(), Refusal> {
        let drop = made.drop;
        // From here on it is dropped whatever happens.
        self.made.push(made);
        if self.pending.pop() != Some(address) {
            return Err(Refusal::NotBegun);
        }
        let known = *self.types.entry(address).or_insert(drop);
        if !std::ptr::fn_addr_eq(known, drop) {
            return Err(Refusal::TwoTypes);
        }
        Ok(())
    }
}

impl SharedValues {
    fn new(stage: Stage) -> SharedValues {
        SharedValues { stage, is_shared: false, refusal: None }
    }
}

impl Pooling<BoxedError> for SharedValues {
    fn start_pooling(&mut self, address: usize) -> PoolingState {
        match &mut self.stage {
            Stage::Unshared(pool) => match Pooling::<BoxedError>::start_pooling(pool, address) {
                PoolingState::Finished(_) => {
                    // What type is asked for is not known: end here.
                    self.is_shared = true;
                    PoolingState::Pending
                }
                state => state,
            },
            Stage::Apart(apart) => apart.start(&mut self.refusal, address),
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
                apart.finish(address, Made { pointer, drop }).map_err(|refusal| {
                    // A `Deserialize` may do as if nothing had happened.
                    self.refusal = Some(refusal);
                    BoxedError::new(refusal)
                })
            }
            // SAFETY: the caller's word.
            Stage::Unshared(pool) | Stage::Together(pool) => unsafe {
                pool.finish_pooling(address, pointer, drop)
            },
        }
    }
}

/// An owned value of the archive `bytes`, which were checked to have `archived` at their root.
pub(super) fn deserialize<T>(archived: &T::Archived, bytes: &[u8]) -> Result<T, BoxedError>
where
    T: Archive,
    T::Archived: Portable
        + for<'a> CheckBytes<Strategy<Counting<'a>, BoxedError>>
        + Deserialize<T, ReceiveDeserializer>,
{
    let mut values = SharedValues::new(Stage::Unshared(Pool::new()));
    let value = archived.deserialize(Strategy::wrap(&mut values));
    if !values.is_shared {
        return value;
    }
    drop((value, values));
    deserialize_shared(archived, bytes)
}

#[cold]
fn deserialize_shared<T>(archived: &T::Archived, bytes: &[u8]) -> Result<T, BoxedError>
where
    T: Archive,
    T::Archived: Portable
        + for<'a> CheckBytes<Strategy<Counting<'a>, BoxedError>>
        + Deserialize<T, ReceiveDeserializer>,
{
    let mut counting = Counting::new(bytes);
    rkyv::api::access_with_context::<T::Archived, _, BoxedError>(bytes, &mut counting)?;
    let mut values = SharedValues::new(Stage::Apart(Apart {
        made: Vec::new(),
        types: HashMap::new(),
        pending: Vec::new(),
        sizes: counting.sizes,
        budget: bytes.len().saturating_mul(APART_FACTOR).saturating_add(APART_BYTES),
    }));
    let value = archived.deserialize(Strategy::wrap(&mut values));
    if let Some(refusal) = values.refusal {
        return Err(BoxedError::new(refusal));
    }
    drop((value?, values));
    let mut values = SharedValues::new(Stage::Together(Pool::new()));
    archived.deserialize(Strategy::wrap(&mut values))
}

/// rkyv's check, counting the bytes that belong to each shared value: without those of shared
/// values in it.
#[derive(Debug)]
pub struct Counting<'a> {
    archive: ArchiveValidator<'a>,
    shared: SharedValidator,
    bytes: usize,
    /// What was counted for the values around this one.
    outer: Vec<usize>,
    sizes: HashMap<usize, usize>,
}

impl<'a> Counting<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Counting<'a> {
        Counting {
            archive: ArchiveValidator::with_max_depth(bytes, NonZeroUsize::new(MAX_DEPTH)),
            shared: SharedValidator::new(),
            bytes: 0,
            outer: Vec::new(),
            sizes: HashMap::new(),
        }
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
        self.bytes = self.bytes.saturating_add(end.addr().saturating_sub(root.addr()));
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
        if let ValidationState::Started = state {
            self.outer.push(mem::take(&mut self.bytes));
        }
        Ok(state)
    }

    fn finish_shared(&mut self, shared_type_id: TypeId, pointer: ErasedPtr) -> Result<(), E> {
        self.shared.finish_shared(shared_type_id, pointer)?;
        let outer = self.outer.pop().unwrap_or(0);
        let own = mem::replace(&mut self.bytes, outer);
        self.sizes.insert(pointer.data_address().addr(), own);
        Ok(())
    }
}
