//! Shared pointers: each target is walked once, however many pointers lead to it.
#![allow(unsafe_code)]

use super::shape::{ShapeWriter, shape_is};
use super::{ArchiveCheck, SafeArchive};
use rkyv::rancor::BoxedError;
use rkyv::rc::{ArchivedRc, ArchivedRcWeak, Flavor};
use rkyv::traits::ArchivePointee;
use std::any::TypeId;
use std::collections::HashMap;

/// The targets of shared pointers that were walked: place, type, and how many levels lie below.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    heights: HashMap<(usize, TypeId), usize>,
}

// SAFETY: what it points to is walked. rkyv's check has refused cycles, and pointers of different
// types to one target.
unsafe impl<T, F> SafeArchive for ArchivedRc<T, F>
where
    T: SafeArchive + ArchivePointee + ?Sized + 'static,
    F: Flavor,
{
    const CHECKS: bool = {
        assert!(!F::ALLOW_CYCLES, "a shared pointer that may be a cycle cannot be received");
        T::CHECKS
    };
    const LEVELS: u32 = T::LEVELS.saturating_add(1);

    // What another flavor of pointer has posted is read as well.
    shape_is!("Rc<{}>", T);

    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        let key = (check.place_of(self.get()), TypeId::of::<ArchivedRc<T, F>>());
        if let Some(&height) = check.shared.heights.get(&key) {
            // The target is fine; but this path to it may be longer than the one before.
            return check.descend(height);
        }
        let outside = std::mem::replace(&mut check.deepest, check.level);
        check.enter(|check| self.get().check(check))?;
        check.shared.heights.insert(key, check.deepest - check.level);
        check.deepest = check.deepest.max(outside);
        Ok(())
    }
}

// SAFETY: what it may point to is walked.
unsafe impl<T, F> SafeArchive for ArchivedRcWeak<T, F>
where
    T: SafeArchive + ArchivePointee + ?Sized + 'static,
    F: Flavor,
{
    const CHECKS: bool = <ArchivedRc<T, F>>::CHECKS;
    const LEVELS: u32 = T::LEVELS.saturating_add(1);

    shape_is!("Weak<{}>", T);

    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        self.upgrade().map_or(Ok(()), |strong| strong.check(check))
    }
}
