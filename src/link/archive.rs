//! Reading archives that a hostile peer wrote: rkyv's own check, and what it leaves out.
//!
//! rkyv's check proves that every value of an archive is valid and lies in its own bytes. It does
//! not prove that the archive's *safe functions* read such values only. In 0.8.18:
//!
//! - the lookup of a key in a hash table follows mirrored control bytes that were compared with
//!   nothing, to buckets that were not checked;
//! - a byte that is neither full nor empty may keep a lookup going forever;
//! - the index that a bucket of an index map holds may lie beyond its entries;
//! - iterating over a B-tree starts each node at its first child and each leaf at its first entry,
//!   whether there is one or not;
//! - values that share one another may nest deeper than the limit, as each is checked once.
//!
//! [`SafeArchive`] closes these gaps for every type, in any release of rkyv: it walks the value
//! after rkyv has found it valid. A type without any of these has nothing to be walked, which is
//! known at compile time.
#![allow(unsafe_code)]

pub(crate) mod pool;

mod containers;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod plain;
pub(crate) mod shape;
mod shared;
mod tables;
#[cfg(test)]
mod tests;
mod trees;

pub(crate) use pool::deserialize;
pub(crate) use shared::Shared;

use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::primitive::{ArchivedIsize, ArchivedUsize};
use rkyv::rancor::{BoxedError, Failure, Source, Strategy};
use rkyv::util::AlignedVec;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Portable};
use std::num::NonZeroUsize;

/// An archived type whose safe functions are safe on bytes that a hostile peer wrote.
///
/// Derive it together with [`rkyv::Archive`], on the type itself; the derive implements this trait
/// for the archived form. The archived forms of std's types implement it.
///
/// [`message`](macro@crate::message) derives it together with all else that a message type needs.
///
/// A message or a [`Buffer`](crate::Buffer) can be read only as a type that has it, because rkyv's
/// own check is not enough: bytes that it accepts as a hash map or a B-tree can make a lookup read
/// memory outside of the message.
///
/// ```
/// use messageport::{MessageChannel, rkyv};
/// use std::collections::HashMap;
///
/// #[derive(rkyv::Archive, rkyv::Serialize, messageport::SafeArchive)]
/// #[rkyv(crate = messageport::rkyv)] // for programs without a dependency of their own on rkyv
/// struct Stock { prices: HashMap<String, u64> }
///
/// let channel = MessageChannel::new()?;
/// let prices = HashMap::from([("lamp".to_string(), 1999)]);
/// channel.port1.post_message(&Stock { prices })?;
/// let event = channel.port2.recv()?;
/// let stock = event.data::<Stock>()?;
/// assert_eq!(stock.prices.get("lamp").unwrap().to_native(), 1999);
/// assert!(stock.prices.get("chair").is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A type without it cannot be read:
///
/// ```compile_fail,E0277
/// use messageport::{MessageChannel, rkyv};
///
/// #[derive(rkyv::Archive, rkyv::Serialize)]
/// struct Order { id: u64 }
///
/// let channel = MessageChannel::new().unwrap();
/// let event = channel.port2.recv().unwrap();
/// let order = event.data::<Order>();
/// ```
///
/// nor can a type that contains such a type:
///
/// ```compile_fail,E0277
/// #[derive(messageport::rkyv::Archive)]
/// struct Order { id: u64 }
///
/// fn receives<T: messageport::Receive>() {}
/// receives::<Vec<Order>>();
/// ```
///
/// A vector of zero-sized elements cannot be read either. Its elements take no bytes, so a message
/// of a few bytes could claim a huge length and keep a receiver busy for seconds.
///
/// ```compile_fail,E0080
/// let channel = messageport::MessageChannel::new().unwrap();
/// let event = channel.port2.recv().unwrap();
/// let nothing = event.data::<Vec<()>>();
/// ```
///
/// # Safety
/// After rkyv's check and [`check`](Self::check) have accepted a value, no safe function of it, or
/// of anything that it returns, may read bytes that neither has checked, or run forever. `check`
/// must check every field with the field's own implementation, unless the field's `CHECKS` is
/// false. `CHECKS` must be true if that of any field is.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not known to be safe to read from an untrusted peer",
    label = "its source type lacks `#[messageport::message]`",
    note = "put `#[messageport::message]` on the type, in place of its derives of rkyv, \
            or add `messageport::SafeArchive` to them"
)]
pub unsafe trait SafeArchive {
    /// Whether there is anything to check. If not, [`check`](Self::check) is not called.
    const CHECKS: bool;

    /// The most levels of pointers that a value of this type can have; `u32::MAX` if it contains
    /// itself.
    const LEVELS: u32;

    /// Whether [`describe`](Self::describe) describes the type. If not, as by default, two programs
    /// are not compared by it: see [`Shape`](crate::Shape).
    const HAS_SHAPE: bool = false;

    /// Checks what rkyv's own check leaves out. The value must lie in the bytes with which the
    /// check was started.
    ///
    /// # Errors
    /// What is wrong with the value.
    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError>;

    /// Writes the [`Shape`](crate::Shape) of the type.
    ///
    /// [`message`](macro@crate::message) implements it. An implementation by hand may call
    /// [`ShapeWriter::literal`](crate::ShapeWriter::literal).
    fn describe(shape: &mut shape::ShapeWriter) {
        shape.unknown();
    }
}

/// A type that can be received: an archive that can be checked completely.
///
/// Implemented for all types that derive [`rkyv::Archive`] and
/// [`SafeArchive`](derive@crate::SafeArchive), and for std's types; do not implement it yourself.
///
/// ```
/// fn sum<T: messageport::Receive>(port: &messageport::MessagePort, add: impl Fn(&T::Archived)) {
///     while let Ok(Some(event)) = port.try_recv() {
///         event.data::<T>().map(&add).expect("the peer posts values of this type");
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be received as a message",
    note = "put `#[messageport::message]` on the type, \
            or `#[derive(rkyv::Archive, messageport::SafeArchive)]`"
)]
pub trait Receive:
    Archive<
    Archived: Portable
                  + SafeArchive
                  + for<'a> CheckBytes<HighValidator<'a, Failure>>
                  + for<'a> CheckBytes<HighValidator<'a, BoxedError>>,
>
{
}

impl<T> Receive for T where
    T: Archive<
        Archived: Portable
                      + SafeArchive
                      + for<'a> CheckBytes<HighValidator<'a, Failure>>
                      + for<'a> CheckBytes<HighValidator<'a, BoxedError>>,
    >
{
}

/// The most levels of pointers in an archive: a `Box` in a `Box` is two. Far below what fits a
/// thread's stack of 2 MiB, in a debug build too. It counts the root; rkyv refuses the last level.
pub(crate) const MAX_DEPTH: usize = 256;

/// Most levels below the root that rkyv's check accepts with [`MAX_DEPTH`].
pub(crate) const MAX_LEVELS: usize = MAX_DEPTH - 2;

/// The greatest of some [`LEVELS`](SafeArchive::LEVELS).
pub(crate) const fn most(levels: &[u32]) -> u32 {
    let mut most = 0;
    let mut rest = levels;
    while let [first, others @ ..] = rest {
        if *first > most {
            most = *first;
        }
        rest = others;
    }
    most
}

/// Whether values of the type may be nested deeper than is accepted.
pub(crate) const fn may_be_too_deep<T: Receive>() -> bool {
    <T::Archived as SafeArchive>::LEVELS > MAX_LEVELS as u32
}

/// The least bytes of an archive that is too deep: each level has its own pointer.
pub(crate) const LEAST_TOO_DEEP: usize = (MAX_LEVELS + 1) * size_of::<ArchivedIsize>();

/// The state of a check of one archive, which [`SafeArchive::check`] passes on.
#[derive(Debug)]
pub struct ArchiveCheck<'a> {
    bytes: &'a [u8],
    /// Levels of pointers above the value that is being checked.
    level: usize,
    /// The most levels seen since this was last set to `level`.
    deepest: usize,
    shared: Shared,
}

/// What is wrong with an archive that rkyv's check accepts.
#[derive(Debug, thiserror::Error)]
enum Unsafe {
    #[error(
        "a hash table of {len} entries has the control byte {found:#04x} at {index}, where only \
         {expected} is safe to look up: the sender did not serialise it with rkyv"
    )]
    ControlByte { len: usize, index: usize, found: u8, expected: &'static str },
    #[error(
        "a table or tree at byte {place} does not lie in the message: the sender did not serialise \
         it with rkyv"
    )]
    Outside { place: usize },
    #[error(
        "a hash table says {len} entries in {capacity} buckets and has {found}: the sender did not \
         serialise it with rkyv"
    )]
    Length { len: usize, capacity: usize, found: usize },
    #[error("an index map of {len} entries refers to entry {index}: no rkyv serialises that")]
    Index { len: usize, index: usize },
    #[error(
        "a B-tree of {len} entries has a node with {what}, which iterating would read: the sender \
         did not serialise it with rkyv"
    )]
    Node { len: usize, what: &'static str },
    #[error(
        "the value is nested in more than {} levels of pointers (boxes, vectors, maps and the \
         like), and a message may have that many: post a flatter value, such as a list whose \
         entries refer to each other by index",
        MAX_LEVELS
    )]
    TooDeep,
}

impl<'a> ArchiveCheck<'a> {
    fn new(bytes: &'a [u8]) -> ArchiveCheck<'a> {
        ArchiveCheck { bytes, level: 0, deepest: 0, shared: Shared::default() }
    }

    /// Checks what a pointer leads to.
    ///
    /// # Errors
    /// What `act` finds, or that the value is nested too deep.
    pub fn enter(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<(), BoxedError>,
    ) -> Result<(), BoxedError> {
        self.descend(1)?;
        self.level += 1;
        let found = act(self);
        self.level -= 1;
        found
    }

    /// Accounts for `levels` below this one.
    fn descend(&mut self, levels: usize) -> Result<(), BoxedError> {
        let level = self.level + levels;
        if level > MAX_LEVELS {
            return Err(BoxedError::new(Unsafe::TooDeep));
        }
        self.deepest = self.deepest.max(level);
        Ok(())
    }

    /// Where in the archive `value` starts.
    fn place_of<T: ?Sized>(&self, value: &T) -> usize {
        (value as *const T).cast::<u8>().addr().wrapping_sub(self.bytes.as_ptr().addr())
    }

    /// `len` bytes of the archive from `place` on.
    fn slice(&self, place: usize, len: usize) -> Result<&'a [u8], BoxedError> {
        place
            .checked_add(len)
            .and_then(|end| self.bytes.get(place..end))
            .ok_or_else(|| BoxedError::new(Unsafe::Outside { place }))
    }

    /// The count that stands at `place`.
    fn count_at(&self, place: usize) -> Result<usize, BoxedError> {
        let bytes = self.slice(place, size_of::<ArchivedUsize>())?;
        // SAFETY: as many bytes as it has were just found, and each value of them is a number.
        let count = unsafe { bytes.as_ptr().cast::<ArchivedUsize>().read_unaligned() };
        Ok(count.to_native() as usize)
    }

    /// The distance that a relative pointer at `place` has from it; 1 is that of no pointer.
    fn distance_at(&self, place: usize) -> Result<isize, BoxedError> {
        let bytes = self.slice(place, size_of::<ArchivedIsize>())?;
        // SAFETY: as many bytes as it has were just found, and each value of them is a number.
        let distance = unsafe { bytes.as_ptr().cast::<ArchivedIsize>().read_unaligned() };
        Ok(distance.to_native() as isize)
    }
}

/// Checked access to an archive: first by rkyv, then by [`SafeArchive`].
#[inline]
pub(crate) fn access<T: Receive>(bytes: &[u8]) -> Result<&T::Archived, BoxedError> {
    let Some(value) = root_by_rkyv::<T::Archived>(bytes) else {
        return Err(explain::<T>(bytes));
    };
    walk::<T>(value, bytes)?;
    Ok(value)
}

/// Whether [`access`] accepts the bytes. Makes no call of its own that may panic.
#[inline(always)]
pub(crate) fn is_valid<T: Receive>(bytes: &[u8]) -> bool {
    root_by_rkyv::<T::Archived>(bytes).is_some_and(|value| walk::<T>(value, bytes).is_ok())
}

/// The check of [`access_by_rkyv`], without a call for the root: that its bytes are there and
/// aligned is two comparisons, and what it points to lies before it. So a type without pointers
/// needs no validator.
#[inline(always)]
fn root_by_rkyv<T>(bytes: &[u8]) -> Option<&T>
where
    T: Portable + for<'a> CheckBytes<HighValidator<'a, Failure>>,
{
    let at = bytes.len().checked_sub(size_of::<T>())?;
    let (before, root) = bytes.split_at(at);
    let root = root.as_ptr().cast::<T>();
    if !root.is_aligned() {
        return None;
    }
    let archive = ArchiveValidator::with_max_depth(before, NonZeroUsize::new(MAX_DEPTH - 1));
    let mut validator = Validator::new(archive, SharedValidator::new());
    let context = Strategy::<_, Failure>::wrap(&mut validator);
    // SAFETY: the root is aligned, and its bytes are the last ones of `bytes`.
    unsafe { T::check_bytes(root, context) }.ok()?;
    // SAFETY: as above, and the check has found it valid.
    Some(unsafe { &*root })
}

/// Checks what rkyv's check leaves out of `value`, which it has found in `bytes`.
#[inline]
fn walk<T: Receive>(value: &T::Archived, bytes: &[u8]) -> Result<(), BoxedError> {
    match const { <T::Archived as SafeArchive>::CHECKS } {
        true => value.check(&mut ArchiveCheck::new(bytes)),
        false => Ok(()),
    }
}

/// Describes what is wrong with a refused archive: a check whose error carries nothing is cheaper
/// than one whose error could carry a text.
#[cold]
fn explain<T: Receive>(bytes: &[u8]) -> BoxedError {
    /// Only a trusted peer that writes to what it has posted gets here.
    #[derive(Debug, thiserror::Error)]
    #[error("the bytes changed while they were being checked")]
    struct Changed;

    match access_by_rkyv::<T::Archived, BoxedError>(bytes) {
        Err(error) => error,
        Ok(_) => BoxedError::new(Changed),
    }
}

/// Access to an archive by rkyv's check alone, with the reason why not.
///
/// The check recurses where the type does, and the bytes are the peer's: so the depth is bounded.
pub(crate) fn access_by_rkyv<T, E>(bytes: &[u8]) -> Result<&T, E>
where
    T: Portable + for<'a> CheckBytes<HighValidator<'a, E>>,
    E: Source,
{
    let archive = ArchiveValidator::with_max_depth(bytes, NonZeroUsize::new(MAX_DEPTH));
    let mut validator = Validator::new(archive, SharedValidator::new());
    rkyv::api::access_with_context::<T, _, E>(bytes, &mut validator)
}

/// Refuses an archive that a receiver would refuse, with a text for the sender.
#[cold]
pub(crate) fn check_own<T: Receive>(bytes: &[u8]) -> Result<(), BoxedError> {
    #[derive(Debug, thiserror::Error)]
    #[error(
        "no receiver could read the value: it has more than {MAX_LEVELS} levels of pointers, or a \
         `Serialize` of its own writes what is no archive ({reason}); post a flatter value"
    )]
    struct Unreadable {
        reason: BoxedError,
    }

    let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    match access::<T>(&aligned) {
        Ok(_) => Ok(()),
        Err(reason) => Err(BoxedError::new(Unreadable { reason })),
    }
}

/// Access without a check.
///
/// # Safety
/// The bytes must be a valid archive with a `T` at its root.
pub(crate) unsafe fn access_unchecked<T: Portable>(bytes: &[u8]) -> &T {
    // SAFETY: upheld by the caller, see `# Safety`.
    unsafe { rkyv::access_unchecked::<T>(bytes) }
}

/// What this crate's check says to bytes that rkyv's check has not seen.
#[cfg(test)]
fn check_alone<T: Receive>(bytes: &[u8]) -> Result<(), BoxedError> {
    // SAFETY: the tests that call this pass an archive of a `T` in which they have changed what
    // only the check looks at.
    let value = unsafe { access_unchecked::<T::Archived>(bytes) };
    walk::<T>(value, bytes)
}
