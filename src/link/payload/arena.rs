//! The scratch space of a serialisation.
#![allow(unsafe_code)]

use rkyv::ser::allocator::{Allocator, Arena, ArenaHandle};
use std::alloc::Layout;
use std::fmt;
use std::ptr::NonNull;

/// The scratch space that a value may use while it is serialised. Until the first use it costs
/// nothing: most values need none.
pub struct PostArena<'a> {
    state: State<'a>,
}

enum State<'a> {
    Untouched(&'a mut Arena),
    Used(ArenaHandle<'a>),
    /// Only while the one becomes the other.
    Between,
}

impl<'a> PostArena<'a> {
    #[inline(always)]
    pub(super) fn new(arena: &'a mut Arena) -> PostArena<'a> {
        PostArena { state: State::Untouched(arena) }
    }

    #[inline]
    fn handle(&mut self) -> &mut ArenaHandle<'a> {
        if let State::Untouched(_) = self.state
            && let State::Untouched(arena) = std::mem::replace(&mut self.state, State::Between)
        {
            self.state = State::Used(arena.acquire());
        }
        match &mut self.state {
            State::Used(handle) => handle,
            State::Untouched(_) | State::Between => unreachable!("it was just acquired"),
        }
    }
}

// SAFETY: all memory comes from the one handle, and goes back to it.
unsafe impl<E> Allocator<E> for PostArena<'_> {
    unsafe fn push_alloc(&mut self, layout: Layout) -> Result<NonNull<[u8]>, E> {
        // SAFETY: upheld by the caller.
        unsafe { self.handle().push_alloc(layout) }
    }

    unsafe fn pop_alloc(&mut self, ptr: NonNull<u8>, layout: Layout) -> Result<(), E> {
        // SAFETY: upheld by the caller; what is popped was pushed here.
        unsafe { self.handle().pop_alloc(ptr, layout) }
    }
}

impl fmt::Debug for PostArena<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostArena").finish_non_exhaustive()
    }
}
