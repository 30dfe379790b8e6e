//! The calls of the requests that a responder has lent to the program.

use crate::port::requests::trailer::CallId;
use std::cell::{Cell, RefCell};

/// Usually one at a time, which takes no look into the list.
///
/// A hostile requester may post several requests of one call. Each of them is in here once.
#[derive(Default)]
pub(crate) struct LentCalls {
    /// The state of the first one, and its call. By word: a call that was stored as two words
    /// cannot be loaded at once before those have reached the cache.
    first: Cell<First>,
    sequence: Cell<u64>,
    slot: Cell<u32>,
    /// The others, and whether they were cancelled.
    others: RefCell<Vec<(CallId, bool)>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum First {
    #[default]
    Nothing,
    Lent,
    Cancelled,
}

impl LentCalls {
    pub(crate) fn add(&self, id: CallId) {
        if !self.add_first(id) {
            self.others.borrow_mut().push((id, false));
        }
    }

    /// Adds it if it is the only one. Never panics.
    #[inline(always)]
    pub(crate) fn add_first(&self, id: CallId) -> bool {
        if self.first.get() != First::Nothing {
            return false;
        }
        self.first.set(First::Lent);
        self.sequence.set(id.sequence);
        self.slot.set(id.slot);
        true
    }

    #[inline(always)]
    fn is_first(&self, id: CallId) -> bool {
        self.first.get() != First::Nothing
            && self.sequence.get() == id.sequence
            && self.slot.get() == id.slot
    }

    /// A call was cancelled.
    pub(crate) fn cancel(&self, id: CallId) {
        if self.is_first(id) {
            self.first.set(First::Cancelled);
        }
        for (lent, is_cancelled) in &mut *self.others.borrow_mut() {
            *is_cancelled |= *lent == id;
        }
    }

    #[inline(always)]
    pub(crate) fn is_cancelled(&self, id: CallId) -> bool {
        match self.is_first(id) {
            true => self.first.get() == First::Cancelled,
            false => self.is_other_cancelled(id),
        }
    }

    #[cold]
    fn is_other_cancelled(&self, id: CallId) -> bool {
        self.others.borrow().contains(&(id, true))
    }

    /// A request is no longer lent. Returns whether its call was cancelled.
    #[inline(always)]
    pub(crate) fn remove(&self, id: CallId) -> bool {
        match self.is_first(id) {
            true => self.first.replace(First::Nothing) == First::Cancelled,
            false => self.remove_other(id),
        }
    }

    #[cold]
    fn remove_other(&self, id: CallId) -> bool {
        let mut others = self.others.borrow_mut();
        let place = others.iter().rposition(|(lent, _)| *lent == id);
        place.is_some_and(|place| others.swap_remove(place).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a list. Calls are few, so that some are lent several times, as a hostile
        /// requester can have it.
        #[test]
        fn it_is_a_list_of_calls(ops in proptest::collection::vec((0..4u8, 0..3u64), 1..100)) {
            let (lent, mut list) = (LentCalls::default(), Vec::new());
            for (op, sequence) in ops {
                let id = CallId { sequence, slot: 7 };
                let known = list.iter().filter(|(other, _)| *other == id);
                let flags: Vec<bool> = known.map(|(_, flag)| *flag).collect();
                match op {
                    0 | 1 => {
                        lent.add(id);
                        list.push((id, false));
                    }
                    2 => {
                        lent.cancel(id);
                        for (other, is_cancelled) in &mut list {
                            *is_cancelled |= *other == id;
                        }
                    }
                    _ => {
                        let was_cancelled = lent.remove(id);
                        prop_assert!(flags.contains(&was_cancelled) || flags.is_empty());
                        prop_assert!(!was_cancelled || !flags.is_empty());
                        let place = list.iter().position(|one| *one == (id, was_cancelled));
                        place.map(|place| list.swap_remove(place));
                    }
                }
                let known = list.iter().filter(|(other, _)| *other == id);
                let flags: Vec<bool> = known.map(|(_, flag)| *flag).collect();
                // Where several requests of one call differ, either answer will do.
                let is_cancelled = lent.is_cancelled(id);
                prop_assert!(flags.contains(&is_cancelled) || flags.is_empty() && !is_cancelled);
            }
        }
    }
}
