//! Archived types that hold others, which are walked.
#![allow(unsafe_code)]

use super::shape::{ShapeWriter, shape_is};
use super::{ArchiveCheck, SafeArchive, most};
use rkyv::boxed::ArchivedBox;
use rkyv::collections::util::Entry;
use rkyv::niche::niched_option::NichedOption;
use rkyv::niche::niching::Niching;
use rkyv::niche::option_box::ArchivedOptionBox;
use rkyv::ops::{
    ArchivedBound, ArchivedRange, ArchivedRangeFrom, ArchivedRangeInclusive, ArchivedRangeTo,
    ArchivedRangeToInclusive,
};
use rkyv::option::ArchivedOption;
use rkyv::rancor::BoxedError;
use rkyv::result::ArchivedResult;
use rkyv::traits::ArchivePointee;
use rkyv::tuple::{
    ArchivedTuple1, ArchivedTuple2, ArchivedTuple3, ArchivedTuple4, ArchivedTuple5, ArchivedTuple6,
    ArchivedTuple7, ArchivedTuple8, ArchivedTuple9, ArchivedTuple10, ArchivedTuple11,
    ArchivedTuple12, ArchivedTuple13,
};
use rkyv::vec::ArchivedVec;

/// Refuses zero-sized elements at compile time: the peer could claim any number of them.
const fn assert_sized<T>() {
    assert!(
        size_of::<T>() > 0,
        "elements without a size cannot be received in a vector or slice: its length, which no \
         bytes back, would be whatever the peer says; send a count in its place"
    );
}

// SAFETY: each element is walked.
unsafe impl<T: SafeArchive> SafeArchive for [T] {
    const CHECKS: bool = {
        assert_sized::<T>();
        T::CHECKS
    };
    const LEVELS: u32 = T::LEVELS;

    shape_is!("[{}]", T);

    #[inline]
    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        const { assert_sized::<T>() }
        if T::CHECKS {
            for element in self {
                element.check(check)?;
            }
        }
        Ok(())
    }
}

// SAFETY: each element is walked.
unsafe impl<T: SafeArchive, const N: usize> SafeArchive for [T; N] {
    const CHECKS: bool = T::CHECKS && N != 0;
    const LEVELS: u32 = T::LEVELS;
    const HAS_SHAPE: bool = T::HAS_SHAPE;

    #[inline]
    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        if T::CHECKS {
            for element in self {
                element.check(check)?;
            }
        }
        Ok(())
    }

    fn describe(shape: &mut ShapeWriter) {
        shape.container(&format!("[{{}}; {N}]"), &[T::describe]);
    }
}

// SAFETY: what it points to is walked.
unsafe impl<T: SafeArchive> SafeArchive for ArchivedVec<T> {
    const CHECKS: bool = <[T]>::CHECKS;
    const LEVELS: u32 = T::LEVELS.saturating_add(1);

    shape_is!("Vec<{}>", T);

    #[inline]
    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        check.enter(|check| self.as_slice().check(check))
    }
}

// SAFETY: what it points to is walked.
unsafe impl<T: SafeArchive + ArchivePointee + ?Sized> SafeArchive for ArchivedBox<T> {
    const CHECKS: bool = T::CHECKS;
    const LEVELS: u32 = T::LEVELS.saturating_add(1);

    shape_is!("Box<{}>", T);

    #[inline]
    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        check.enter(|check| self.get().check(check))
    }
}

// SAFETY: what it may hold is walked.
unsafe impl<T: SafeArchive> SafeArchive for ArchivedOption<T> {
    const CHECKS: bool = T::CHECKS;
    const LEVELS: u32 = T::LEVELS;

    shape_is!("Option<{}>", T);

    #[inline]
    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        self.as_ref().map_or(Ok(()), |value| value.check(check))
    }
}

// SAFETY: what it may point to is walked.
unsafe impl<T: SafeArchive + ArchivePointee + ?Sized> SafeArchive for ArchivedOptionBox<T> {
    const CHECKS: bool = T::CHECKS;
    const LEVELS: u32 = T::LEVELS.saturating_add(1);

    shape_is!("NicheOption<Box<{}>>", T);

    #[inline]
    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        self.as_ref().map_or(Ok(()), |value| value.check(check))
    }
}

// SAFETY: what it may hold is walked.
unsafe impl<T: SafeArchive, N: Niching<T> + ?Sized> SafeArchive for NichedOption<T, N> {
    const CHECKS: bool = T::CHECKS;
    const LEVELS: u32 = T::LEVELS;

    shape_is!("NicheOption<{}>", T);

    #[inline]
    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        self.as_ref().map_or(Ok(()), |value| value.check(check))
    }
}

// SAFETY: what it holds is walked.
unsafe impl<T: SafeArchive, E: SafeArchive> SafeArchive for ArchivedResult<T, E> {
    const CHECKS: bool = T::CHECKS | E::CHECKS;
    const LEVELS: u32 = most(&[T::LEVELS, E::LEVELS]);

    shape_is!("Result<{}, {}>", T, E);

    #[inline]
    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        match self {
            ArchivedResult::Ok(value) => value.check(check),
            ArchivedResult::Err(error) => error.check(check),
        }
    }
}

// SAFETY: what it may hold is walked.
unsafe impl<T: SafeArchive> SafeArchive for ArchivedBound<T> {
    const CHECKS: bool = T::CHECKS;
    const LEVELS: u32 = T::LEVELS;

    shape_is!("Bound<{}>", T);

    #[inline]
    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        match self {
            ArchivedBound::Included(value) | ArchivedBound::Excluded(value) => value.check(check),
            ArchivedBound::Unbounded => Ok(()),
        }
    }
}

macro_rules! check_fields {
    ($($name:ident<$($type:ident),+> $shape:literal { $($field:tt),+ })*) => {$(
        // SAFETY: each field is walked.
        unsafe impl<$($type: SafeArchive),+> SafeArchive for $name<$($type),+> {
            const CHECKS: bool = false $(| $type::CHECKS)+;
            const LEVELS: u32 = most(&[$($type::LEVELS),+]);

            shape_is!($shape, $($type),+);

            #[inline]
            fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
                $(self.$field.check(check)?;)+
                Ok(())
            }
        }
    )*};
}

check_fields! {
    Entry<K, V> "Entry<{}, {}>" { key, value }
    ArchivedRange<T> "Range<{}>" { start, end }
    ArchivedRangeInclusive<T> "RangeInclusive<{}>" { start, end }
    ArchivedRangeFrom<T> "RangeFrom<{}>" { start }
    ArchivedRangeTo<T> "RangeTo<{}>" { end }
    ArchivedRangeToInclusive<T> "RangeToInclusive<{}>" { end }
    ArchivedTuple1<A> "({},)" { 0 }
    ArchivedTuple2<A, B> "({}, {})" { 0, 1 }
    ArchivedTuple3<A, B, C> "({}, {}, {})" { 0, 1, 2 }
    ArchivedTuple4<A, B, C, D> "({}, {}, {}, {})" { 0, 1, 2, 3 }
    ArchivedTuple5<A, B, C, D, E> "({}, {}, {}, {}, {})" { 0, 1, 2, 3, 4 }
    ArchivedTuple6<A, B, C, D, E, F> "({}, {}, {}, {}, {}, {})" { 0, 1, 2, 3, 4, 5 }
    ArchivedTuple7<A, B, C, D, E, F, G> "({}, {}, {}, {}, {}, {}, {})" { 0, 1, 2, 3, 4, 5, 6 }
    ArchivedTuple8<A, B, C, D, E, F, G, H> "({}, {}, {}, {}, {}, {}, {}, {})" {
        0, 1, 2, 3, 4, 5, 6, 7
    }
    ArchivedTuple9<A, B, C, D, E, F, G, H, I> "({}, {}, {}, {}, {}, {}, {}, {}, {})" {
        0, 1, 2, 3, 4, 5, 6, 7, 8
    }
    ArchivedTuple10<A, B, C, D, E, F, G, H, I, J> "({}, {}, {}, {}, {}, {}, {}, {}, {}, {})" {
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9
    }
    ArchivedTuple11<A, B, C, D, E, F, G, H, I, J, K>
        "({}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {})" {
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
    }
    ArchivedTuple12<A, B, C, D, E, F, G, H, I, J, K, L>
        "({}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {})" {
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    }
    ArchivedTuple13<A, B, C, D, E, F, G, H, I, J, K, L, M>
        "({}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {})" {
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
    }
}
