//! Archived types that hold nothing to be walked.
#![allow(unsafe_code)]

use super::shape::{ShapeWriter, shape_is};
use super::{ArchiveCheck, SafeArchive};
use rkyv::ffi::ArchivedCString;
use rkyv::net::{
    ArchivedIpAddr, ArchivedIpv4Addr, ArchivedIpv6Addr, ArchivedSocketAddr, ArchivedSocketAddrV4,
    ArchivedSocketAddrV6,
};
use rkyv::niche::option_nonzero::{
    ArchivedOptionNonZeroI8, ArchivedOptionNonZeroI16, ArchivedOptionNonZeroI32,
    ArchivedOptionNonZeroI64, ArchivedOptionNonZeroI128, ArchivedOptionNonZeroU8,
    ArchivedOptionNonZeroU16, ArchivedOptionNonZeroU32, ArchivedOptionNonZeroU64,
    ArchivedOptionNonZeroU128,
};
use rkyv::ops::ArchivedRangeFull;
use rkyv::rancor::BoxedError;
use rkyv::rend;
use rkyv::string::ArchivedString;
use rkyv::time::ArchivedDuration;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::num::{NonZeroI8, NonZeroU8};

macro_rules! nothing_to_check {
    ($($type:ty),* $(,)?) => { nothing_to_check!(0: $($type),*); };
    ($levels:literal: $($type:ty),* $(,)?) => {$(
        // SAFETY: its functions read only what rkyv's check has checked.
        unsafe impl SafeArchive for $type {
            const CHECKS: bool = false;
            const LEVELS: u32 = $levels;
            const HAS_SHAPE: bool = true;

            #[inline(always)]
            fn check(&self, _: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
                Ok(())
            }

            fn describe(shape: &mut ShapeWriter) {
                shape.container(source_name(stringify!($type)), &[]);
            }
        }
    )*};
}

nothing_to_check!((), bool, char, i8, u8, NonZeroI8, NonZeroU8, str, CStr);

nothing_to_check!(
    rend::i16_le,
    rend::i32_le,
    rend::i64_le,
    rend::i128_le,
    rend::u16_le,
    rend::u32_le,
    rend::u64_le,
    rend::u128_le,
    rend::f32_le,
    rend::f64_le,
    rend::char_le,
    rend::i16_be,
    rend::i32_be,
    rend::i64_be,
    rend::i128_be,
    rend::u16_be,
    rend::u32_be,
    rend::u64_be,
    rend::u128_be,
    rend::f32_be,
    rend::f64_be,
    rend::char_be,
    rend::NonZeroI16_le,
    rend::NonZeroI32_le,
    rend::NonZeroI64_le,
    rend::NonZeroI128_le,
    rend::NonZeroU16_le,
    rend::NonZeroU32_le,
    rend::NonZeroU64_le,
    rend::NonZeroU128_le,
    rend::NonZeroI16_be,
    rend::NonZeroI32_be,
    rend::NonZeroI64_be,
    rend::NonZeroI128_be,
    rend::NonZeroU16_be,
    rend::NonZeroU32_be,
    rend::NonZeroU64_be,
    rend::NonZeroU128_be,
);

nothing_to_check!(
    rend::unaligned::i16_ule,
    rend::unaligned::i32_ule,
    rend::unaligned::i64_ule,
    rend::unaligned::i128_ule,
    rend::unaligned::u16_ule,
    rend::unaligned::u32_ule,
    rend::unaligned::u64_ule,
    rend::unaligned::u128_ule,
    rend::unaligned::f32_ule,
    rend::unaligned::f64_ule,
    rend::unaligned::char_ule,
    rend::unaligned::i16_ube,
    rend::unaligned::i32_ube,
    rend::unaligned::i64_ube,
    rend::unaligned::i128_ube,
    rend::unaligned::u16_ube,
    rend::unaligned::u32_ube,
    rend::unaligned::u64_ube,
    rend::unaligned::u128_ube,
    rend::unaligned::f32_ube,
    rend::unaligned::f64_ube,
    rend::unaligned::char_ube,
    rend::unaligned::NonZeroI16_ule,
    rend::unaligned::NonZeroI32_ule,
    rend::unaligned::NonZeroI64_ule,
    rend::unaligned::NonZeroI128_ule,
    rend::unaligned::NonZeroU16_ule,
    rend::unaligned::NonZeroU32_ule,
    rend::unaligned::NonZeroU64_ule,
    rend::unaligned::NonZeroU128_ule,
    rend::unaligned::NonZeroI16_ube,
    rend::unaligned::NonZeroI32_ube,
    rend::unaligned::NonZeroI64_ube,
    rend::unaligned::NonZeroI128_ube,
    rend::unaligned::NonZeroU16_ube,
    rend::unaligned::NonZeroU32_ube,
    rend::unaligned::NonZeroU64_ube,
    rend::unaligned::NonZeroU128_ube,
);

// Their bytes are elsewhere.
nothing_to_check!(1: ArchivedString, ArchivedCString);

nothing_to_check!(
    ArchivedDuration,
    ArchivedIpAddr,
    ArchivedIpv4Addr,
    ArchivedIpv6Addr,
    ArchivedSocketAddr,
    ArchivedSocketAddrV4,
    ArchivedSocketAddrV6,
    ArchivedRangeFull,
    ArchivedOptionNonZeroI8,
    ArchivedOptionNonZeroI16,
    ArchivedOptionNonZeroI32,
    ArchivedOptionNonZeroI64,
    ArchivedOptionNonZeroI128,
    ArchivedOptionNonZeroU8,
    ArchivedOptionNonZeroU16,
    ArchivedOptionNonZeroU32,
    ArchivedOptionNonZeroU64,
    ArchivedOptionNonZeroU128,
);

// SAFETY: there is nothing in it.
unsafe impl<T: ?Sized> SafeArchive for PhantomData<T> {
    const CHECKS: bool = false;
    const LEVELS: u32 = 0;

    shape_is!("PhantomData");

    #[inline(always)]
    fn check(&self, _: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        Ok(())
    }
}

/// What a program calls the type that is archived as `archived`: `u32` for `rend::u32_le`.
fn source_name(archived: &'static str) -> &'static str {
    // Without paths and spaces: how they are printed is the compiler's choice.
    let name = archived.rsplit(':').next().unwrap_or(archived).trim();
    let name = name.strip_prefix("Archived").unwrap_or(name);
    name.strip_suffix("_le").unwrap_or(name)
}
