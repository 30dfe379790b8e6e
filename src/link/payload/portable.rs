//! Used where nothing is done in assembly: on other processors, and where a checker must see every
//! access.
#![allow(unsafe_code)]

use std::ptr::NonNull;

/// Copies no block.
///
/// # Safety
/// None is needed.
pub(super) unsafe fn copy_out(_from: NonNull<u8>, _to: NonNull<u8>, _count: usize) -> usize {
    0
}

/// Copies no byte.
///
/// # Safety
/// None is needed.
pub(super) unsafe fn copy_in(_from: &[u8], _to: NonNull<u8>) -> usize {
    0
}

/// Rust has no such hint.
pub(in super::super) fn prefetch(_start: NonNull<u8>, _len: usize) {}
