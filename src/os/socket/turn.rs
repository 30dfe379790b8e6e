//! Turns of the threads that receive descriptors: none uses room that another has counted on.

use std::mem;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// One thread's turn to check for room and to fill it.
///
/// A peer that can delay one thread's receive must not delay the others: after a long wait a thread
/// proceeds without a turn, and risks a packet at the process's limit of descriptors.
pub(super) struct Turn {
    is_ours: bool,
}

struct Queue {
    is_taken: bool,
    waiting: u32,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { is_taken: false, waiting: 0 });
static IS_FREE: Condvar = Condvar::new();

impl Turn {
    pub(super) fn take() -> Turn {
        let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
        queue.waiting += 1;
        let (mut queue, _) = IS_FREE
            .wait_timeout_while(queue, LONGEST_TURN, |queue| queue.is_taken)
            .unwrap_or_else(PoisonError::into_inner);
        queue.waiting -= 1;
        Turn { is_ours: !mem::replace(&mut queue.is_taken, true) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_ours {
            let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
            queue.is_taken = false;
            if queue.waiting > 0 {
                // A system call, always.
                IS_FREE.notify_one();
            }
        }
    }
}

/// How long a thread waits for its turn: some thousand times as long as a turn takes.
const LONGEST_TURN: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::Turn;

    #[test]
    fn a_turn_without_end_delays_no_other() {
        let first = Turn::take();
        let second = Turn::take();
        assert!(!second.is_ours);
        drop(second);
        assert!(!Turn::take().is_ours, "the first one still has it");
        drop(first);
        assert!(Turn::take().is_ours);
    }
}
